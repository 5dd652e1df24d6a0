"""check_guide passes exact guides and names what is wrong with others."""

import json
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.inference.guides import FullRank, GuideReport, MeanField, check_guide, guide_of, laplace
from pyro_gen.inference.guides import check as check_module
from pyro_gen.inference.likelihood.result import LogLikelihood

FEATURES = torch.stack([torch.ones(6), torch.linspace(3.0, 5.0, 6)], 1)
TARGETS = torch.linspace(1.0, 2.0, 6)


def regression(y: Tensor, features: Tensor) -> Any:
    weights = pyro.sample("weights", dist.Normal(features.new_zeros(2), 2.0).to_event(1))
    with pg.plate(y):
        return pg.observe("y", dist.Normal(features @ weights, 0.5), y)


def exact() -> tuple[Tensor, Tensor, float]:
    x, y = FEATURES.double(), TARGETS.double()
    precision = x.mT @ x / 0.25 + torch.eye(2) / 4
    evidence = dist.MultivariateNormal(torch.zeros(6).double(), x @ x.mT * 4 + 0.25 * torch.eye(6)).log_prob(y)
    return torch.linalg.solve(precision, x.mT @ y / 0.25), precision, evidence.item()


def mean_field() -> pg.Program:
    """The best one, by its closed form: the exact mean, and the precision's diagonal."""
    program = pg.Program.from_functions(regression, MeanField()).initialise(TARGETS, FEATURES)
    mean, precision, _ = exact()
    guide = guide_of(program)
    assert isinstance(guide, MeanField)
    with torch.no_grad():
        guide.loc.copy_(mean)
        guide.log_scale.copy_(-0.5 * precision.diagonal().log())
    return program


def test_an_exact_guide_passes_and_a_mean_field_guide_of_a_correlated_posterior_does_not(untouched_rng: None) -> None:
    """The exact k-hat of the mean-field guide is the correlation, 0.98; its error here is 0.15."""
    mean, precision, evidence = exact()
    covariance = torch.linalg.inv(precision)
    r = float(covariance[0, 1] / covariance.diagonal().prod().sqrt())
    good = check_guide(laplace(pg.Program.from_functions(regression), TARGETS, FEATURES), TARGETS, FEATURES)
    assert good.ok and good.covers and good.complete and good.khat.item() < 0.3
    assert abs(good.gap[0]) < 5 * good.gap[1] + 1e-3 and abs(good.elbo - evidence) < 0.01
    bad = check_guide(mean_field(), TARGETS, FEATURES)
    assert not bad.ok and not bad.covers
    assert abs(bad.khat.item() - abs(r)) < 4 * bad.khat_error.item()
    gap = -0.5 * torch.log1p(torch.tensor(-(r**2))).item()  # KL of the best mean-field guide
    assert abs(bad.gap[0] - gap) < 5 * bad.gap[1] + 0.05
    assert "NOT GOOD ENOUGH" in str(bad) and "cannot be reweighted" in str(bad) and "FullRank" in str(bad)
    assert "nothing wrong found" in str(good)
    for report in (good, bad):
        assert json.loads(json.dumps(report.to_dict()))["ok"] is report.ok
    assert mean.shape == (2,)


