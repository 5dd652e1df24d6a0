"""What is said of draws: numbers against a direct computation and ArviZ, verdicts on runs that are known to be bad."""

import math
import sys
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from pyro_gen.inference.diagnose import Diagnosis, bfmi, diagnose, effective_draws, nested_rhat, summary
from pyro_gen.inference.posterior import posterior

# False alarms of the verdicts on good draws below: the thresholds of the nested R-hat are more than 5 standard errors
# away, "apart" and "drift" are tested at 5 standard errors, and the seeds are fixed: below 1e-5 each.


def draws_of(
    phi: float, chains: int, draws: int, parameters: int = 3, start: float | None = None, seed: int = 0
) -> Any:
    """Stationary autoregressive chains with standard normal marginals: (C, S, P); not stationary with a start."""
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, draws, parameters))
    x[:, 0] = rng.normal(size=(chains, parameters)) if start is None else start
    for t in range(1, draws):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * rng.normal(size=(chains, parameters))
    return x


def data_of(x: Any, stats: dict[str, Any] | None = None, **attrs: Any) -> az.InferenceData:
    dims = ("chain", "draw", "k")[: x.ndim]
    groups = {"posterior": xr.Dataset({"a": (dims, x)}, attrs=attrs)}
    if stats:
        groups["sample_stats"] = xr.Dataset({n: (("chain", "draw", "data")[: v.ndim], v) for n, v in stats.items()})
    return az.InferenceData(**groups)


def found(diagnosis: Diagnosis) -> set[str]:
    return {p.name for p in diagnosis.problems}


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


@pytest.mark.parametrize(
    "x",
    [
        draws_of(0.0, 4, 50),
        draws_of(0.9, 4, 501),
        draws_of(-0.6, 3, 100),
        np.round(draws_of(0.5, 5, 77)),
        np.round(0.3 * draws_of(0.99, 40, 60)),
        draws_of(0.5, 2, 8),
        np.random.default_rng(0).standard_cauchy((4, 100, 3)),
    ],
    ids=["independent", "slow", "antithetic", "ties", "few values", "short", "heavy tails"],
)
def test_numbers_are_those_of_arviz(x: Any) -> None:
    idata = data_of(x)
    table = summary(idata)
    expected = {
        "mean": idata.posterior["a"].mean(("chain", "draw")),
        "rhat": az.rhat(idata)["a"],
        "ess_bulk": az.ess(idata)["a"],
        "ess_tail": az.ess(idata, method="tail")["a"],
        "mcse_mean": az.mcse(idata)["a"],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(table["95%"], np.quantile(x, 0.95, axis=(0, 1)))
    assert list(table.index) == ["a[0]", "a[1]", "a[2]"]


def test_nested_rhat_is_that_of_a_direct_computation() -> None:
    chains, draws, per = 24, 30, 4
    x = draws_of(0.7, chains, draws, 1)[..., 0] + np.repeat(np.random.default_rng(1).normal(size=6), per)[:, None]

    def direct(x: Any) -> float:  # Margossian et al. (2024), definition 2.1, as it is written there
        centres, spreads = [], []
        for k in range(chains // per):
            members = [x[m] for m in range(k * per, (k + 1) * per)]
            means = [sum(m) / draws for m in members]
            centre = sum(means) / per
            between = sum((m - centre) ** 2 for m in means) / (per - 1)
            within = sum(sum((v - mean) ** 2 for v in m) / (draws - 1) for m, mean in zip(members, means, strict=True))
            centres.append(centre)
            spreads.append(between + within / per)
        grand = sum(centres) / len(centres)
        variance = sum((c - grand) ** 2 for c in centres) / (len(centres) - 1)
        return math.sqrt(1 + variance / (sum(spreads) / len(spreads)))

    def scores(x: Any) -> Any:
        from scipy.stats import norm, rankdata

        return norm.ppf((rankdata(x).reshape(x.shape) - 3 / 8) / (x.size + 1 / 4))

    expected = max(direct(scores(x)), direct(scores(abs(x - np.median(x)))))
    assert nested_rhat(x, superchains=per) == pytest.approx(expected, rel=1e-12)
    assert nested_rhat(x, superchains=np.repeat(np.arange(6), per)) == pytest.approx(expected, rel=1e-12)
    order = np.random.default_rng(2).permutation(chains)  # superchains need not be consecutive
    shuffled = nested_rhat(x[order], superchains=np.repeat(np.arange(6), per)[order])
    assert shuffled == pytest.approx(expected, rel=1e-12)


def test_bfmi_is_that_of_arviz() -> None:
    energy = np.random.default_rng(0).normal(size=(4, 100)).cumsum(1)
    np.testing.assert_allclose(bfmi(energy), az.bfmi(energy))


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.9])
def test_effective_draws_are_those_of_arviz(phi: float) -> None:
    x = draws_of(phi, 6, 300)[..., 0]
    assert effective_draws(x) == pytest.approx(float(az.ess(x, method="mean")))
    assert effective_draws(np.ones((3, 20))) == 60 and effective_draws(x[:, :7]) == 6


