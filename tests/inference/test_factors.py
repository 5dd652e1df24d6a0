"""What a factor takes away: every verb that does not serve a program with one says so, and what does."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, stats
from torch import Tensor

import pyro_gen as pg

Y = torch.tensor([0.5, -1.0, 2.0, 0.3])


class Tilted(pg.Program):
    """A standard normal base weighed by exp(3 y): normal with mean 3, which the model itself does not draw."""

    event_shape = torch.Size([])

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def model(self, y: Tensor) -> Tensor:
        with self.plate(y):
            y = pg.observe("y", dist.Normal(0.0, self.scale).expand(y.shape), y)
            pyro.factor("t", 3 * y)
            return y


class Energy(Tilted):
    """An energy with a global latent variable: the constant of p(y | w) depends on w."""

    def model(self, y: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(y):
            y = pg.observe("y", dist.Normal(0.0, self.scale).expand(y.shape), y)
            pyro.factor("t", w * y)
            return y


def holes() -> Tensor:
    y = Y.clone()
    y[1] = torch.nan
    return y


VERBS: dict[str, Callable[[pg.Program], object]] = {
    "sample": lambda p: pg.sample(p, 5),
    "impute": lambda p: pg.impute(p, holes(), draws=2),
    "reconstruct": lambda p: pg.reconstruct(p, Y),
    "sbc": lambda p: pg.sbc(p, (4,), simulations=4),
    "bdmc": lambda p: pg.bdmc(p, 4),
    "log_likelihood": lambda p: pg.log_likelihood(p, Y),
    "fit": lambda p: pg.fit(p, Y, epochs=1, progress=False),
}


@pytest.mark.parametrize(
    ("program", "verb"),
    [*((Energy, verb) for verb in VERBS), *((Tilted, v) for v in ("reconstruct", "sbc", "bdmc", "fit"))],
)
def test_verbs_that_do_not_serve_a_factor_of_the_data_refuse(program: type[pg.Program], verb: str) -> None:
    with pytest.raises(ValueError, match=r"factor.*(pg\.distributions\.Censored|pg\.posterior)"):
        VERBS[verb](program())


@pytest.mark.parametrize("verb", ["sample", "impute", "log_likelihood"])
def test_verbs_that_serve_an_energy_of_the_data(verb: str) -> None:
    VERBS[verb](Tilted())  # against what is known: tests/inference/test_unnormalised.py


class Shrunk(pg.Program):
    """A prior known up to a constant: N(0, 1) times exp(-w^2 / 2) is N(0, 1/2)."""

    event_shape = torch.Size([])

    def model(self, y: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("shrink", -0.5 * w**2)
        with self.plate(y):
            return pg.observe("y", dist.Normal(w, 1.0), y)

    def guide(self, y: Tensor) -> None:  # the posterior itself
        seen = ~y.isnan()
        pyro.sample("w", dist.Normal(y.nan_to_num().sum() / (2 + seen.sum()), (1 / (2 + seen.sum())) ** 0.5))


def test_a_factor_of_the_prior_leaves_what_is_conditional_on_global_variables() -> None:
    filled = pg.impute(Shrunk(), holes(), draws=2000)[:, 1]
    # The guide is the posterior given the three that are seen, N(sum / 5, 1 / 5): it must be shown all of them.
    mean, variance = float(holes().nansum()) / 5, 1 + 1 / 5
    assert abs(float(filled.mean()) - mean) < 4.5 * math.sqrt(variance / 2000)  # false alarms: 7e-6
    assert pg.sample(Shrunk(), 3).isfinite().all()
    for verb in ("sbc", "bdmc"):  # these draw w from what the model writes, N(0, 1)
        with pytest.raises(ValueError, match="the factor 'shrink'"):
            VERBS[verb](Shrunk())


def truncated(y: Tensor) -> None:
    """Normal above 1, its constant written by a factor."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pg.plate(y):
        pyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape), obs=y)
        pyro.factor("above", -torch.log(0.5 * torch.erfc((1 - mu) / math.sqrt(2))).expand(y.shape))


def test_evidence_of_a_normalised_factor_beside_an_observed_site() -> None:
    y = torch.tensor([1.5, 2.5])

    def joint(mu: float) -> float:
        return float(stats.norm.pdf(mu) * (stats.norm.pdf(y.numpy(), mu) / stats.norm.sf(1, mu)).prod())

    exact = math.log(integrate.quad(joint, -8, 8)[0])
    found = pg.log_evidence(truncated, y)
    assert abs(found.mean() - exact) < 5 * found.mean_standard_error() + 1e-3
    without = math.log(integrate.quad(lambda mu: joint(mu) * stats.norm.sf(1, mu) ** 2, -8, 8)[0])
    assert abs(without - exact) > 0.5  # the twin: the factor left out


def uniform_base(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pg.plate(y):
        pyro.sample("y", dist.Uniform(-5.0, 5.0).expand(y.shape), obs=y)  # flat: no gradient tells that it scores y
        pyro.factor("energy", -w * y.square())


def masked_energy(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pg.plate(y):
        pyro.sample("y", dist.Normal(0.0, 1.0).expand(y.shape).mask(y > 0), obs=y)
        with pyro.poutine.mask(mask=y > 1):
            pyro.factor("energy", -w * y.square())


@pytest.mark.parametrize("model", [Energy(), uniform_base, masked_energy, Shrunk()])
def test_the_evidence_of_an_energy_or_of_a_prior_without_its_constant_is_refused(model: object) -> None:
    with pytest.raises(ValueError, match="no likelihood of data which no observed site scores"):
        pg.log_evidence(model, Y)


def test_the_posterior_keeps_its_factors() -> None:
    draws = pg.posterior(Shrunk(), Y, chains=64, draws=50, progress=False).posterior["w"]
    exact, sd = float(Y.sum()) / 6, math.sqrt(1 / 6)
    assert abs(float(draws.mean()) - exact) < 5 * sd / math.sqrt(640)  # an ESS of 640 of 3200 draws: 6e-7
    assert abs(float(draws.std()) - sd) < 0.07 * sd < abs(math.sqrt(1 / 5) - sd)  # 5 standard errors


def test_an_objective_says_which_kinds_it_serves() -> None:
    class Plain(pg.inference.Objective):
        anneals = False

        def loss(self, program: pg.Program, x: Tensor, *context: object, kl_weight: object = 1.0) -> Tensor:
            return next(program.parameters()).square().sum()

    class Contrast(Plain):
        kinds = ("unnormalised",)

    with pytest.raises(ValueError, match="Tilted is unnormalised"):
        pg.fit(Tilted(), Y, objective=Plain(), epochs=1, progress=False)
    assert pg.fit(Tilted(), Y, objective=Contrast(), epochs=1, progress=False).steps == 1

    def bound(y: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pg.plate(y):
            return pg.observe("y", dist.Normal(w, 1.0), y)

    with pytest.raises(ValueError, match=r"is bound \(latent variables\), and Contrast is right for"):
        pg.fit(pg.Program.from_functions(bound, AutoNormal), Y, objective=Contrast(), epochs=1, progress=False)
