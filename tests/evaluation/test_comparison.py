"""Regressions whose evidence and whose density of each datum given the others are known, compared as if they were not.

Thresholds of 4.5 standard errors: of 6 figures with Gaussian errors one exceeds them by chance in 1 of 25,000 runs.
"""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import pyro_gen as pg
from pyro_gen.evaluation.comparison_table import Comparison
from pyro_gen.evaluation.stacking import stacking_weights

NOISE, DEGREES = 0.5, (0, 1, 2)


def basis(t, degree):
    return torch.stack([torch.special.legendre_polynomial_p(t, torch.tensor(k)) for k in range(degree + 1)], -1)


def polynomial(degree):
    def model(y, t):
        w = pyro.sample("w", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1))
        with pg.plate(y):
            return pg.observe("y", dist.Normal(basis(t, degree) @ w, NOISE), y)

    return model


def marginal(t, degree):
    """The law of all outcomes: Gaussian, with this covariance."""
    h = basis(t, degree).double()
    return NOISE**2 * torch.eye(len(t)).double() + h @ h.T


def exact_evidence(y, t, degree):
    law = dist.MultivariateNormal(torch.zeros(len(t)).double(), marginal(t, degree))
    return float(law.log_prob(y.double()))


def exact_loo(y, t, degree):
    """Of a Gaussian, Q the inverse of its covariance: x_n given the others is N(x_n - (Qx)_n / Q_nn, 1 / Q_nn)."""
    q = torch.linalg.inv(marginal(t, degree))
    return dist.Normal(0.0, q.diagonal().rsqrt()).log_prob(q @ y.double() / q.diagonal())


def exact_held_out(y, t, new_y, new_t, degree):
    covariance = marginal(torch.cat([t, new_t]), degree)
    n = len(t)
    inverse = torch.linalg.inv(covariance[:n, :n])
    mean = covariance[n:, :n] @ inverse @ y.double()
    variance = covariance.diagonal()[n:] - (covariance[n:, :n] @ inverse * covariance[n:, :n]).sum(1)
    return dist.Normal(mean, variance.sqrt()).log_prob(new_y.double())


@pytest.fixture(scope="module")
def data():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        t = 2 * torch.rand(60) - 1
        y = 0.5 + 1.0 * t + NOISE * torch.randn(60)
    return y[:40], t[:40], y[40:], t[40:]


@pytest.fixture(scope="module")
def found(data) -> Comparison:
    y, t, new_y, new_t = data
    programs = {f"degree {k}": polynomial(k) for k in DEGREES}
    return pg.compare(programs, y, t, held_out=(new_y, new_t), progress=False)


def worst_z(found, exact):
    return max(
        abs(entry.evidence.mean() - value) / entry.evidence.mean_standard_error()
        for entry, value in zip(found.entries.values(), exact, strict=True)
    )


def test_every_column_has_its_closed_form(data, found) -> None:
    y, t, new_y, new_t = data
    assert worst_z(found, [exact_evidence(y, t, k) for k in DEGREES]) < 4.5
    for degree, entry in zip(DEGREES, found.entries.values(), strict=True):
        exact = exact_loo(y, t, degree)
        assert abs(entry.loo.mean() - exact.mean()) < 1e-2 and (entry.loo.value - exact).abs().max() < 0.1
        held = exact_held_out(y, t, new_y, new_t, degree)
        assert abs(entry.held_out.mean() - held.mean()) < 1e-2
        assert entry.reasons == {} and entry.remarks == {}
    exact_p = torch.stack([exact_loo(y, t, k) for k in DEGREES], 1).numpy()
    weights = stacking_weights(exact_p)
    np.testing.assert_allclose(list(found.weights.values()), weights, atol=0.05)


def test_a_density_inside_the_data_and_a_wider_prior_would_be_caught(data, found) -> None:
    y, t, _, _ = data
    inside = exact_held_out(y, t, y, t, 2)  # what forgetting to leave out would give
    assert abs(found.entries["degree 2"].loo.mean() - inside.mean()) > 0.05
    wide = [exact_evidence(y, t, k) - (k + 1) * np.log(2) for k in DEGREES]  # the factor of scales twice as wide
    assert worst_z(found, wide) > 4.5


def test_the_table_is_in_order_and_its_differences_are_paired(found) -> None:
    table = found.to_pandas()
    assert found.best() == table.index[0] == "degree 1" and found.best("loo") in found.entries
    assert table["log_evidence"].is_monotonic_decreasing and table["probability"].sum() == pytest.approx(1)
    assert table["weight"].sum() == pytest.approx(1) and (table["bad_khat"] == 0).all()
    assert table.loc[found.best("loo"), "loo_difference"] == 0
    row = table.loc["degree 0"]
    pair = found.entries["degree 0"].loo.value - found.entries[found.best("loo")].loo.value
    assert row["loo_difference"] == pytest.approx(float(pair.mean()))
    assert row["loo_difference_error"] == pytest.approx(float(pair.std()) / 40**0.5)
    text = str(found)
    assert "log-evidence" in text and "held out" in text and "degree 2" in text
    assert found.to_dict()["degree 0"]["reasons"] == {}
    assert isinstance(found.plot(), Figure)
    with pytest.raises(ValueError, match="choose one of evidence, loo, held_out"):
        found.best("waic")