def test_names_have_the_labels_of_their_dimensions() -> None:
    values = np.random.default_rng(0).normal(size=(4, 20, 2, 2))
    variable = xr.DataArray(values, dims=("chain", "draw", "school", "b"), coords={"school": ["x", "y"]})
    table = summary(
        az.InferenceData(posterior=xr.Dataset({"a": variable, "m": variable[:, :, 0, 0].drop_vars("school")}))
    )
    assert list(table.index) == ["a[x, 0]", "a[x, 1]", "a[y, 0]", "a[y, 1]", "m"]


def test_many_parameters_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    idata = data_of(draws_of(0.5, 4, 50, 7))
    whole = summary(idata)
    # By name: a function of the same name may stand in the way of the module.
    for entries in (400, 250, 1):
        monkeypatch.setattr(sys.modules[summary.__module__], "ENTRIES", entries)
        assert summary(idata).equals(whole)
    labelled = idata.posterior.assign_coords(k=list("abcdefg"))
    assert list(summary(az.InferenceData(posterior=labelled)).index) == [f"a[{k}]" for k in "abcdefg"]


# ----------------------------------------------------------------------------------------------------------------------
# Verdicts


@pytest.mark.parametrize(("chains", "draws"), [(4, 1000), (64, 200), (1024, 40)])
@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_good_draws_pass(phi: float, chains: int, draws: int) -> None:
    diagnosis = diagnose(data_of(draws_of(phi, chains, draws, 20)))
    assert diagnosis.ok, str(diagnosis)
    assert "No problem found" in str(diagnosis)


def test_the_classic_rhat_would_fail_good_short_chains() -> None:
    table = summary(data_of(draws_of(0.5, 1024, 40, 20)))
    assert table["rhat"].min() > 1.01 and table["rhat_nested"].max() < 1.005


@pytest.mark.parametrize(("chains", "draws"), [(4, 500), (64, 200), (1024, 50)])
def test_two_modes_are_seen(chains: int, draws: int) -> None:
    x = draws_of(0.3, chains, draws)
    x[:, :, 1] += 8.0 * (np.random.default_rng(0).permutation(chains) % 2)[:, None]
    diagnosis = diagnose(data_of(x))
    problem = next(p for p in diagnosis.problems if p.name == ("apart" if chains >= 32 else "convergence"))
    assert problem.where == ("a[1]",) and 'method="tempering"' in problem.text
    if chains == 1024:  # where groups of independent chains average the modes out, as the nested R-hat does
        assert diagnosis.table["rhat_nested"].max() < 1.01


def test_few_chains_in_a_small_mode_are_seen() -> None:
    x = draws_of(0.3, 256, 100)
    x[:5, :, 2] += 6.0
    problems = {p.name: p.where for p in diagnose(data_of(x)).problems}
    assert problems["apart"] == ("a[2]",)


