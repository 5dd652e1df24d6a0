"""Censored observations against SciPy's distribution functions, survival likelihoods and sums."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions import Censored
from pyro_gen.heads import CensoredHead

INF, NAN = math.inf, math.nan


def number(v: float) -> Tensor:
    return torch.tensor(v, dtype=torch.float64)


LAWS = {
    "normal": (lambda: dist.Normal(number(1.0), number(2.0)), stats.norm(1, 2)),
    "weibull": (lambda: dist.Weibull(number(2.0), number(1.5)), stats.weibull_min(1.5, scale=2)),
    "lognormal": (
        lambda: dist.LogNormal(number(0.3), number(0.7)),
        stats.lognorm(0.7, scale=math.exp(0.3)),
    ),
    "gamma": (lambda: dist.Gamma(number(2.0), number(0.5)), stats.gamma(2, scale=2)),
    "exponential": (lambda: dist.Exponential(number(0.3)), stats.expon(scale=1 / 0.3)),
    "logistic": (lambda: dist.Logistic(number(0.3), number(2.0)), stats.logistic(0.3, 2)),
    "laplace": (lambda: dist.Laplace(number(0.0), number(1.0)), stats.laplace()),
    "gumbel": (lambda: dist.Gumbel(number(0.0), number(1.0)), stats.gumbel_r()),
    "uniform": (lambda: dist.Uniform(number(0.0), number(10.0)), stats.uniform(0, 10)),
    "poisson": (lambda: dist.Poisson(number(3.0)), stats.poisson(3)),
    "negative binomial": (
        lambda: dist.NegativeBinomial(number(3.0), probs=number(0.6)),
        stats.nbinom(3, 0.4),
    ),
    "binomial": (lambda: dist.Binomial(8, number(0.4)), stats.binom(8, 0.4)),
}


@pytest.mark.parametrize("law", LAWS)
def test_each_part_is_the_probability_of_what_was_seen(law: str) -> None:
    create, known = LAWS[law]
    base = create()
    counts = base.support.is_discrete
    # At the lower limit, seen, at the upper limit, in an interval, in one without a lower and without an upper end.
    value = torch.tensor([1.0, 2.0, 4.0, 7.0, 3.0, 6.0]).double()
    d = Censored(
        base,
        low=torch.tensor([1.0, *[-INF] * 5]),
        high=torch.tensor([INF, INF, 4.0, INF, INF, INF]),
        interval=(torch.tensor([NAN, NAN, NAN, 5.0, -INF, 6.0]), torch.tensor([NAN, NAN, NAN, 7.0, 3.0, INF])),
    )
    density = known.pmf if counts else known.pdf
    exact = [known.cdf(1), density(2), known.sf(4 - counts), known.cdf(7) - known.cdf(5), known.cdf(3), known.sf(6)]
    torch.testing.assert_close(d.log_prob(value).double(), torch.tensor(np.log(exact)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("law", ["normal", "weibull", "gamma", "poisson"])
def test_what_is_seen_sums_to_one_and_is_drawn_so(law: str) -> None:
    base = LAWS[law][0]()
    d = Censored(base, low=1.0, high=4.0, interval=(torch.tensor(2.0), torch.tensor(3.0)))
    atoms = torch.tensor([1.0, 3.0, 4.0]).double()
    mass = d.log_prob(atoms).exp()
    if base.support.is_discrete:
        rest = 0.0  # 2 is no value of (2, 3] but counts as inside: the interval's mass is that of 3
        rest += float(base.log_prob(torch.tensor(2.0)).exp())
    else:
        grid = [
            integrate.quad(lambda v: float(d.log_prob(number(v)).exp()), *ends) for ends in ((1.0, 2.0), (3.0, 4.0))
        ]
        rest = sum(value for value, _ in grid)
    assert abs(float(mass.sum()) + rest - 1) < 1e-4
    draws = d.sample((20_000,))
    shares = torch.stack([(draws == a).float().mean() for a in atoms])
    error = (mass * (1 - mass) / 20_000).sqrt()
    assert bool(((shares - mass).abs() < 4.5 * error).all())  # false alarms: 3 x 7e-6
    assert not bool(((shares - base.log_prob(atoms).exp()).abs() < 4.5 * error).all())  # the twin: densities, no masses


@pytest.mark.parametrize("law", ["normal", "weibull", "gamma", "lognormal", "poisson"])
def test_gradients_are_those_of_differences(law: str) -> None:
    family = type(LAWS[law][0]())
    start = {
        "normal": (1.0, 2.0), "weibull": (2.0, 1.5), "gamma": (2.0, 0.5), "lognormal": (0.3, 0.7), "poisson": (3.0,),
    }[law]  # fmt: skip
    value = torch.tensor([1.0, 2.0, 4.0, 7.0]).double()

    def total(parameters: Tensor) -> Tensor:
        d = Censored(
            family(*parameters.unbind()),
            low=torch.tensor([1.0, -INF, -INF, -INF]),
            high=torch.tensor([INF, INF, 4.0, INF]),
            interval=(torch.tensor([NAN, NAN, NAN, 5.0]), torch.tensor([NAN, NAN, NAN, 7.0])),
        )
        return d.log_prob(value).sum()

    at = torch.tensor(start).double()
    found = torch.func.grad(total)(at)
    batch = torch.vmap(torch.func.grad(total))(torch.stack([at, at]))
    torch.testing.assert_close(batch[0], found)
    for i in range(len(at)):
        step = torch.zeros_like(at)
        step[i] = 1e-5
        slope = (total(at + step) - total(at - step)) / 2e-5
        # Torch's derivative of gamma draws by their concentration has three digits.
        assert abs(float(slope - found[i])) < (2e-2 if law == "gamma" else 1e-6) * (1 + abs(float(slope)))


def test_far_tails_keep_their_digits() -> None:
    d = Censored(dist.Normal(torch.tensor(0.0), torch.tensor(1.0)), high=torch.tensor(30.0))
    assert abs(float(d.log_prob(torch.tensor(30.0))) - stats.norm.logsf(30)) < 1e-3
    between = Censored(
        dist.Normal(torch.tensor(0.0), torch.tensor(1.0)), interval=(torch.tensor(9.0), torch.tensor(10.0))
    )
    assert abs(float(between.log_prob(torch.tensor(9.5))) - (stats.norm.logsf(9))) < 1e-3


def test_the_mean_of_what_is_seen() -> None:
    d = Censored(
        dist.Normal(number(1.0), number(2.0)), low=torch.tensor([0.0, -INF, 0.5]), high=torch.tensor([3.0, 2.0, INF])
    )
    points = np.linspace(-19, 21, 400_001)
    mass = stats.norm.pdf(points, 1, 2) * 1e-4
    exact = [
        (np.clip(points, low, high) * mass).sum() for low, high in zip(d.low.tolist(), d.high.tolist(), strict=True)
    ]
    torch.testing.assert_close(d.mean, torch.tensor(exact), rtol=0, atol=1e-6)
    with pytest.raises(NotImplementedError):
        Censored(dist.Exponential(number(1.0)), high=2.0).mean  # noqa: B018


T = torch.tensor([0.5, 2.0, 3.0, 3.0, 1.0])
EVENT = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])


def survival(t: Tensor, event: Tensor) -> Tensor:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pg.plate(t):
        return pg.observe("t", Censored(dist.Exponential(rate), high=torch.where(event > 0, INF, t)), t)


def by_factor(t: Tensor, event: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pg.plate(t):
        pyro.sample("t", dist.Exponential(rate).expand(t.shape).mask(event > 0), obs=t)
        pyro.factor("alive", -rate * t * (1 - event))


# Conjugate: Gamma(2 + 3 events, 1 + 9.5 time); the evidence is its normalising constant over the prior's.
EVIDENCE = math.lgamma(5) - 5 * math.log(1 + float(T.sum()))


@pytest.mark.parametrize("model", [survival, by_factor])
def test_censored_survival_is_conjugate(model: object) -> None:
    draws = pg.posterior(model, T, EVENT, chains=64, draws=50, progress=False, predictive=False).posterior["rate"]
    exact = 5 / (1 + float(T.sum()))
    assert abs(float(draws.mean()) - exact) < 5 * exact / math.sqrt(5) / math.sqrt(640)  # an ESS of 640: 6e-7
    naive = 7 / (1 + float(T.sum()))  # the twin: all five taken for events
    assert abs(float(draws.mean()) - naive) > 5 * exact / math.sqrt(5) / math.sqrt(640)
    found = pg.log_evidence(model, T, EVENT)
    assert abs(found.mean() - EVIDENCE) < 5 * found.mean_standard_error() + 1e-3


def test_nothing_seen_of_a_censored_value_scores_nothing_and_is_drawn() -> None:
    program = pg.Program.from_functions(survival)
    t = T.clone()
    t[4] = NAN
    found = pg.log_evidence(program, t, EVENT, method="smc")
    assert (
        abs(found.mean() - (math.lgamma(4) - 4 * math.log(1 + float(T[:4].sum()))))
        < 5 * found.mean_standard_error() + 1e-3
    )
    filled = pg.impute(program, t, EVENT, draws=8, options={"chains": 64, "draws": 20})
    assert bool(filled.isfinite().all()) and filled[:, 4].unique().numel() == 8


def test_a_censored_head_trains_to_the_tobit_estimate() -> None:
    y = 1.0 + 2.0 * torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    seen = y.clamp(0.0, 3.0)

    class Tobit(pg.Program):
        def __init__(self) -> None:
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(1))
            self.head = CensoredHead((1,), low=0.0, high=3.0)

        def model(self, x: Tensor) -> Tensor:
            with self.plate(x):
                return pg.observe("x", self.head(self.loc.expand(len(x), 1)), x)

    program = Tobit()
    pg.fit(program, seen, epochs=300, batch_size=400, lr=0.1, schedule="cosine", progress=False)

    def loss(p: np.ndarray) -> float:
        law, v = stats.norm(p[0], np.exp(p[1])), seen.numpy()[:, 0]
        return -np.where(v <= 0, law.logcdf(0), np.where(v >= 3, law.logsf(3), law.logpdf(v))).sum()

    from scipy.optimize import minimize

    best = minimize(loss, [0.0, 0.0]).x
    assert abs(program.loc.item() - best[0]) < 1e-2
    assert abs(float(seen.mean()) - best[0]) > 0.05  # the twin: limits taken for values
    drawn = pg.sample(program, 500)
    assert float(drawn.min()) == 0.0 and float(drawn.max()) == 3.0


def test_what_has_no_distribution_function_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Censored\(StudentT\): its distribution function is not known"):
        Censored(dist.StudentT(torch.tensor(3.0)), low=0.0)
    with pytest.raises(ValueError, match="events of shape"):
        Censored(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), low=0.0)
