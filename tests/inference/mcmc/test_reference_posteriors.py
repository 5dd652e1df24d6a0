"""Ten posteriors against the reference draws of posteriordb, and their densities against formulas in NumPy."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_gen.density import density
from pyro_gen.inference.mcmc import run

REFERENCE = Path(__file__).resolve().parents[2] / "reference"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load(REFERENCE / "models.py")
POSTERIORS = reference.POSTERIORS


# ----------------------------------------------------------------------------------------------------------------------
# The densities, by loops and scipy.stats, from the words in the files. Each gives the log-density of the constrained
# parameters and log|det dT/du| of Stan's maps (exp, logit, stick-breaking, ordered), as functions of the former.


def _normal(y: np.ndarray, loc: np.ndarray | float, scale: np.ndarray | float) -> float:
    return float(stats.norm(loc, scale).logpdf(y).sum())


def _logit_jacobian(x: float, upper: float = 1.0) -> float:
    return math.log(x) + math.log(upper - x) - math.log(upper)


def _eight_schools(d: dict, p: dict) -> float:
    total = _normal(p["mu"], 0, 5) + stats.halfcauchy(0, 5).logpdf(p["tau"]) + math.log(p["tau"])
    for y, s, t in zip(d["y"], d["sigma"], p["theta_trans"], strict=True):
        total += _normal(t, 0, 1) + _normal(y, p["mu"] + p["tau"] * t, s)
    return total


def _regression(x: list[np.ndarray], y: np.ndarray, p: dict) -> float:
    total = math.log(p["sigma"])
    for row, value in zip(np.stack(x, 1), y, strict=True):
        total += _normal(value, sum(b * v for b, v in zip(p["beta"], row, strict=True)), p["sigma"])
    return total


def _kidiq(d: dict, p: dict) -> float:
    x = [np.ones(d["N"]), np.array(d["mom_iq"])]
    return _regression(x, d["kid_score"], p) + stats.halfcauchy(0, 2.5).logpdf(p["sigma"])


def _mesquite(d: dict, p: dict) -> float:
    logs = [np.log(d[key]) for key in ("diam1", "diam2", "canopy_height", "total_height", "density")]
    return _regression([np.ones(d["N"]), *logs, np.array(d["group"])], np.log(d["weight"]), p)


def _nes(d: dict, p: dict) -> float:
    age = np.array(d["age_discrete"])
    x = [d["real_ideo"], d["race_adj"], age == 2, age == 3, age == 4, d["educ1"], d["gender"], d["income"]]
    return _regression([np.ones(d["N"]), *(np.array(c, dtype=float) for c in x)], d["partyid7"], p)


def _blr(d: dict, p: dict) -> float:
    prior = _normal(p["beta"], 0, 10) + stats.halfnorm(0, 10).logpdf(p["sigma"])
    return _regression(list(np.array(d["X"]).T), d["y"], p) + prior


def _ark(d: dict, p: dict) -> float:
    y, total = d["y"], _normal(p["alpha"], 0, 10) + _normal(p["beta"], 0, 10)
    total += stats.halfcauchy(0, 2.5).logpdf(p["sigma"]) + math.log(p["sigma"])
    for t in range(d["K"], d["T"]):
        loc = p["alpha"] + sum(p["beta"][k] * y[t - 1 - k] for k in range(d["K"]))
        total += _normal(y[t], loc, p["sigma"])
    return total


def _garch(d: dict, p: dict) -> float:
    y, scale = d["y"], d["sigma1"]
    total = math.log(p["alpha0"]) + _logit_jacobian(p["alpha1"]) + _logit_jacobian(p["beta1"], 1 - p["alpha1"])
    for t in range(d["T"]):
        if t:
            scale = math.sqrt(p["alpha0"] + p["alpha1"] * (y[t - 1] - p["mu"]) ** 2 + p["beta1"] * scale**2)
        total += _normal(y[t], p["mu"], scale)
    return total


def _gp(d: dict, p: dict) -> float:
    x = np.array(d["x"], dtype=float)
    kernel = p["alpha"] ** 2 * np.exp(-((x[:, None] - x) ** 2) / (2 * p["rho"] ** 2)) + p["sigma"] * np.eye(len(x))
    prior = stats.gamma(25, scale=1 / 4).logpdf(p["rho"])
    prior += stats.halfnorm(0, 2).logpdf(p["alpha"]) + stats.halfnorm(0, 1).logpdf(p["sigma"])
    jacobian = math.log(p["rho"]) + math.log(p["alpha"]) + math.log(p["sigma"])
    return stats.multivariate_normal(np.zeros(len(x)), kernel).logpdf(d["y"]) + prior + jacobian


def _hmm(d: dict, p: dict) -> float:
    theta, mu = np.stack([p["theta1"], p["theta2"]]), p["mu"]
    log_alpha = stats.norm(mu, 1).logpdf(d["y"][0])
    for y in d["y"][1:]:
        log_alpha = np.logaddexp.reduce(log_alpha[:, None] + np.log(theta), 0) + stats.norm(mu, 1).logpdf(y)
    jacobian = np.log(theta).sum() + math.log(mu[0]) + math.log(mu[1] - mu[0])
    return np.logaddexp.reduce(log_alpha) + _normal(mu, np.array([3, 10]), 1) + jacobian


def _mixture(d: dict, p: dict) -> float:
    mu, sigma, theta = p["mu"], p["sigma"], p["theta"]
    total = _normal(mu, 0, 2) + stats.halfnorm(0, 2).logpdf(sigma).sum() + stats.beta(5, 5).logpdf(theta)
    total += math.log(mu[1] - mu[0]) + np.log(sigma).sum() + _logit_jacobian(theta)
    first = math.log(theta) + stats.norm(mu[0], sigma[0]).logpdf(d["y"])
    second = math.log(1 - theta) + stats.norm(mu[1], sigma[1]).logpdf(d["y"])
    return total + np.logaddexp(first, second).sum()


FORMULAS: dict[str, Callable[[dict, dict], float]] = {
    "arK": _ark,
    "eight_schools": _eight_schools,
    "garch": _garch,
    "gp_regr": _gp,
    "hmm": _hmm,
    "kidiq": _kidiq,
    "gauss_mix": _mixture,
    "mesquite": _mesquite,
    "nes1992": _nes,
    "blr": _blr,
}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)  # torch's half-normal and half-Cauchy cast values to their scale's dtype
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", POSTERIORS)
def test_density_is_the_formula_up_to_a_constant(name: str) -> None:
    posterior = POSTERIORS[name]
    target = density(posterior.model, *posterior.data(torch.float64))
    z = torch.randn(3, target.dim, dtype=torch.float64)
    sites = {site: value.numpy() for site, value in target.constrain(z).items()}
    data = posterior._read("data")
    exact = [FORMULAS[name](data, {site: value[c] for site, value in sites.items()}) for c in range(3)]
    ours = target.log_density(z).detach().numpy()
    np.testing.assert_allclose(ours - ours[0], np.array(exact) - exact[0], rtol=1e-10, atol=1e-8)


# ----------------------------------------------------------------------------------------------------------------------
# The draws


def z_scores(posterior: object, draws: dict[str, np.ndarray]) -> dict[str, float]:
    """How far the means and mean squares of our draws, each (chain, draw), are from the reference, in standard errors.

    Fails where the draws are too few for the comparison to mean anything.
    """
    scores = {}
    for name, known in posterior.reference().items():
        x = draws[name].astype(np.float64)
        assert az.ess(x) >= 400, f"{name}: {az.ess(x):.0f} effective draws"
        error = az.mcse(x)
        assert error < 0.05 * known["sd"], f"{name}: Monte Carlo error {error / known['sd']:.3f} sd"
        scores[name] = (x.mean() - known["mean"]) / math.hypot(error, known["mcse_mean"])
        square = x**2
        reference_error = square.std() / math.sqrt(10_000)  # of 10,000 independent draws
        scores[f"{name}^2"] = (square.mean() - known["mean_square"]) / math.hypot(az.mcse(square), reference_error)
    return scores


def draws_of(posterior: object, model: Callable[..., None], method: str, chains: int, **options: int) -> dict:
    target = density(model, *posterior.data())
    values = run(target, method, chains=chains, seed=1, **options).values
    return {name: x.T.numpy() for name, x in posterior.named(values).items()}


def worst(scores: dict[str, float]) -> str:
    name = max(scores, key=lambda n: abs(scores[n]))
    return f"{name}: z = {scores[name]:.2f}"


# |z| < 5 for 2 x 62 moments of the ten posteriors: at 6e-7 each, a correct sampler fails one of them for 7e-5 of seeds.
QUICK = [
    ("hmc", "eight_schools"),
    ("hmc", "arK"),
    ("hmc", "garch"),
    ("hmc", "gp_regr"),
    ("hmc", "kidiq"),
    ("hmc", "blr"),
    ("nuts", "eight_schools"),
    ("nuts", "mesquite"),
]


@pytest.mark.parametrize(("method", "name"), QUICK)
def test_moments(method: str, name: str) -> None:
    posterior = POSTERIORS[name]
    scores = z_scores(posterior, draws_of(posterior, posterior.model, method, 64, warmup=300, draws=100))
    assert max(map(abs, scores.values())) < 5, worst(scores)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hmc", "nuts"])
@pytest.mark.parametrize("name", POSTERIORS)
def test_moments_with_more_draws(method: str, name: str) -> None:
    posterior = POSTERIORS[name]
    scores = z_scores(posterior, draws_of(posterior, posterior.model, method, 128, warmup=500, draws=500))
    assert max(map(abs, scores.values())) < 5, worst(scores)


def test_a_dropped_jacobian_is_noticed() -> None:
    posterior = POSTERIORS["gp_regr"]

    def without_jacobian(x: Tensor, y: Tensor) -> None:
        trace = pyro.poutine.trace(posterior.model)
        trace(x, y)
        for name in ("rho", "alpha", "sigma"):
            pyro.factor(f"planted_{name}", -trace.trace.nodes[name]["value"].log())  # takes log|d value / du| away

    draws = draws_of(posterior, without_jacobian, "hmc", 64, warmup=300, draws=100)
    assert max(map(abs, z_scores(posterior, draws).values())) > 5