@pytest.mark.parametrize("chains", [4, 64, 1024])
def test_draws_that_have_not_arrived_are_seen(chains: int) -> None:
    diagnosis = diagnose(data_of(draws_of(0.98, chains, 100, start=4.0)))
    assert ("drift" if chains >= 32 else "convergence") in found(diagnosis)
    assert "longer warm-up" in str(diagnosis)


def test_chains_that_differ_in_scale_are_seen() -> None:
    x = draws_of(0.0, 4, 500)
    x[0] *= 3
    assert "convergence" in found(diagnose(data_of(x)))


def test_superchains_that_remember_their_start_are_seen() -> None:
    x = draws_of(0.98, 64, 30, start=None)
    x[:, :, 0] += np.repeat(np.random.default_rng(3).normal(size=8), 8)[:, None] * 2
    assert summary(data_of(x, superchains=8))["rhat_nested"].iloc[0] > 1.5
    assert "convergence" in found(diagnose(data_of(x), superchains=8))


def test_slow_chains_are_told_to_run_longer() -> None:
    diagnosis = diagnose(data_of(draws_of(0.95, 4, 1000, 1)))
    problem = next(p for p in diagnosis.problems if p.name == "ess")
    factor = int(problem.text.split("about ")[1].split()[0])
    ess = diagnosis.table[["ess_bulk", "ess_tail"]].min(axis=None)
    assert 400 / ess <= factor <= 400 / ess + 1


def test_constants_and_whole_numbers_are_no_problem() -> None:
    x = draws_of(0.0, 4, 500)
    x[:, :, 1] = 1.0  # the first diagonal entry of a correlation matrix
    x[:, :, 2] = np.random.default_rng(0).poisson(3.0, size=(4, 500))
    diagnosis = diagnose(data_of(x))
    assert diagnosis.ok, str(diagnosis)


def test_draws_that_are_not_numbers_are_named() -> None:
    x = draws_of(0.0, 4, 100)
    x[0, 3, 1] = np.nan
    assert "not finite" in found(diagnose(data_of(x)))


def transitions(chains: int = 64, draws: int = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shape = (chains, draws)
    return {
        "lp": rng.normal(size=shape),
        "energy": rng.normal(size=shape),
        "diverging": np.zeros(shape, bool),
        "tree_depth": np.full(shape, 3),
        "acceptance_rate": np.full(shape, 0.8),
    }


@pytest.mark.parametrize("chains", [4, 64])
def test_good_transitions_pass(chains: int) -> None:
    diagnosis = diagnose(data_of(draws_of(0.0, chains, 200), transitions(chains), method="nuts", restarted=0))
    assert diagnosis.ok, str(diagnosis)


def test_what_the_sampler_met_is_said() -> None:
    x, good = draws_of(0.0, 64, 200), transitions()

    def problems(method: str = "nuts", restarted: int = 0, **bad: Any) -> dict[str, Any]:
        diagnosis = diagnose(data_of(x, good | bad, method=method, restarted=restarted))
        return {p.name: p for p in diagnosis.problems}

    diverging = good["diverging"].copy()
    diverging[10, :30] = True
    problem = problems(diverging=diverging)["divergences"]
    assert problem.where == ("chain 10",) and "non-centred" in problem.text and "30 of 12,800" in problem.text
    diverging = good["diverging"].copy()
    diverging[3, 7] = True
    assert problems(diverging=diverging) == {}  # one in 12,800

    slow = np.random.default_rng(0).normal(size=(64, 200)).cumsum(1)
    assert "non-centred" in problems(energy=slow)["bfmi"].text
    assert problems(method="rwm", energy=slow) == {}  # no momentum, so no fraction of missing information

    # Thinned, successive energies are those of transitions far apart: slow chains look fast, so nothing is said.
    thinned = diagnose(data_of(x, good | {"energy": slow}, method="nuts", thin=10))
    assert thinned.ok and "bfmi" not in thinned.figures

    deep = good["tree_depth"].copy()
    deep[:, ::10] = 10
    assert "10%" in problems(tree_depth=deep)["tree_depth"].text

    lp = good["lp"].copy()
    lp[5] = lp[5, 0]
    stuck = problems(lp=lp)["stuck"]
    assert stuck.where == ("chain 5",) and "1 of 64 chains" in stuck.text

    assert problems(restarted=6) == {}
    assert "6" not in problems(restarted=7) and "7 of 64" in problems(restarted=7)["restarted"].text


def test_a_target_per_datum_counts_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(64, 200, 5))
    stats = {n: np.repeat(v[..., None], 5, 2) for n, v in transitions().items()}
    stats["lp"][2, :, 1] = 0.0
    problem = next(p for p in diagnose(data_of(x, stats, method="hmc")).problems if p.name == "stuck")
    assert problem.where == ("chain 2",) and "1 of 320 pairs of chain and datum" in problem.text


