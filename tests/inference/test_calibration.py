import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.inference import calibration as module
from pyro_gen.inference import uniformity as uniform
from pyro_gen.inference.calibration import Calibration, sbc
from pyro_gen.inference.uniformity import simultaneous_band, uniformity
from pyro_gen.observation import observe
from pyro_gen.program import Program, data_size

# Five programs, and the shape of their data.


class MeanAndScale(Program):
    def model(self, x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with self.plate(x):
            return observe("x", dist.Normal(loc, scale), x)


class Regression(Program):
    def model(self, x, design):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with self.plate(x):
            return observe("x", dist.Normal(design @ weights, noise), x)


class Schools(Program):
    def model(self, x, error):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(5.0))
        with self.plate(x):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
            return observe("x", dist.Normal(mu + tau * effect, error), x)


class Counts(Program):
    def model(self, x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        with self.plate(x):
            events = observe("events", dist.Poisson(rate), x[:, 0])
            hits = observe("hits", dist.Binomial(10, share), x[:, 1])
            return torch.stack([events, hits], -1)


class Mixture(Program):
    def model(self, x):
        low = pyro.sample("low", dist.Normal(0.0, 1.5))
        gap = pyro.sample("gap", dist.LogNormal(1.0, 0.3))
        share = pyro.sample("share", dist.Beta(5.0, 5.0))
        with self.plate(x):
            label = pyro.sample("label", dist.Bernoulli(share))
            return observe("x", dist.Normal(low + gap * label, 0.7), x)


DESIGN = torch.tensor([[1.0, u, u * u - 0.5] for u in torch.linspace(-1, 1, 10).tolist()])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PROGRAMS = {
    "mean and scale": (MeanAndScale(), (10,)),
    "regression": (Regression(), (10,), DESIGN),
    "schools": (Schools(), (8,), ERROR),
    "counts": (Counts(), (6, 2)),
    "mixture": (Mixture(), (12,)),
}


# ----------------------------------------------------------------------------------------------------------------------
# Uniform ranks


@pytest.mark.parametrize(("n", "bins", "alpha"), [(50, 20, 0.05), (200, 32, 0.01), (500, 5, 0.2)])
def test_level_of_the_band(n, bins, alpha):
    """How often uniform ranks leave the band, against the exact level, which is stated."""
    lower, upper, level = simultaneous_band(n, bins, alpha)
    assert 0.8 * alpha < level <= alpha
    repeats = 20_000
    ranks = torch.randint(bins, (repeats, n))
    counts = torch.zeros(repeats, bins).scatter_add_(1, ranks, torch.ones(repeats, n)).cumsum(1)[:, :-1].double()
    left = ((counts / n < lower - 1e-9) | (counts / n > upper + 1e-9)).any(1)
    error = math.sqrt(level * (1 - level) / repeats)
    assert abs(float(left.double().mean()) - level) < 4.5 * error  # 7e-6
    # The p-value says the same of each set of ranks.
    for i in range(200):
        assert (uniformity(ranks[i], bins) <= alpha) == bool(left[i])
    # The twin: bands of that level at each point by itself are left much more often.
    pointwise = uniform._bounds(n, bins, alpha)
    low, high = (torch.from_numpy(b) for b in pointwise)
    assert float(((counts < low) | (counts > high)).any(1).double().mean()) - level > 20 * error


def test_p_value_is_exact():
    """All 4^6 sets of six ranks with four values: how many have a p-value at least as small."""
    sets = torch.cartesian_prod(*[torch.arange(4)] * 6)
    p = torch.tensor([uniformity(ranks, 4) for ranks in sets])
    for value in p.unique():
        assert float((p <= value + 1e-12).double().mean()) == pytest.approx(float(value), rel=1e-9)


def test_far_tail():
    """All ranks in one of two bins: probability 2 / 2^n, far below what 1 - (a sum near 1) could tell."""
    assert uniformity(torch.zeros(100, dtype=torch.long), 2) == pytest.approx(2 * 0.5**100, rel=1e-6)


def skewed(draws=19, simulations=400, power=1.0, squeeze=1.0):
    u = (torch.rand(simulations) ** power - 0.5) * squeeze + 0.5
    return (u * (draws + 1)).long().clamp(0, draws)


@pytest.mark.parametrize(
    ("ranks", "meaning"),
    [
        (lambda: skewed(power=1.6), "true values rank low: the draws lie too high"),
        (lambda: skewed(power=0.6), "true values rank high: the draws lie too low"),
        (lambda: skewed(squeeze=0.6), "too wide"),
        (lambda: skewed(squeeze=1.6), "too narrow"),
        (lambda: skewed() // 2 * 2, "in no simple way"),
    ],
)
def test_meaning(ranks, meaning):
    calibration = Calibration({"a": ranks(), "b": skewed()}, 19, "hmc", 1e-3)
    assert calibration.flagged == ("a",) and not calibration.passed and calibration.p_value < 1e-3
    assert meaning in calibration.explain("a") and meaning in str(calibration) and "FAILED" in str(calibration)


def test_meaning_of_densities():
    low, high = skewed(power=2.0), skewed(power=0.5)
    names = (module.LOG_LIKELIHOOD, module.LOG_PRIOR)
    first, second = (
        Calibration(dict(zip(names, pair, strict=True)), 19, "m", 0.01) for pair in ((high, low), (low, high))
    )
    assert "count for too little" in first.explain(names[0]) and "count for too much" in second.explain(names[0])
    assert "counts for too much" in first.explain(names[1]) and "counts for too little" in second.explain(names[1])


def test_result(tmp_path):
    ranks = {f"z[{i}]": skewed() for i in range(14)} | {"z[14]": skewed(power=3.0)}
    calibration = Calibration(ranks, 19, "hmc", 0.01)
    found = calibration.to_dict()
    assert json.loads(json.dumps(found)) == found and not found["passed"]
    assert found["quantities"]["z[14]"]["flagged"] and "meaning" in found["quantities"]["z[14]"]
    assert found["simulations"] == 400 and found["draws"] == 19
    figure = calibration.plot(tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").stat().st_size > 10_000
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert len(titles) == 12 and "z[14]" in titles
    # What is drawn is what is judged: a curve leaves its band where its quantity is flagged, and only there.
    lower, upper = calibration.band()
    for name, r in ranks.items():
        below = torch.bincount(r, minlength=20).cumsum(0)[:-1] / 400
        outside = bool(((below < lower - 1e-9) | (below > upper + 1e-9)).any())
        assert outside == (name in calibration.flagged)
    passed = Calibration({"z": skewed()}, 19, "hmc", 0.01)
    assert "passed" in str(passed) and "1 quantity" in str(passed)


# ----------------------------------------------------------------------------------------------------------------------
# Simulation

ALPHA = 1e-4  # the false-alarm rate of each run of sbc here, exactly


def sbc_of(name, method, **options):
    program, *data = PROGRAMS[name]
    return sbc(program, *data, method=method, alpha=ALPHA, **options)


SMALL = {"simulations": 60, "draws": 15}
QUICK = {"hmc": {"warmup": 120}, "nuts": {"warmup": 150}, "smc": {"particles": 64}}
CI = [("counts", "hmc"), ("mixture", "hmc"), ("mean and scale", "nuts"), ("schools", "smc")]


@pytest.mark.parametrize(("name", "method"), CI)
def test_methods_are_calibrated(name, method):
    assert sbc_of(name, method, **SMALL, **QUICK[method]).passed


FULL = {
    "hmc": {"simulations": 400, "draws": 63, "warmup": 400},
    "nuts": {"simulations": 200, "draws": 31, "warmup": 250},
    "smc": {"simulations": 400, "draws": 63, "particles": 256},
}
# Beta priors cannot be drawn from under vmap, so that their particles start one by one.
FEWER = {(name, "smc"): {"simulations": 100, "draws": 31, "particles": 64} for name in ("counts", "mixture")}


@pytest.mark.slow
@pytest.mark.parametrize("method", FULL)
@pytest.mark.parametrize("name", PROGRAMS)
def test_methods_are_calibrated_in_full(name, method):
    """Uniform at level 1 - 1e-4 each, 15 runs. The power: the twins below are caught with fewer simulations."""
    calibration = sbc_of(name, method, **FEWER.get((name, method), FULL[method]))
    assert calibration.passed, str(calibration)


def exact_mean(program, x, *, draws, seed, scale=1.0, shift=0.0, prior=False):
    """The posterior of the mean of standard normal data under a standard normal prior, or what it is mistaken for."""
    n = 0 if prior else len(x)
    with seeded(seed):
        noise = torch.randn(draws) * scale
    return {"loc": x[:n].sum() / (n + 1) + shift + noise / (n + 1) ** 0.5}


class Mean(Program):
    def model(self, x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with self.plate(x):
            return observe("x", dist.Normal(loc, 1.0), x)


@pytest.mark.parametrize(
    ("defect", "flagged", "meaning"),
    [
        ({}, (), ""),
        ({"prior": True}, ("log-likelihood",), "the posterior equals the prior"),
        ({"scale": 0.6}, ("loc",), "too narrow"),
        ({"scale": 2.2}, ("loc",), "too wide"),
        ({"shift": 0.25}, ("loc",), "the draws lie too high"),
    ],
)
def test_defects_of_a_method(defect, flagged, meaning):
    calibration = sbc(Mean(), (5,), method=exact_mean, simulations=200, draws=31, alpha=ALPHA, **defect)
    assert calibration.passed == (not defect) and calibration.method == "exact_mean"
    assert set(flagged) <= set(calibration.flagged)
    assert all(meaning in calibration.explain(name) for name in flagged)
    # A posterior that equals the prior is seen by the joint log-likelihood alone.
    assert "loc" not in calibration.flagged or "prior" not in defect


TWIN = {"simulations": 150, "draws": 31, "warmup": 120}


def test_dropped_jacobian(monkeypatch):
    """The twin of test_methods_are_calibrated[counts-hmc]: one row of data, so that the prior counts."""
    program, _ = PROGRAMS["counts"]
    assert sbc(program, (1, 2), method="hmc", alpha=ALPHA, **TWIN).passed
    for constraint in (dist.constraints.positive, dist.constraints.unit_interval):
        transform = type(biject_to(constraint))
        monkeypatch.setattr(transform, "log_abs_det_jacobian", lambda self, x, y: torch.zeros_like(x))
    broken = sbc(program, (1, 2), method="hmc", alpha=ALPHA, **TWIN)
    assert "rate" in broken.flagged and "the draws lie too low" in broken.explain("rate")


class Doubled(MeanAndScale):
    def model(self, x):
        with data_size(2 * len(x)):  # as if the data were half of a larger data set
            return super().model(x)


def test_wrong_scale_of_the_data():
    broken = sbc(Doubled(), (10,), method="hmc", alpha=ALPHA, **TWIN)
    assert "scale" in broken.flagged and "too narrow" in broken.explain("scale")


class Local(Program):
    """One latent variable for each datum, and the exact posterior as a guide."""

    def __init__(self, width=1.0):
        super().__init__()
        self.width = width

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return observe("x", dist.Normal(z, 1.0).to_event(1), x)

    def guide(self, x):
        seen = ~x.isnan()
        with self.plate(x):
            scale = torch.where(seen, 0.5**0.5 * self.width, 1.0)
            pyro.sample("z", dist.Normal(torch.where(seen, x / 2, 0.0), scale).to_event(1))


def test_guide_with_holes_in_the_data():
    holes = torch.tensor([[0.0, 0.0], [math.nan, 0.0]])
    good = sbc(Local(), holes, method="guide", simulations=150, draws=15, alpha=ALPHA)
    assert good.passed and set(good.ranks) == {*(f"z[{i}, {j}]" for i in (0, 1) for j in (0, 1)), *DENSITIES}
    narrow = sbc(Local(0.5), holes, method="guide", simulations=150, draws=15, alpha=ALPHA)
    assert set(narrow.flagged) & {"z[0, 0]", "z[0, 1]", "z[1, 1]"} and "z[1, 0]" not in narrow.flagged
    assert "too narrow" in str(narrow)


DENSITIES = {module.LOG_LIKELIHOOD, module.LOG_PRIOR}


def test_ties_and_constants():
    """A discrete quantity is tied with most of its draws; one that never varies has no rank."""

    class Levels(Program):
        def model(self, x):
            corner = pyro.sample("corner", dist.LKJCholesky(2, 1.0))
            with self.plate(x):
                return observe("x", dist.Bernoulli(0.3 + 0.0 * corner[1, 0]), x)

    def prior(program, x, *, draws, seed):
        with seeded(seed):
            return {"corner": dist.LKJCholesky(2, 1.0).sample((draws,))}

    calibration = sbc(Levels(), (3,), method=prior, simulations=300, draws=15, alpha=ALPHA)
    assert calibration.passed and "corner[0, 1]" not in calibration.ranks and "corner[0, 0]" not in calibration.ranks
    # The log-likelihood does not depend on the latent variable, so that all draws are tied with the truth.
    assert len(calibration.ranks[module.LOG_LIKELIHOOD].unique()) == 16


def test_reproducible(untouched_rng):
    runs = [sbc(Mean(), (4,), method="hmc", simulations=20, draws=7, warmup=20, seed=s).ranks for s in (0, 0, 1)]
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
    assert not all(torch.equal(runs[0][n], runs[2][n]) for n in runs[0])


def test_errors():
    class Given(Program):
        def model(self, x, y):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with self.plate(x):
                pyro.sample("y", dist.Normal(loc, 1.0), obs=y)
                return observe("x", dist.Normal(loc, 1.0), x)

    with pytest.raises(ValueError, match="'y', which is given and not simulated"):
        sbc(Given(), (4,), torch.zeros(4))
    with pytest.raises(ValueError, match="latent site 'loc'"):
        sbc(Mean(), (4,), method=lambda program, x, *, draws, seed: {})
    with pytest.raises(ValueError, match="not finite"):
        sbc(Mean(), (4,), method=lambda program, x, *, draws, seed: {"loc": torch.full((draws,), math.nan)})
    with pytest.raises(ValueError, match="choose from"):
        sbc(Mean(), (4,), method="stan")
    with pytest.raises(ValueError, match="positive"):
        sbc(Mean(), (4,), simulations=0)
    with pytest.raises(ValueError, match="probability"):
        sbc(Mean(), (4,), alpha=0.0)
    with pytest.raises(TypeError, match="from_functions"):
        sbc(lambda x: None, (4,))
    with pytest.raises(ValueError, match="no vector"):
        Calibration({"a": torch.tensor([20])}, 19, "m", 0.01)
    with pytest.raises(ValueError, match="at least one"):
        Calibration({}, 19, "m", 0.01)
    with pytest.raises(ValueError, match="one rank"):
        simultaneous_band(0, 5, 0.1)


class Scale(Program):
    """The scale of a normal, beyond float32 in one simulation of some dozens."""

    def model(self, x):
        log_scale = pyro.sample("log_scale", dist.Cauchy(0.0, 3.0))
        with self.plate(x):
            return observe("x", dist.Normal(0.0, log_scale.exp()), x)


# A set that is infinite, and one at which no chain finds a place, ended the run. The false-alarm rate is alpha.
@pytest.mark.parametrize(("seed", "why"), [(0, "their values are infinite"), (3, "chains find no place to start from")])
def test_a_simulated_set_without_a_density_is_left_out(seed, why):
    with pytest.warns(UserWarning, match=f"1 of 60 simulated data sets are left out, since {why}"):
        found = sbc(Scale(), (3,), simulations=60, draws=7, warmup=150, seed=seed, alpha=1e-4)
    assert found.simulations == 59
    assert found.passed


def conditional(y, u):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(u @ w, 0.5), y)


def conjugate(program, y, u, *, draws, seed):
    covariance = torch.linalg.inv(torch.eye(2) / 4 + u.T @ u / 0.25)
    noise = torch.randn(draws, 2, generator=torch.Generator().manual_seed(seed))
    return {"w": covariance @ u.T @ y / 0.25 + noise @ torch.linalg.cholesky(covariance).T}


def of_other_rows(program, y, u, **options):
    return conjugate(program, y, u.flip(0), **options)


def test_what_is_conditioned_on_stands_still() -> None:
    program, u = pg.Program.from_functions(conditional), torch.randn(12, 2)
    for method in (conjugate, "hmc"):
        assert sbc(program, (12,), u, method=method, simulations=200, draws=31).passed  # by chance not in 1 of 100
    assert sbc(program, (12,), u, method=of_other_rows, simulations=200, draws=31).p_value < 1e-6


def two_variables(data, u):
    w = pyro.sample("w", dist.Normal(0.0, 2.0))
    with pg.plate(data["a"]):
        pg.observe("a", dist.Normal(u * w, 0.5), data["a"])
        pg.observe("b", dist.Normal(w, 0.5), data["b"])


def blind_to_b(program, data, u, *, draws, seed):
    precision = 0.25 + u.square().sum() / 0.25
    noise = torch.randn(draws, generator=torch.Generator().manual_seed(seed))
    return {"w": (u * data["a"]).sum() / 0.25 / precision + noise / precision**0.5}


def test_several_variables_are_simulated_together() -> None:
    program, u = pg.Program.from_functions(two_variables), torch.randn(12)
    data = {"a": torch.zeros(12), "b": torch.zeros(12)}
    assert sbc(program, data, u, method="hmc", simulations=100, draws=31).passed
    # A posterior of some of the data is calibrated, but for the likelihood of all of them.
    found = sbc(program, data, u, method=blind_to_b, simulations=400, draws=31)
    assert found.flagged == ("log-likelihood",)
