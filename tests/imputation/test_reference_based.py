"""Reference-based imputation: the distributions of rbmi's own tests, conditional moments, and simulated trials."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.distributions.gaussian import condition
from pyro_gen.imputation import reference_based as module
from pyro_gen.imputation.reference_based import STRATEGIES, adjusted, impute_by_reference

DOUBLE = torch.float64


def moments(seed, size=4):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size + 2, generator=generator, dtype=DOUBLE)
    return torch.randn(size, generator=generator, dtype=DOUBLE), a @ a.T


# rbmi, tests/testthat/test-strategies.R: means under JR and CIR, and which covariance it is at the edges.
def test_means_are_those_of_rbmi():
    eye = torch.eye(3)
    own, reference = (torch.tensor([1.0, 3.0, 5.0]), eye), (torch.tensor([2.0, 6.0, 10.0]), eye)
    expected = {"J2R": [1, 6, 10], "CIR": [1, 5, 9], "CR": [2, 6, 10], "MAR": [1, 3, 5]}
    for name in STRATEGIES:
        loc, covariance = adjusted(name, own, reference, 1)
        assert loc.tolist() == expected[name] and torch.equal(covariance, eye)


@pytest.mark.parametrize("strategy", ["J2R", "CIR"])
def test_covariances_by_hand(strategy):
    # Before: 1.5 and 0.5. G = (0.2, 0.2) / 1.4 = (1, 1) / 7; across (1.5 + 0.5) / 7; after 1.2 + 4 * 0.3 / 49.
    own = (torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE) + 0.5)
    reference = (torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE) + 0.2)
    _, covariance = adjusted(strategy, own, reference, 2)
    expected = torch.tensor([[1.5, 0.5, 2 / 7], [0.5, 1.5, 2 / 7], [2 / 7, 2 / 7, 60 / 49]], dtype=DOUBLE)
    torch.testing.assert_close(covariance, expected)
    # Who was seen to the end is of the own arm, who was never seen of the other; equal covariances stay.
    assert adjusted(strategy, own, reference, 3) is own and adjusted(strategy, own, reference, 0) is reference
    torch.testing.assert_close(adjusted(strategy, own, (own[0] + 1, own[1]), 2)[1], own[1])


def test_what_comes_after_is_the_regression_of_the_reference_arm():
    own, reference = moments(0), moments(1)
    x = torch.tensor([[0.3, -1.0, torch.nan, torch.nan]], dtype=DOUBLE)
    (loc, cov), (ref_loc, ref) = own, reference
    gain = ref[2:, :2] @ torch.linalg.inv(ref[:2, :2])
    residual = (ref[2:, 2:] - gain @ ref[:2, 2:]).diagonal()
    expected = {
        "J2R": ref_loc[2:] + gain @ (x[0, :2] - loc[:2]),
        "CIR": ref_loc[2:] + loc[1] - ref_loc[1] + gain @ (x[0, :2] - loc[:2]),
        "CR": ref_loc[2:] + gain @ (x[0, :2] - ref_loc[:2]),
    }
    for name, mean in expected.items():
        joint = adjusted(name, own, reference, 2)
        assert bool((torch.linalg.eigvalsh(joint[1]) > 0).all())
        found, variance = condition(x, *joint)
        torch.testing.assert_close(found[0, 2:], mean)
        torch.testing.assert_close(variance[0, 2:], residual)
    # A hole before the last visit seen is filled from the own arm, by what was seen before and after it.
    x = torch.tensor([[0.3, torch.nan, 2.0, torch.nan]], dtype=DOUBLE)
    alone = condition(x[:, :3], loc[:3], cov[:3, :3])[0]
    for name in ("J2R", "CIR", "MAR"):
        torch.testing.assert_close(condition(x, *adjusted(name, own, reference, 3))[0][:, 1], alone[:, 1])


LOC = {"drug": [0.0, -4.0, -10.0], "placebo": [0.0, -1.0, -2.0]}
SPREAD = np.array([[1.0, 0.8, 1.0], [0.8, 4.0, 5.0], [1.0, 5.0, 9.0]])  # visits differ in their scale
COVARIANCE = {"drug": SPREAD, "placebo": SPREAD * [[1.0, 0.5, 0.5], [0.5, 1.0, 0.4], [0.5, 0.4, 1.0]]}
VISITS = ["week0", "week4", "week8"]


def trial(rows=3000, seed=0):
    """Both arms; who does badly at a visit is likelier not to come again."""
    rng = np.random.default_rng(seed)
    parts = []
    for arm in ("drug", "placebo"):
        x = rng.multivariate_normal(LOC[arm], COVARIANCE[arm], rows)
        for visit in (1, 2):
            gone = rng.random(rows) < 1 / (1 + np.exp(1.5 - (x[:, visit - 1] - LOC[arm][visit - 1])))
            x[gone | np.isnan(x[:, visit - 1]), visit] = np.nan
        parts.append(pd.DataFrame(x, columns=VISITS).assign(arm=arm))
    return pd.concat(parts, ignore_index=True)


def deviation(table, completed, strategy):
    """The largest deviation of mean imputations at week 8 from those of the true parameters, in posterior sds."""
    own, reference = (
        (torch.tensor(LOC[arm], dtype=DOUBLE), torch.tensor(COVARIANCE[arm])) for arm in ("drug", "placebo")
    )
    worst = 0.0
    for seen in (1, 2):
        hole = table["week8"].isna() & (table["week4"].isna() == (seen == 1)) & (table["arm"] == "drug")
        x = torch.tensor(table.loc[hole, VISITS].to_numpy())
        expected = float(condition(x, *adjusted(strategy, own, reference, seen))[0][:, 2].mean())
        means = np.array([t.loc[hole, "week8"].mean() for t in completed])
        worst = max(worst, abs(means.mean() - expected) / means.std(ddof=1))
    return worst


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_imputations_of_a_trial_are_those_of_its_strategy(strategy):
    table = trial()
    completed = impute_by_reference(table, VISITS, arm="arm", reference="placebo", strategy=strategy, draws=25)
    # The posterior mean is off the truth by as much as the posterior is wide. Two means each, t with 24 degrees of
    # freedom beyond 5: false alarm 1e-4. The other strategies are the twins: not one of them passes for this one.
    assert deviation(table, completed, strategy) < 5
    assert all(deviation(table, completed, other) > 5 for other in STRATEGIES if other != strategy)
    for t in completed:
        pd.testing.assert_frame_equal(t.where(table.notna()), table)


def spread_of_means():
    """Of the means of 400 imputations, over their draws: by how little 20 subjects of the reference arm tell."""
    rng = np.random.default_rng(3)
    week4 = np.concatenate([rng.normal(size=20), rng.normal(size=30), np.full(400, np.nan)])
    table = pd.DataFrame({"arm": ["r"] * 20 + ["a"] * 430, "week0": rng.normal(size=450), "week4": week4})
    completed = impute_by_reference(table, ["week0", "week4"], arm="arm", reference="r", strategy="CR", draws=50)
    return np.var([t["week4"][50:].mean() for t in completed], ddof=1) / np.var(week4[:20], ddof=2) * 20


def test_draws_differ_by_the_uncertainty_of_the_parameters():
    # About 1 + 20 / 400, a little more for the posterior of the variance: chi-square with 49 degrees of freedom, of
    # draws that are nearly independent, between 0.4 and 2.2: false alarm below 1e-4.
    assert 0.4 < spread_of_means() < 2.2


def test_a_plug_in_of_the_parameters_would_be_seen(monkeypatch):
    drawn = module._moments
    monkeypatch.setattr(module, "_moments", lambda program, s, scaling: drawn(program, 0, scaling))
    assert spread_of_means() < 0.4


def test_arms_have_strategies_of_their_own_and_seeds_tell(untouched_rng):
    table = trial(60)
    table["arm"] = np.where(np.arange(120) % 2, table["arm"], "other")
    run = {"arm": "arm", "reference": "placebo", "draws": 2}
    mixed = impute_by_reference(table, VISITS, strategy={"drug": "J2R"}, **run)
    assert mixed.info["strategy"] == {"drug": "J2R", "other": "MAR", "placebo": "MAR"}
    whole = impute_by_reference(table, VISITS, strategy="J2R", **run)
    others = table["arm"] == "other"
    hole = table["week8"].isna()
    assert (mixed[0]["week8"] == whole[0]["week8"])[~others].all()
    assert (mixed[0]["week8"] != whole[0]["week8"])[others & hole].all()
    again = impute_by_reference(table, VISITS, strategy="J2R", **run)
    pd.testing.assert_frame_equal(again[1], whole[1])
    other = impute_by_reference(table, VISITS, strategy="J2R", seed=1, **run)
    assert (other[1]["week8"] != whole[1]["week8"])[hole].all()
    delta = whole.delta({"week8": 2.0})
    assert np.allclose((delta[0]["week8"] - whole[0]["week8"])[hole], 2.0)


def test_arrays_are_tables_too():
    table = trial(50)
    array = np.column_stack([table[VISITS].to_numpy(), table["arm"] == "drug"])
    completed = impute_by_reference(array, ["x0", "x1", "x2"], arm="x3", reference=0, draws=2)
    assert isinstance(completed[0], np.ndarray) and not np.isnan(completed[1]).any()


TABLE = trial(30)
GOOD = {"visits": VISITS, "arm": "arm", "reference": "placebo"}


@pytest.mark.parametrize(
    ("change", "table", "message"),
    [
        ({"visits": []}, TABLE, "give columns in the order of time"),
        ({"visits": ["week0", "arm"]}, TABLE, "without that of the arms"),
        ({"visits": ["week0", "week1"]}, TABLE, "no column 'week1'; there are 'week0'"),
        ({"reference": "aspirin"}, TABLE, "no such arm; there are 'drug', 'placebo'"),
        ({"strategy": "LOCF"}, TABLE, "choose one of J2R, CR, CIR, MAR"),
        ({"draws": 0}, TABLE, r"draws=0\): give a positive number"),
        ({"strategy": {"aspirin": "J2R"}}, TABLE, "strategy: no arm 'aspirin'"),
        ({"arm": "week0", "visits": VISITS[1:]}, TABLE, "arm 'week0' is real"),
        ({}, TABLE.assign(week4=TABLE["week4"].abs().round()), "visit 'week4' is count, and visits are normal"),
        ({"visits": VISITS[:2]}, TABLE, "'week8' has missing entries and is no visit"),
        ({}, TABLE.assign(arm=TABLE["arm"].where(TABLE.index > 0)), "arm 'arm' has missing entries"),
        ({}, TABLE.assign(week8=TABLE["week8"].where(TABLE["arm"] == "drug")), "arm 'placebo' has no observed value"),
    ],
)
def test_what_cannot_be_imputed_is_named(change, table, message):
    with pytest.raises(ValueError, match=message):
        impute_by_reference(table, **{**GOOD, **change})


def test_visits_are_a_sequence():
    with pytest.raises(TypeError, match=r"visits='week4': give a sequence of columns"):
        impute_by_reference(TABLE, **{**GOOD, "visits": "week4"})