# ----------------------------------------------------------------------------------------------------------------------
# Weighted draws


def weighted(scale: float, count: int = 4000) -> az.InferenceData:
    """Draws of N(0, scale^2) weighted to be of N(0, 1), with the k-hat of the weights."""
    from pyro_gen.inference.likelihood.weights import psis_khat

    x = scale * np.random.default_rng(0).normal(size=(1, count))
    log_w = -0.5 * x**2 + 0.5 * (x / scale) ** 2
    idata = data_of(x, {"log_weight": log_w}, method="guide")
    idata.sample_stats["khat"] = float(psis_khat(torch.from_numpy(log_w).T)[0])
    return idata


def test_moments_of_weighted_draws() -> None:
    row = summary(weighted(1.5)).iloc[0]
    assert abs(row["mean"]) < 5 * row["mcse_mean"]
    # The variance of a squared normal is 2, and weights of 1.5 leave more than half of the draws: 5 standard errors.
    assert abs(row["sd"] - 1) < 5 * math.sqrt(2 / row["ess"]) / 2
    assert abs(row["95%"] - 1.645) < 0.15 and abs(row["5%"] + 1.645) < 0.15 and abs(row["50%"]) < 0.1
    assert diagnose(weighted(1.5)).ok
    ignored = summary(data_of(weighted(1.5).posterior["a"].values)).iloc[0]  # the defect: weights left out
    assert abs(ignored["sd"] - 1) > 5 * math.sqrt(2 / row["ess"]) / 2


def test_bad_weights_are_said() -> None:
    diagnosis = diagnose(weighted(0.4))
    assert "weights" in found(diagnosis) and "misses part of the posterior" in str(diagnosis)


def test_weights_that_are_not_numbers_are_said() -> None:
    from pyro_gen.inference.likelihood.weights import psis_khat

    for bad in (math.nan, math.inf):
        idata = weighted(1.5)
        idata.sample_stats["log_weight"].values[0, 7] = bad
        khat = float(psis_khat(torch.from_numpy(idata.sample_stats["log_weight"].values.T.copy()))[0])
        assert khat == math.inf
        assert found(diagnose(idata)) == {"ess"}  # for what islands of particles give, which have no k-hat
        idata.sample_stats["khat"] = khat
        assert found(diagnose(idata)) == {"ess", "weights"}


def test_islands_that_differ_count_for_less() -> None:
    x = draws_of(0.0, 8, 500, 1)[..., 0]
    equal = np.zeros((8, 500))
    assert summary(data_of(x, {"log_weight": equal}))["ess"].iloc[0] > 1000
    x += np.arange(8)[:, None] - 3.5
    assert summary(data_of(x, {"log_weight": equal}))["ess"].iloc[0] < 20


# ----------------------------------------------------------------------------------------------------------------------
# Real runs


Y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def centred() -> None:
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, SIGMA), obs=Y)


def non_centred() -> None:
    mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", 8):
        theta = mu + tau * pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(theta, SIGMA), obs=Y)


