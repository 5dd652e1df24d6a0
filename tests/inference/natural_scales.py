"""Twenty regressions on natural scales: years, days, dollars, grams, farads, as people write them down.

Nothing is centred or scaled. Each has its model, its data, drawn once by NumPy from the parameters beside it, in
float32 as tensors are by default, and those parameters, near which the posterior lies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["REGRESSIONS", "Regression"]


class Regression(NamedTuple):
    """A model, what it is called with, and parameters by name that its posterior is near to."""

    model: Callable[..., Any]
    data: tuple[Tensor, ...]
    near: dict[str, Any]


REGRESSIONS: dict[str, Regression] = {}


def _register(near: dict[str, Any], *data: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(model: Callable[..., Any]) -> Callable[..., Any]:
        tensors = tuple(torch.as_tensor(np.asarray(d), dtype=torch.float32) for d in data)
        REGRESSIONS[model.__name__] = Regression(model, tensors, near)
        return model

    return register


def _line(slope_scale: float, level_scale: float) -> tuple[Tensor, Tensor]:
    a = pyro.sample("a", dist.Normal(0.0, level_scale))
    return a, pyro.sample("b", dist.Normal(0.0, slope_scale))


rng = np.random.default_rng(13)

# The posterior means of this one are known from a grid: .469 and .067.
DOSES = np.arange(10.0, 31.0, 5.0)


@_register({"a": 0.5, "b": 0.07}, DOSES, [3, 5, 6, 9, 12])
def poisson_doses(u: Tensor, y: Tensor) -> None:
    a, b = _line(5.0, 5.0)
    with pyro.plate("data", len(u)):
        pyro.sample("y", dist.Poisson((a + b * u).exp()), obs=y)


YEARS = np.arange(1990.0, 2020.0)


@_register({"a": -60.0, "b": 0.031}, YEARS, rng.poisson(np.exp(-60.0 + 0.031 * YEARS)))
def poisson_years(year: Tensor, storms: Tensor) -> None:
    a, b = _line(1.0, 100.0)
    with pyro.plate("data", len(year)):
        pyro.sample("y", dist.Poisson((a + b * year).exp()), obs=storms)


LENGTHS = rng.uniform(20.0, 300.0, 40)  # metres


@_register(
    {"a": 0.5, "b": 0.01, "size": 4.0},
    LENGTHS,
    rng.poisson(rng.gamma(4.0, np.exp(0.5 + 0.01 * LENGTHS) / 4.0)),
)
def negative_binomial_metres(length: Tensor, trees: Tensor) -> None:
    a, b = _line(1.0, 10.0)
    size = pyro.sample("size", dist.Gamma(2.0, 0.1))
    with pyro.plate("data", len(length)):
        pyro.sample("y", dist.NegativeBinomial(size, logits=a + b * length - size.log()), obs=trees)


@_register({"shape": 2.5, "scale": 140.0}, [55, 68, 92, 101, 117, 124, 140, 163, 178, 210])
def weibull_days(days: Tensor) -> None:
    shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 5.0))
    with pyro.plate("data", len(days)):
        pyro.sample("y", dist.Weibull(scale, shape), obs=days)


AGES = rng.uniform(40.0, 85.0, 50)


@_register({"a": 9.0, "b": -0.05, "shape": 1.5}, AGES, np.exp(9.0 - 0.05 * AGES) * rng.weibull(1.5, 50))
def weibull_ages(age: Tensor, days: Tensor) -> None:
    a, b = _line(1.0, 10.0)
    shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(age)):
        pyro.sample("y", dist.Weibull((a + b * age).exp(), shape), obs=days)


AREAS = rng.uniform(30.0, 200.0, 50)  # square metres


@_register({"a": 11.0, "b": 0.01, "shape": 20.0}, AREAS, rng.gamma(20.0, np.exp(11.0 + 0.01 * AREAS) / 20.0))
def gamma_dollars(area: Tensor, price: Tensor) -> None:
    a, b = _line(1.0, 20.0)
    shape = pyro.sample("shape", dist.Gamma(1.0, 0.01))
    with pyro.plate("data", len(area)):
        pyro.sample("y", dist.Gamma(shape, shape / (a + b * area).exp()), obs=price)


DEGREES = rng.uniform(5.0, 38.0, 40)
SHARES = 1 / (1 + np.exp(3.0 - 0.15 * DEGREES))


@_register({"a": -3.0, "b": 0.15, "size": 15.0}, DEGREES, rng.beta(15.0 * SHARES, 15.0 * (1 - SHARES)))
def beta_degrees(degrees: Tensor, share: Tensor) -> None:
    a, b = _line(1.0, 10.0)
    size = pyro.sample("size", dist.Gamma(1.0, 0.05))
    mean = (a + b * degrees).sigmoid()
    with pyro.plate("data", len(degrees)):
        pyro.sample("y", dist.Beta(mean * size, (1 - mean) * size), obs=share)


INCOMES = rng.uniform(8.0, 130.0, 80)  # thousands
CUTS = np.array([1.0, 3.0, 5.0])


@_register(
    {"b": 0.05, "cuts": CUTS},
    INCOMES,
    (0.05 * INCOMES + rng.logistic(size=80))[:, None].__gt__(CUTS).sum(1),
)
def ordinal_incomes(income: Tensor, level: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    law = dist.Normal(0.0, 3.0).expand([3]).to_event(1)
    cuts = pyro.sample("cuts", dist.TransformedDistribution(law, dist.transforms.OrderedTransform()))
    above = (b * income.unsqueeze(-1) - cuts).sigmoid()
    ends = above.new_ones(len(income), 1), above, above.new_zeros(len(income), 1)
    shares = torch.cat(ends, -1)
    with pyro.plate("data", len(income)):
        pyro.sample("y", dist.Categorical(shares[:, :-1] - shares[:, 1:]), obs=level)


HOUSES = 3e4 + 2500.0 * AREAS + 2e4 * rng.standard_t(4, 50)
HOUSES[[3, 17]] = 9e5, 1.2e6


@_register({"a": 3e4, "b": 2500.0, "scale": 2e4}, AREAS, HOUSES)
def robust_dollars(area: Tensor, price: Tensor) -> None:
    a, b = _line(1e4, 1e6)
    scale = pyro.sample("scale", dist.HalfCauchy(1e5))
    with pyro.plate("data", len(area)):
        pyro.sample("y", dist.StudentT(4.0, a + b * area, scale), obs=price)


CALENDAR = np.arange(1951.0, 2021.0)


@_register({"a": -26.0, "b": 0.02, "scale": 0.15}, CALENDAR, -26.0 + 0.02 * CALENDAR + rng.normal(0, 0.15, 70))
def normal_years(year: Tensor, degrees: Tensor) -> None:
    a, b = _line(1.0, 100.0)
    scale = pyro.sample("scale", dist.HalfNormal(5.0))
    with pyro.plate("data", len(year)):
        pyro.sample("y", dist.Normal(a + b * year, scale), obs=degrees)


SERVICE = rng.uniform(0.0, 35.0, 40)


@_register({"a": 4e4, "b": 1500.0, "scale": 9e3}, SERVICE, 4e4 + 1500.0 * SERVICE + rng.normal(0, 9e3, 40))
def normal_dollars(years: Tensor, salary: Tensor) -> None:
    a, b = _line(1e4, 1e5)
    scale = pyro.sample("scale", dist.HalfCauchy(1e4))
    with pyro.plate("data", len(years)):
        pyro.sample("y", dist.Normal(a + b * years, scale), obs=salary)


WEEKS = rng.uniform(34.0, 42.0, 40)


@_register({"a": -3000.0, "b": 165.0, "scale": 400.0}, WEEKS, -3000.0 + 165.0 * WEEKS + rng.normal(0, 400.0, 40))
def normal_grams(weeks: Tensor, grams: Tensor) -> None:
    a, b = _line(1e3, 1e4)
    scale = pyro.sample("scale", dist.Exponential(1e-3))
    with pyro.plate("data", len(weeks)):
        pyro.sample("y", dist.Normal(a + b * weeks, scale), obs=grams)


REGIONS = np.repeat(np.arange(8), 12)
LEVELS = 5e4 + 6e3 * rng.normal(size=8)


@_register(
    {"mean": 5e4, "spread": 6e3, "scale": 8e3, "level": LEVELS},
    REGIONS,
    LEVELS[REGIONS] + rng.normal(0, 8e3, 96),
)
def hierarchical_dollars(region: Tensor, salary: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1e5))
    spread = pyro.sample("spread", dist.HalfNormal(2e4))
    scale = pyro.sample("scale", dist.HalfNormal(2e4))
    with pyro.plate("region", 8):
        level = pyro.sample("level", dist.Normal(mean, spread))
    with pyro.plate("data", len(region)):
        pyro.sample("y", dist.Normal(level[region.long()], scale), obs=salary)


EFFECTS = 0.4 * rng.normal(size=6)
CLINICS = np.repeat(np.arange(6), 10)
PATIENTS = rng.uniform(20.0, 80.0, 60)


@_register(
    {"a": 0.5, "b": 0.03, "spread": 0.4, "effect": EFFECTS / 0.4},
    CLINICS,
    PATIENTS,
    rng.poisson(np.exp(0.5 + 0.03 * PATIENTS + EFFECTS[CLINICS])),
)
def hierarchical_counts(clinic: Tensor, age: Tensor, visits: Tensor) -> None:
    a, b = _line(1.0, 5.0)
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("clinic", 6):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(age)):
        pyro.sample("y", dist.Poisson((a + b * age + spread * effect[clinic.long()]).exp()), obs=visits)


MILLIGRAMS = rng.uniform(50.0, 1000.0, 60)


@_register({"a": -3.0, "b": 0.007}, MILLIGRAMS, rng.random(60) < 1 / (1 + np.exp(3.0 - 0.007 * MILLIGRAMS)))
def logistic_milligrams(dose: Tensor, cured: Tensor) -> None:
    a, b = _line(1.0, 10.0)
    with pyro.plate("data", len(dose)):
        pyro.sample("y", dist.Bernoulli(logits=a + b * dose), obs=cured)


KELVIN = np.linspace(278.0, 312.0, 18)


@_register({"a": -60.0, "b": 0.2}, KELVIN, rng.binomial(20, 1 / (1 + np.exp(60.0 - 0.2 * KELVIN))))
def binomial_kelvin(kelvin: Tensor, hatched: Tensor) -> None:
    a, b = _line(1.0, 200.0)
    with pyro.plate("data", len(kelvin)):
        pyro.sample("y", dist.Binomial(20, (a + b * kelvin).sigmoid()), obs=hatched)


LOADS = rng.uniform(100.0, 900.0, 40)  # newtons


@_register({"a": 10.0, "b": -0.004}, LOADS, np.exp(10.0 - 0.004 * LOADS) * rng.exponential(size=40))
def exponential_hours(load: Tensor, hours: Tensor) -> None:
    a, b = _line(1.0, 20.0)
    with pyro.plate("data", len(load)):
        pyro.sample("y", dist.Exponential((-(a + b * load)).exp()), obs=hours)


ALTITUDES = rng.uniform(0.0, 3000.0, 40)  # metres


@_register(
    {"a": 6.0, "b": 0.0005, "scale": 0.3},
    ALTITUDES,
    np.exp(6.0 + 0.0005 * ALTITUDES + rng.normal(0, 0.3, 40)),
)
def lognormal_metres(altitude: Tensor, rain: Tensor) -> None:
    a, b = _line(1.0, 10.0)
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("data", len(altitude)):
        pyro.sample("y", dist.LogNormal(a + b * altitude, scale), obs=rain)


@_register({"mean": 2e12, "scale": 7e11}, 2e12 + 7e11 * rng.normal(size=12))
def normal_output(dollars: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1e13))
    scale = pyro.sample("scale", dist.HalfNormal(1e12))
    with pyro.plate("data", len(dollars)):
        pyro.sample("y", dist.Normal(mean, scale), obs=dollars)


VOLTS = np.linspace(0.0, 20.0, 25)


@_register({"a": 5e-12, "b": 2e-13, "scale": 4e-13}, VOLTS, 5e-12 + 2e-13 * VOLTS + 4e-13 * rng.normal(size=25))
def normal_farads(volts: Tensor, farads: Tensor) -> None:
    a, b = _line(1e-12, 1e-11)
    scale = pyro.sample("scale", dist.HalfNormal(1e-12))
    with pyro.plate("data", len(volts)):
        pyro.sample("y", dist.Normal(a + b * volts, scale), obs=farads)