def test_posteriors_are_entries_and_say_what_they_lack(data) -> None:
    y, t, new_y, new_t = data
    program = polynomial(1)
    idata = pg.posterior(program, y, t, progress=False, chains=16, draws=200)
    by_smc = pg.posterior(program, y, t, method="smc", progress=False)
    entries = {"pair": (program, idata), "draws": idata, "smc": (program, by_smc)}
    found = pg.compare(entries, y, t, held_out=(new_y, new_t), progress=False)
    alone = found.entries["draws"]
    assert alone.evidence is None and "the pair (program, posterior)" in alone.reasons["evidence"]
    assert alone.held_out is None and "do not score new data" in alone.reasons["held_out"]
    torch.testing.assert_close(alone.loo.value, found.entries["pair"].loo.value, atol=1e-5, rtol=0)
    theirs = az.loo(idata, pointwise=True)
    torch.testing.assert_close(alone.loo.value, torch.tensor(theirs.loo_i.values).double(), atol=0.01, rtol=0)
    assert found.entries["smc"].evidence.mean() == by_smc.posterior.attrs["log_evidence"]
    assert np.isnan(found.to_pandas().loc["draws", "log_evidence"])
    assert "draws: no log-evidence: draws alone have none" in str(found) and isinstance(found.plot(), Figure)


def test_a_posterior_of_other_data_is_refused(data) -> None:
    y, t, _, _ = data
    idata = pg.posterior(polynomial(1), y, t, progress=False, chains=8, draws=20)
    with pytest.raises(ValueError, match="'a' is of other data than these"):
        pg.compare({"a": (polynomial(1), idata)}, y + 1, t, progress=False)
    with pytest.raises(ValueError, match="'a' is of 40 data, and was given 30"):
        pg.compare({"a": idata}, y[:30], t[:30], progress=False)


def test_fitted_parameters_are_refused_where_they_have_seen_the_data() -> None:
    x = torch.randn(30, 3)
    fitted, constant = pg.models.FactorAnalysis(3, 1), pg.models.FactorAnalysis(3, 1).requires_grad_(False)
    found = pg.compare({"fitted": fitted, "constant": constant}, x, held_out=x + 1, progress=False)
    reasons = found.entries["fitted"].reasons
    assert set(reasons) == {"evidence", "loo"} and "loc, loadings, log_scale are numbers" in reasons["loo"]
    entry = found.entries["constant"]
    assert entry.loo.kind == "exact" and entry.evidence.mean() == pytest.approx(float(entry.loo.value.sum()))
    assert found.entries["fitted"].held_out is not None and found.weights == {"constant": 1.0}
    with pytest.raises(ValueError, match="nothing can be computed for 'fitted': no log-evidence: loc"):
        pg.compare({"fitted": fitted}, x, progress=False)


def test_what_verbs_refuse_is_the_reason(data) -> None:
    y, t, _, _ = data

    def either(y, t):  # a level of 0 or 1; the chains sum it out, so leaving a datum out has no draws of it
        level = pyro.sample("level", dist.Bernoulli(0.5))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pg.plate(y):
            return pg.observe("y", dist.Normal(level + slope * t, NOISE), y)

    found = pg.compare({"either": either, "degree 0": polynomial(0)}, y, t, progress=False)
    entry = found.entries["either"]
    assert entry.loo is None and "has no draws of 'level'" in entry.reasons["loo"]
    assert entry.evidence is not None and list(found.weights) == ["degree 0"]
    assert "either: no leave-one-out: loo: " in str(found)


def test_an_influential_datum_is_remarked(data) -> None:
    y, t, _, _ = data
    y, t = y.clone(), t.clone()
    y[3], t[3] = 60.0, 20.0
    found = pg.compare({"line": polynomial(1)}, y, t, progress=False)
    assert "above 0.7 for" in found.entries["line"].remarks["loo"] and found.to_pandas()["bad_khat"]["line"] >= 1


def test_entries_and_columns_that_are_none_are_refused(data) -> None:
    y, t, _, _ = data
    with pytest.raises(ValueError, match="give models by name"):
        pg.compare({}, y, t)
    with pytest.raises(TypeError, match="'a' is int: give a program"):
        pg.compare({"a": 3}, y, t)


def test_missing_entries_of_several_variables() -> None:
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pg.plate(x["y"]):
            return {name: pg.observe(name, dist.Normal(mean, 1.0), x[name]) for name in ("y", "u")}

    y, u = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
    y = torch.where(torch.arange(20) < 5, torch.nan, y)
    found = pg.compare({"a": model}, {"y": y, "u": u}, progress=False)
    seen = torch.cat([y[5:], u]).double()
    law = dist.MultivariateNormal(torch.zeros(35).double(), torch.eye(35).double() + 1)
    evidence = found.entries["a"].evidence
    assert abs(evidence.mean() - float(law.log_prob(seen))) < 4.5 * evidence.mean_standard_error()


@pytest.mark.slow
def test_the_model_that_made_the_data_is_picked() -> None:
    """In at least 18 of 20 folds; the exact evidence picks it in all 20."""
    picked, exact = 0, 0
    for fold in range(20):
        rng, truth = torch.Generator().manual_seed(fold), fold % len(DEGREES)
        t = 2 * torch.rand(60, generator=rng) - 1
        sign = 2.0 * (torch.rand(truth + 1, generator=rng) < 0.5) - 1
        y = basis(t, truth) @ (0.8 * sign) + NOISE * torch.randn(60, generator=rng)
        found = pg.compare({str(k): polynomial(k) for k in DEGREES}, y, t, seed=fold, progress=False)
        picked += found.best() == str(truth)
        exact += max(DEGREES, key=lambda k: exact_evidence(y, t, k)) == truth
    assert picked >= 18 and exact >= 18