def test_the_centred_funnel_is_flagged_and_the_other_form_passes() -> None:
    settings = {
        "chains": 64,
        "draws": 100,
        "warmup": 200,
        "max_steps": 24,
        "log_likelihood": False,
        "predictive": False,
    }
    bad, good = (diagnose(posterior(m, progress=False, **settings)) for m in (centred, non_centred))
    assert good.ok, str(good)
    assert "bfmi" in found(bad) and "non-centred" in str(bad)


def test_json_and_text() -> None:
    diagnosis = diagnose(data_of(draws_of(0.3, 4, 50) + np.arange(4)[:, None, None]))
    as_dict = diagnosis.to_dict()
    assert as_dict["ok"] is False and {p["name"] for p in as_dict["problems"]} == found(diagnosis)
    assert as_dict["figures"]["rhat"] > 1.1
    text = str(diagnosis)
    assert text.startswith("draws: 4 chains of 50 draws, 3 parameters: R-hat at most")
    assert all(f"- {p.text}" in text for p in diagnosis.problems)


def test_wrong_inputs() -> None:
    with pytest.raises(TypeError, match=r"expected an arviz.InferenceData .* got list"):
        diagnose([1.0, 2.0])
    with pytest.raises(ValueError, match="there are 3 draws per chain"):
        diagnose(data_of(np.zeros((4, 3))))
    with pytest.raises(ValueError, match=r"superchains=4 for 4 chains: give how many consecutive chains"):
        diagnose(data_of(draws_of(0.0, 4, 20)), superchains=4)
    with pytest.raises(ValueError, match=r"superchains=\[0, 1\] for 4 chains"):
        diagnose(data_of(draws_of(0.0, 4, 20)), superchains=[0, 1])


def autoregressive(rng, chains, draws, share, parameters=1):
    x = rng.normal(size=(parameters, chains, draws + 200))
    for t in range(1, draws + 200):
        x[:, :, t] = share * x[:, :, t - 1] + np.sqrt(1 - share**2) * x[:, :, t]
    return np.moveaxis(x[:, :, 200:], 0, -1)


# R-hat above 1.01 that correlated draws of converged chains have by chance is no disagreement. The limit is passed by
# 3e-7 of parameters; 400 x 3 of them: by 4e-4 of seeds for normal scores as they are correlated, and it is fixed here.
@pytest.mark.parametrize(("chains", "draws"), [(16, 100), (4, 300), (48, 60)])
def test_chance_is_not_called_disagreement(chains, draws):
    x = autoregressive(np.random.default_rng(8), chains, draws, 0.5, 400)
    found = diagnose(az.from_dict(posterior={"x": x}))
    assert "convergence" not in [p.name for p in found.problems]
    if chains == 16:  # the verdict at 1.01 accused these
        assert (found.table["rhat"] > 1.01).mean() > 0.5
        assert diagnose(az.from_dict(posterior={"x": x[..., 0]})).ok


@pytest.mark.parametrize(("chains", "draws"), [(16, 100), (4, 300), (48, 60)])
def test_twin_a_quarter_of_the_chains_elsewhere(chains, draws):
    x = autoregressive(np.random.default_rng(8), chains, draws, 0.5)
    x[: chains // 4] += 1.5
    found = diagnose(az.from_dict(posterior={"x": x}))
    assert "convergence" in [p.name for p in found.problems]
    text = next(p.text for p in found.problems if p.name == "convergence")
    assert "differ by more than chance" in text and "at most, as they are correlated" in text


def test_few_draws_are_called_few():
    x = autoregressive(np.random.default_rng(8), 4, 100, 0.8)
    assert [p.name for p in diagnose(az.from_dict(posterior={"x": x})).problems] == ["ess"]


def test_independent_draws_need_no_effective_sample_size() -> None:
    """Of 200 exact draws of a coin the effective number in the tails is an estimate, and below 400 at any rate."""
    draws = (np.random.default_rng(0).random((2, 100)) < 0.5).astype(float)
    assert not diagnose(az.from_dict(posterior={"z": draws})).ok
    exact = az.from_dict(posterior={"z": draws})
    exact.posterior.attrs["method"] = "exact"
    assert diagnose(exact).ok