def two_modes(x: Tensor) -> Any:
    root = pyro.sample("root", dist.Normal(0.0, 1.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(root**2, 0.1), x)


def test_a_guide_of_one_mode_of_two_is_found_by_the_evidence() -> None:
    """Its weights look perfect: half of the posterior is where it never draws, and its evidence is log 2 too small."""
    x = torch.tensor([2.0, 2.1])
    program = laplace(pg.Program.from_functions(two_modes), x)
    report = check_guide(program, x)
    assert report.covers and not report.complete and not report.ok
    assert report.evidence is not None
    assert report.evidence.mean() - report.weighted == pytest.approx(0.693, abs=0.15)
    assert "misses a part of the posterior" in str(report)
    alone = check_guide(program, x, evidence=None)  # the twin: weights alone do not see it
    assert alone.ok and alone.evidence is None and alone.to_dict()["gap"] is None


def test_the_evidence_may_be_given() -> None:
    known = LogLikelihood(torch.tensor([exact()[2]]), torch.zeros(1), "exact", "exact", 6.0, unit="nats")
    report = check_guide(mean_field(), TARGETS, FEATURES, evidence=known, draws=500)
    assert report.evidence is known and report.gap[1] == report.elbo_error
    of_data = LogLikelihood(torch.zeros(len(TARGETS)), torch.zeros(len(TARGETS)), "exact", "exact", 1.0)
    with pytest.raises(ValueError, match="in nats per datum, and this guide is of all data together"):
        check_guide(mean_field(), TARGETS, FEATURES, evidence=of_data)


def test_the_evidence_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its error and that of the weights are the same numbers, and do not add up as independent ones do."""
    seen = {}

    def record(name: str, right: Any) -> Any:
        def call(*args: Any, seed: int, **options: Any) -> Any:
            seen[name] = seed
            return right(*args, seed=seed, **options)

        return call

    for name in ("log_evidence", "sbc"):
        monkeypatch.setattr(check_module, name, record(name, getattr(check_module, name)))
    refit = {"epochs": 1, "batch_size": len(TARGETS)}
    check_guide(mean_field(), TARGETS, FEATURES, draws=100, simulations=2, refit=refit, seed=3, particles=64)
    assert set(seen) == {"log_evidence", "sbc"} and 3 not in seen.values()


class Local(pg.Program):
    """Each datum has its own posterior: N(x / 2, 1 / 2)."""

    def __init__(self, shift: float = 0.0, scale: float = 0.5**0.5) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def model(self, x: Tensor) -> Any:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            return pg.observe("x", dist.Normal(z, 1.0), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Normal(x / 2 + self.shift, self.scale))


def test_a_guide_of_each_datum() -> None:
    x = torch.linspace(-2, 2, 40)
    good = check_guide(Local(), x)
    assert good.ok and good.unit == "nats per datum" and good.khat.shape == (40,)
    assert abs(good.elbo - dist.Normal(0.0, 2**0.5).log_prob(x).mean()) < 1e-3
    narrow = check_guide(Local(scale=0.2), x)  # k = 1 - 0.04 / 0.5 = 0.92, which is reached slowly, from below
    assert not narrow.covers and 0.7 < narrow.khat.median() < 1.0
    assert "above 0.7 for" in str(narrow)
    # KL(q || p) per datum: log(sd_p / sd_q) + (var_q - var_p) / (2 var_p)
    assert narrow.gap[0] == pytest.approx(0.8029, abs=5 * narrow.gap[1] + 0.01)


def calibrated(**options: float) -> GuideReport:
    return check_guide(Local(**options), torch.zeros(2), evidence=None, simulations=150)


def test_calibration_tells_a_wrong_width_from_a_wrong_place() -> None:
    """A correct guide fails with probability 0.01; the seed is one at which it does not."""
    good = calibrated()
    assert good.ok and good.calibration is not None and good.calibration.passed and not good.misplaced
    narrow = calibrated(scale=0.4)
    assert narrow.calibration is not None and not narrow.calibration.passed and not narrow.ok
    assert not narrow.misplaced
    shifted = calibrated(shift=0.5)
    assert not shifted.ok and list(shifted.misplaced) == ["z[0]", "z[1]"]
    assert "in the wrong place" in str(shifted) and "in the wrong place" not in str(narrow)


def mean_model(x: Tensor) -> Any:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pg.plate(x):
        return pg.observe("x", dist.Normal(mean, 1.0), x)


@pytest.mark.slow
def test_a_blind_guide_is_trained_anew_on_each_data_set() -> None:
    x = torch.tensor([0.5, 1.0, 1.5])
    program = laplace(pg.Program.from_functions(mean_model), x)
    before = {n: p.clone() for n, p in program.named_parameters()}
    refit = {"epochs": 150, "lr": 0.1, "schedule": "cosine", "objective": pg.inference.ELBO(8)}
    report = check_guide(program, x, simulations=60, refit=refit)
    assert report.ok and report.calibration is not None
    assert all(torch.equal(p, before[n]) for n, p in program.named_parameters())
    lazy = check_guide(program, x, simulations=60, refit=refit | {"epochs": 2})  # the twin: not trained at all
    assert not lazy.ok


def test_what_check_guide_refuses() -> None:
    with pytest.raises(ValueError, match="refit="):
        check_guide(mean_field(), TARGETS, FEATURES, simulations=10)
    with pytest.raises(ValueError, match="at least 100"):
        check_guide(mean_field(), TARGETS, FEATURES, draws=10)
    with pytest.raises(ValueError, match="has no posterior"):
        check_guide(pg.models.Gaussian(2), torch.zeros(4, 2))
    with pytest.raises(TypeError, match="a Program"):
        check_guide(mean_model, torch.zeros(3))  # type: ignore[arg-type]
    assert isinstance(guide_of(laplace(pg.Program.from_functions(mean_model), torch.zeros(2))), FullRank)
