"""Posteriors by every method against conjugate answers; runs that stop and go on; targets per datum; wrong inputs."""

import copy
import errno
import inspect
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from pyro_gen import Program, observe
from pyro_gen.inference import export, run_state
from pyro_gen.inference import progress as bars
from pyro_gen.inference.diagnose import diagnose, summary
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.run_state import RunState
from pyro_gen.inference.storage import Disk, store

X = torch.tensor([0.8, 1.9, 2.5, -0.3, 1.1])


def conjugate(x: Tensor) -> None:
    """The posterior of the mean is normal: 1 / (1 / 4 + 5) and that times the sum of x."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


VARIANCE = 1 / (1 / 4 + 5)
MEAN = VARIANCE * float(X.sum())


def broken(x: Tensor) -> None:
    """The defect: another prior."""
    mean = pyro.sample("mean", dist.Normal(0.0, 0.6))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def z_scores(idata: Any) -> list[float]:
    """Of the first two moments against the exact ones, by our own Monte Carlo errors."""
    out = []
    for power, expected in ((1, MEAN), (2, VARIANCE + MEAN**2)):
        moment = az.InferenceData(
            posterior=idata.posterior[["mean"]].astype(float) ** power,
            **({"sample_stats": idata.sample_stats[["log_weight"]]} if "log_weight" in idata.sample_stats else {}),
        )
        row = summary(moment).iloc[0]
        out.append(abs(row["mean"] - expected) / row["mcse_mean"])
    return out


# |z| < 5 twice for each method: false alarms 1e-6 each.
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("auto", {"chains": 64, "draws": 100}),
        ("hmc", {"chains": 8, "draws": 300, "warmup": 300, "thin": 2}),
        ("mala", {"chains": 64, "draws": 200, "warmup": 200}),
        ("nuts", {"chains": 16, "draws": 200, "warmup": 200}),
        ("rwm", {"chains": 64, "draws": 200, "warmup": 200, "thin": 3}),
        ("tempering", {"chains": 32, "draws": 200, "warmup": 200}),
        ("smc", {"chains": 8, "draws": 512}),
    ],
)
def test_moments_are_those_of_the_conjugate_posterior(
    method: str, settings: dict[str, Any], untouched_rng: None
) -> None:
    idata = posterior(conjugate, X, method=method, progress=False, **settings)
    assert max(z_scores(idata)) < 5
    assert idata.posterior.sizes["chain"] == settings["chains"] and idata.posterior.sizes["draw"] == settings["draws"]
    assert diagnose(idata).ok, str(diagnose(idata))


def test_another_prior_would_be_seen() -> None:
    assert max(z_scores(posterior(broken, X, chains=64, draws=100, progress=False))) > 5


def test_smc_gives_the_evidence() -> None:
    idata = posterior(conjugate, X, method="smc", progress=False)
    covariance = torch.eye(5) + 4.0
    exact = dist.MultivariateNormal(torch.zeros(5), covariance).log_prob(X)
    error = idata.posterior.attrs["log_evidence_error"]
    assert 0 < error < 0.1 and abs(idata.posterior.attrs["log_evidence"] - float(exact)) < 5 * error + 0.01


def signed(x: Tensor) -> None:
    """A discrete site beside a continuous one, the two of which trade places."""
    sign = pyro.sample("sign", dist.Bernoulli(0.8))
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean + 0.6 * (2 * sign - 1), 1.0), obs=x)


def test_gibbs_keeps_the_sites_that_it_updates() -> None:
    x = torch.tensor([1.2, 0.3, 1.1])
    settings: dict[str, Any] = {"blocks": {"sign": "enumerate"}, "chains": 256, "draws": 100, "progress": False}
    idata = posterior(signed, x, method="gibbs", **settings)
    # p(x | sign) is a normal density with the mean +-0.6 and the covariance 1 + 4 everywhere.
    marginal = [dist.MultivariateNormal(torch.full((3,), m), torch.eye(3) + 4.0).log_prob(x) for m in (-0.6, 0.6)]
    odds = (torch.stack(marginal) + torch.tensor([0.2, 0.8]).log()).softmax(0)
    row = summary(idata).loc["sign"]
    assert abs(row["mean"] - float(odds[1])) < 5 * row["mcse_mean"] and row["mcse_mean"] < 0.1
    values = {n: torch.from_numpy(idata.posterior[n].values).unsqueeze(-1) for n in ("sign", "mean")}
    expected = dist.Normal(values["mean"] + 0.6 * (2 * values["sign"] - 1), 1.0).log_prob(x)
    torch.testing.assert_close(torch.from_numpy(idata.log_likelihood["x"].values), expected, rtol=1e-5, atol=1e-4)
    replicated = torch.from_numpy(idata.posterior_predictive["x"].values)
    centre = values["mean"] + 0.6 * (2 * values["sign"] - 1)
    # 25,600 x 3 standard normals: 5 standard errors.
    assert abs(float((replicated - centre).mean())) < 5 / 76800**0.5


def test_nuts_notes_its_greatest_depth() -> None:
    idata = posterior(conjugate, X, method="nuts", chains=4, draws=20, warmup=30, max_depth=1, progress=False)
    assert idata.posterior.attrs["max_tree_depth"] == 1
    assert "tree_depth" in {p.name for p in diagnose(idata).problems}


# ----------------------------------------------------------------------------------------------------------------------
# Guides


class Conjugate(Program):
    """A guide that is too wide by a factor."""

    def __init__(self, factor: float = 1.2) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(factor * math.sqrt(VARIANCE)))

    def model(self, x: Tensor) -> Tensor:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        pyro.deterministic("double", 2 * mean)
        with self.plate(x):
            return observe("x", dist.Normal(mean, 1.0), x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(MEAN, self.scale))


class Local(Program):
    """x_n ~ N(z_n, 1), z_n ~ N(0, 1), so that z_n | x_n ~ N(x_n / 2, 1 / 2)."""

    def __init__(self, scale: float = 0.8) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return observe("x", dist.Normal(z, 1.0).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            pyro.sample("z", dist.Normal(x / 2, self.scale).to_event(1))


def test_draws_of_the_guide_are_weighted() -> None:
    idata = posterior(Conjugate(1.4), X, method="guide", draws=4000)
    assert idata.posterior["mean"].shape == (1, 4000) and idata.posterior.attrs["method"] == "guide"
    assert max(z_scores(idata)) < 5
    np.testing.assert_allclose(idata.posterior["double"], 2 * idata.posterior["mean"], rtol=1e-6)
    unweighted = az.InferenceData(posterior=idata.posterior, sample_stats=idata.sample_stats.drop_vars("log_weight"))
    assert max(z_scores(unweighted)) > 5  # the defect: weights left out
    assert float(idata.sample_stats["khat"]) < 0.7 and diagnose(idata).ok


def test_a_bad_guide_is_flagged() -> None:
    diagnosis = diagnose(posterior(Conjugate(0.3), X, method="guide"))
    assert "weights" in {p.name for p in diagnosis.problems}


def test_a_guide_of_local_latents_has_weights_per_datum() -> None:
    x = torch.tensor([[1.0, -1.0], [3.0, 0.0], [0.5, 2.0]])
    idata = posterior(Local(), x, method="guide", draws=5000)
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw", "data")
    assert idata.sample_stats["khat"].dims == ("data",)
    table = summary(idata)
    assert (np.abs(table["mean"] - x.flatten().numpy() / 2) < 5 * table["mcse_mean"]).all()
    assert (np.abs(table["sd"] - math.sqrt(0.5)) < 0.06).all() and diagnose(idata).ok
    broken = idata.copy()
    broken.sample_stats["log_weight"] = -broken.sample_stats["log_weight"]
    assert (np.abs(summary(broken)["sd"] - math.sqrt(0.5)) > 0.06).any()


def test_weighted_draws_on_disk(tmp_path: Path) -> None:
    kept = posterior(Conjugate(), X, method="guide", draws=250)
    for name in ("g.nc", "g.zarr"):
        found = posterior(Conjugate(), X, method="guide", draws=250, save=tmp_path / name)
        for group in kept.groups():
            xr.testing.assert_equal(kept[group], found[group].load())
            found[group].close()


# ----------------------------------------------------------------------------------------------------------------------
# One target per datum


def test_local_latents_have_chains_per_datum() -> None:
    x = torch.tensor([[1.0, -1.0], [3.0, torch.nan], [0.5, 2.0]])
    idata = posterior(Local(), x, chains=64, draws=60, progress=False)
    assert idata.posterior["z"].dims == ("chain", "draw", "data", "z_dim_1")
    assert idata.sample_stats["lp"].dims == ("chain", "draw", "data")
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "data")
    table = summary(idata)
    seen = ~x.isnan().flatten().numpy()
    mean = (x / 2).nan_to_num().flatten().numpy()
    sd = np.where(seen, math.sqrt(0.5), 1.0)  # where nothing was seen, the prior
    assert (np.abs(table["mean"] - mean) < 5 * table["mcse_mean"]).all()
    assert (np.abs(table["sd"] - sd) < 0.06 * sd).all()  # 3000 effective draws: more than 4.5 standard errors
    assert diagnose(idata).ok, str(diagnose(idata))


# ----------------------------------------------------------------------------------------------------------------------
# Groups


def test_groups_and_their_options() -> None:
    idata = posterior(conjugate, X, chains=4, draws=10, warmup=20, keep_warmup=True, progress=False)
    assert set(idata.groups()) == {
        *("posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data"),
        *("warmup_posterior", "warmup_sample_stats"),
    }
    assert idata.warmup_posterior["mean"].shape == (4, 20) and idata.warmup_sample_stats["lp"].shape == (4, 20)
    assert {"lp", "energy", "acceptance_rate", "n_steps", "diverging", "step_size"} <= set(idata.sample_stats)
    np.testing.assert_array_equal(idata.observed_data["x"], X)
    mean = torch.from_numpy(idata.posterior["mean"].values).unsqueeze(-1)
    torch.testing.assert_close(
        torch.from_numpy(idata.log_likelihood["x"].values), dist.Normal(mean, 1.0).log_prob(X), rtol=1e-5, atol=1e-5
    )
    bare = posterior(
        conjugate, X, chains=4, draws=10, warmup=20, progress=False, log_likelihood=False, predictive=False
    )
    assert set(bare.groups()) == {"posterior", "sample_stats", "observed_data"}
    xr.testing.assert_equal(bare.posterior, idata.posterior)
    assert '"iterations": 20' in idata.posterior.attrs["warmup"]


@pytest.mark.parametrize("init", [torch.zeros(6, 1), {"mean": torch.zeros(6)}], ids=["points", "values"])
def test_a_chain_for_each_starting_point_and_what_thinning_is_noted(init: Any) -> None:
    idata = posterior(conjugate, X, init=init, draws=10, warmup=10, thin=2, progress=False)
    assert idata.posterior.sizes["chain"] == 6 and idata.posterior.attrs["thin"] == 2
    assert "bfmi" not in diagnose(idata).figures  # energies of every other transition


def test_groups_that_nobody_asked_for_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inspect.unwrap(posterior).__globals__, "LIMIT", 100)
    settings = {"chains": 4, "draws": 10, "warmup": 20, "progress": False}
    with pytest.warns(UserWarning, match="log_likelihood would be 200 numbers, so it is left out"):
        idata = posterior(conjugate, X, predictive=False, **settings)
    assert "log_likelihood" not in idata.groups()
    assert "log_likelihood" in posterior(conjugate, X, log_likelihood=True, predictive=False, **settings).groups()


@pytest.mark.parametrize(
    "convert", [lambda x: x.numpy(), pd.Series, lambda x: x.tolist()], ids=["array", "series", "list"]
)
def test_data_as_users_have_it(convert: Callable[[Tensor], Any]) -> None:
    settings = {"chains": 4, "draws": 5, "warmup": 10, "progress": False}
    xr.testing.assert_equal(
        posterior(Conjugate(), convert(X), **settings).posterior, posterior(Conjugate(), X, **settings).posterior
    )


def test_arrays_for_functions_keep_whole_numbers() -> None:
    def model(x: Tensor, group: Tensor) -> None:
        with pyro.plate("group", 2):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean[group], 1.0), obs=x)

    idata = posterior(model, X.numpy(), np.array([0, 1, 0, 1, 1]), chains=4, draws=5, warmup=10, progress=False)
    assert idata.posterior["mean"].dims == ("chain", "draw", "group")


def test_functions_find_columns_of_a_frame_by_name() -> None:
    def model(table: pd.DataFrame) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(table)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(table["x"].to_numpy()))

    table = pd.DataFrame({"name": ["a"] * 5, "x": X.numpy()})
    idata = posterior(model, table, chains=4, draws=5, warmup=10, progress=False)
    assert np.array_equal(idata.observed_data["x"], X.numpy())


def test_replicated_counts_of_a_single_binomial() -> None:
    """A number of trials that all draws share; torch must not warn of how it makes them."""

    def model(k: Tensor) -> None:
        pyro.sample("k", dist.Binomial(10, pyro.sample("p", dist.Beta(2.0, 2.0))), obs=k)

    idata = posterior(model, torch.tensor(3.0), chains=16, draws=100, progress=False)
    counts = idata.posterior_predictive["k"].values - 10 * idata.posterior["p"].values
    assert counts.std() > 1
    assert abs(counts.mean()) < 4 * counts.std() / math.sqrt(counts.size)  # false alarms: 6e-5


def test_infinite_data_are_named() -> None:
    x = X.clone()
    x[2] = torch.inf
    with pytest.raises(ValueError, match="observed values of 'x' hold infinities"):
        posterior(conjugate, x, chains=4, draws=5, warmup=10, progress=False)


def test_a_factor_alone_gives_no_groups_of_data() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", -0.5 * (z - 1.0) ** 2)

    idata = posterior(model, chains=4, draws=10, warmup=20, progress=False)
    assert set(idata.groups()) == {"posterior", "sample_stats"}


class Undrawable(dist.Normal):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        raise NotImplementedError

    sample = rsample


def undrawable(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    pyro.sample("x", Undrawable(mean * torch.ones(5), 1.0).to_event(1), obs=x)


def test_what_cannot_be_drawn_is_not_replicated() -> None:
    with pytest.warns(UserWarning, match="cannot be drawn from, so there are no replicated data"):
        idata = posterior(undrawable, X, **RUN, draws=4)
    assert "log_likelihood" in idata.groups() and "posterior_predictive" not in idata.groups()
    with pytest.raises(ValueError, match=r"predictive=True\): an observed site .* leave predictive out"):
        posterior(undrawable, X, predictive=True, **RUN)


def test_a_model_may_take_no_data() -> None:
    idata = posterior(lambda: conjugate(X), chains=4, draws=5, warmup=10, progress=False)
    assert idata.posterior["mean"].shape == (4, 5)


# ----------------------------------------------------------------------------------------------------------------------
# Disk


RUN: dict[str, Any] = {"chains": 4, "warmup": 30, "progress": False}


def loaded(idata: Any) -> Any:
    for group in idata.groups():
        idata[group].load().close()
    return idata


def assert_same(a: Any, b: Any) -> None:
    assert set(a.groups()) == set(b.groups())
    for group in a.groups():
        xr.testing.assert_equal(a[group], b[group])


class Killed(Exception):
    pass


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BLOCK", 16)


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_what_was_stopped_goes_on_as_if_it_had_not_been(
    name: str, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = posterior(conjugate, X, draws=50, **RUN)
    save = RunState.save

    def kill(state: Any, path: Path) -> None:
        save(state, path)
        if state.done == 32:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", kill)
        with pytest.raises(Killed):
            posterior(conjugate, X, draws=50, save=tmp_path / name, **RUN)
    left = loaded(store(tmp_path / name))
    assert left.posterior.sizes["draw"] == 32 and "observed_data" in left.groups()
    found = loaded(posterior(conjugate, X, draws=50, save=tmp_path / name, resume=True, **RUN))
    assert_same(whole, found)


def test_a_block_that_was_written_without_its_state_is_made_again(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = posterior(conjugate, X, draws=50, **RUN)
    save = RunState.save

    def kill(state: Any, path: Path) -> None:
        if state.done == 48:  # after the block, before its state
            raise Killed
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", kill)
        with pytest.raises(Killed):
            posterior(conjugate, X, draws=50, save=tmp_path / "run.nc", **RUN)
    assert_same(whole, loaded(posterior(conjugate, X, draws=50, save=tmp_path / "run.nc", resume=True, **RUN)))


def test_a_finished_run_is_extended(tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "run.nc"
    whole = posterior(conjugate, X, draws=50, keep_warmup=True, **RUN)
    first = loaded(posterior(conjugate, X, draws=20, keep_warmup=True, save=path, resume=True, **RUN))  # nothing there
    assert first.posterior.sizes["draw"] == 20
    assert_same(whole, loaded(posterior(conjugate, X, draws=50, save=path, resume=True, **RUN)))
    assert_same(whole, loaded(posterior(conjugate, X, draws=50, save=path, resume=True, **RUN)))  # nothing to do
    assert_same(whole, loaded(store(path)))
    again = loaded(posterior(conjugate, X, draws=5, save=path, overwrite=True, **RUN))  # anew
    assert again.posterior.sizes["draw"] == 5


@pytest.mark.parametrize("content", ["cut off", "another archive", "code"])
def test_a_state_of_other_hands_is_refused(content: str, tmp_path: Path, small_blocks: None) -> None:
    path = tmp_path / "run.nc"
    posterior(conjugate, X, draws=20, save=path, **RUN)
    file, ran = RunState.file(path), tmp_path / "ran"
    if content == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif content == "another archive":
        torch.save({"mark": torch.zeros(2)}, file)
    else:
        torch.save({"mark": Runs(ran)}, file)
    with pytest.raises(ValueError, match=r"run\.nc\.state does not say where the run stands \(it .+\), so"):
        posterior(conjugate, X, draws=50, save=path, resume=True, **RUN)
    assert not ran.exists()


class Runs:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_memory_is_bounded_by_a_block(tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyro_gen.inference.mcmc as mcmc

    sizes = []
    run = mcmc.run

    def spy(*args: Any, **kwargs: Any) -> Any:
        sizes.append(kwargs["draws"])
        return run(*args, **kwargs)

    monkeypatch.setattr(mcmc, "run", spy)
    loaded(posterior(conjugate, X, draws=50, save=tmp_path / "run.nc", **RUN))
    assert sizes == [16, 16, 16, 2]


def test_a_run_that_is_written_over_leaves_no_state(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.nc"
    loaded(posterior(conjugate, X, draws=20, save=path, **RUN))

    def kill(state: Any, path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", kill)
        with pytest.raises(Killed):
            posterior(conjugate, X, draws=20, seed=1, save=path, overwrite=True, **RUN)
    with pytest.raises(ValueError, match=r"has no run.nc.state beside it"):
        posterior(conjugate, X, draws=20, save=path, resume=True, **RUN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "another run: seed was 0 and is 1 now"),
        ({"chains": 8}, "chains was 4 and is 8 now"),
        ({"method": "mala"}, "method was hmc and is mala now"),
        ({"thin": 2}, "thin was 1 and is 2 now"),
        ({"warmup": 33}, "warmup was .* and is 33 now"),
        ({"init": "prior"}, "init was uniform and is prior now"),
        ({"target_acceptance": 0.9}, "target_acceptance was left out and is 0.9 now"),
        ({"draws": 5}, r"posterior\(draws=5, resume=True\): there are 10 draws of each chain already"),
    ],
)
def test_another_run_is_not_gone_on_with(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    loaded(posterior(conjugate, X, draws=10, save=path, **RUN))
    with pytest.raises(ValueError, match=message):
        posterior(conjugate, X, **{**RUN, "draws": 20, "save": path, "resume": True, **change})
    with pytest.raises(ValueError, match="another run: the data differs"):
        posterior(conjugate, X + 1, draws=20, save=path, resume=True, **RUN)


def regression(design: Any, y: Tensor, options: dict[str, Any]) -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), options["scale"]).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(torch.as_tensor(np.asarray(design), dtype=y.dtype) @ beta, 1.0), obs=y)


class Line(Program):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def model(self, x: Tensor) -> Tensor:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with self.plate(x):
            return observe("x", dist.Normal(self.slope * mean, 1.0), x)


DESIGN = pd.DataFrame({"one": [1.0] * 5, "group": [0, 1, 0, 1, 1]})
OTHER = DESIGN.assign(group=[1, 1, 0, 1, 0])


# With the same observed values throughout: of another design matrix, hyper-parameter or weight they know nothing.
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((DESIGN, X, {"scale": 1.0}), (OTHER, X, {"scale": 1.0}), "the data differs"),
        ((DESIGN.to_numpy(), X, {"scale": 1.0}), (OTHER.to_numpy(), X, {"scale": 1.0}), "the data differs"),
        ((DESIGN, X, {"scale": 1.0}), (DESIGN, X, {"scale": 2.0}), "the data differs"),
    ],
)
def test_other_arguments_of_a_model_are_another_run(
    first: tuple[Any, ...], second: tuple[Any, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.nc"
    loaded(posterior(regression, *first, draws=10, save=path, **RUN))
    same = copy.deepcopy(first)
    assert loaded(posterior(regression, *same, draws=12, save=path, resume=True, **RUN)).posterior.sizes["draw"] == 12
    with pytest.raises(ValueError, match=message):
        posterior(regression, *second, draws=20, save=path, resume=True, **RUN)
    # The defect: the observed values alone. It goes on, from draws of another posterior.
    digest = run_state.digest
    monkeypatch.setattr(run_state, "digest", lambda value: digest(value[1] if isinstance(value, list) else value))
    loaded(posterior(regression, *first, draws=10, save=path, overwrite=True, **RUN))
    wrong = loaded(posterior(regression, *second, draws=20, save=path, resume=True, **RUN))
    assert wrong.posterior.sizes["draw"] == 20


def test_another_program_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    loaded(posterior(Line(1.0), X, draws=10, save=path, **RUN))
    loaded(posterior(Line(1.0), X, draws=12, save=path, resume=True, **RUN))
    with pytest.raises(ValueError, match="the state of the program differs"):
        posterior(Line(2.0), X, draws=20, save=path, resume=True, **RUN)


def test_digests_tell_values_apart_and_nothing_else() -> None:
    values = [
        1, 1.0, True, "1", None, [1, 2], [[1], 2], [[1, 2]], (1, 2), {"a": 1}, {"b": 1},
        torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]]), torch.tensor([1.0, 2.0]).double(), torch.tensor([1, 2]),
        np.array([1.0, 2.0]), np.array(["a", None], dtype=object), DESIGN, OTHER, DESIGN.rename(columns=str.upper),
        torch.tensor(1.0), torch.tensor(1.0).bfloat16(), torch.tensor([True]), torch.zeros(0), torch.eye(2).to_sparse(),
    ]  # fmt: skip
    digests = [run_state.digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [run_state.digest(copy.deepcopy(value)) for value in values]
    assert run_state.digest(torch.arange(6).reshape(2, 3).T) == run_state.digest(
        torch.arange(6).reshape(2, 3).T.clone()
    )
    assert run_state.digest(conjugate) == run_state.digest(broken)  # of functions it knows nothing


# ----------------------------------------------------------------------------------------------------------------------
# Progress, seeds, wrong inputs


def test_same_seed_same_draws(untouched_rng: None) -> None:
    runs = [posterior(conjugate, X, draws=10, seed=seed, **RUN) for seed in (0, 0, 1)]
    assert_same(runs[0], runs[1])
    assert not runs[0].posterior.equals(runs[2].posterior)
    assert not runs[0].posterior_predictive.equals(runs[2].posterior_predictive)


def test_progress_is_reported_from_0_to_1(tmp_path: Path, small_blocks: None) -> None:
    seen: list[float] = []
    loaded(posterior(conjugate, X, draws=50, save=tmp_path / "run.nc", **{**RUN, "progress": seen.append}))
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] == pytest.approx(1.0)


def test_a_bar_shows_when_it_takes_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    posterior(conjugate, X, draws=10, **{**RUN, "progress": True})
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    posterior(conjugate, X, draws=10, **{**RUN, "progress": True})
    captured = capsys.readouterr()
    assert "posterior (hmc)" in captured.err and captured.out == ""


def test_wrong_inputs(tmp_path: Path) -> None:
    def check(message: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(ValueError, match=message):
            posterior(*(args or (conjugate, X)), **kwargs)

    check(r"posterior\(method='hcm'\): choose one of auto, hmc", method="hcm")
    check(r"posterior\(chains=0\): give a positive whole number", chains=0)
    check(r"posterior\(draws=8.0\): give a positive whole number", draws=8.0)
    check(r"starting values of 'mean' are not one for each chain: give a tensor with \d+ rows", init={"mean": 0.5})
    check(r"posterior\(draws=-1\)", draws=-1)
    check(r"posterior\(thin=0\)", thin=0)
    check(r"resume=True\): say what to go on with, by save=", resume=True)
    check("draws are written to a file named .nc", save="draws.csv")
    check('"guide"\\) draws from the guide of a program, and was given a function', method="guide")
    check('"guide"\\) does not take chains', Conjugate(), X, method="guide", chains=4)
    check('"guide"\\) does not take warmup', Conjugate(), X, method="guide", warmup=4)
    check('"smc"\\) does not take init', method="smc", init="prior")
    check('"gibbs"\\) needs blocks', method="gibbs")
    check("\"hmc\"\\) has no option 'depth': choose from .*max_steps", depth=3)
    check("\"nuts\"\\) has no option 'max_steps': choose from .*max_depth", method="nuts", max_steps=3)
    check("has no option 'depth'|'depth'", method="smc", depth=3)
    check("has no latent variable", lambda x: pyro.sample("x", dist.Normal(0.0, 1.0), obs=x), X)
    path = tmp_path / "run.nc"
    path.write_text("not ours")
    check("has no run.nc.state beside it, so it cannot be gone on with", save=path, resume=True)


def test_no_warning_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior(conjugate, X, draws=4, chains=40, warmup=10, progress=False)  # more chains than draws


def test_a_run_of_other_code_is_another_run(tmp_path: Path) -> None:
    def wide(x: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def narrow(x: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    loaded(posterior(wide, X, draws=10, save=tmp_path / "run.nc", **RUN))
    with pytest.raises(ValueError, match="the code of the program differs"):
        posterior(narrow, X, draws=20, save=tmp_path / "run.nc", resume=True, **RUN)


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_what_is_there_is_not_written_over_unasked(tmp_path: Path, name: str) -> None:
    first = loaded(posterior(conjugate, X, draws=10, save=tmp_path / name, **RUN))
    with pytest.raises(ValueError, match=r"is there already: go on with it \(resume=True\), overwrite it"):
        posterior(conjugate, X, draws=10, seed=5, save=tmp_path / name, **RUN)
    assert_same(first, loaded(store(tmp_path / name)))
    other = loaded(posterior(conjugate, X, draws=12, save=tmp_path / name, overwrite=True, **RUN))
    assert other.posterior.sizes["draw"] == 12


@pytest.mark.parametrize("inside", ["notes.txt", "posterior/.zattrs"])
def test_a_folder_of_others_is_left_alone(tmp_path: Path, inside: str) -> None:
    file = tmp_path / "keep.zarr" / inside
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ValueError, match=r"keep.zarr (is there already|holds)"):
            posterior(conjugate, X, draws=10, save=tmp_path / "keep.zarr", **options, **RUN)
    assert file.read_text() == "{}"


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_of_two_runs_to_one_path_the_second_is_refused(tmp_path: Path, name: str) -> None:
    seen: list[str] = []

    def second(fraction: float) -> None:
        if not seen:
            with pytest.raises(ValueError, match="another run is writing draws to it") as error:
                posterior(conjugate, X, draws=10, seed=1, save=tmp_path / name, overwrite=True, **RUN)
            seen.append(str(error.value))

    found = loaded(posterior(conjugate, X, draws=20, save=tmp_path / name, **{**RUN, "progress": second}))
    assert seen
    assert_same(found, posterior(conjugate, X, draws=20, **RUN))
    assert {p.name for p in tmp_path.iterdir()} == {name, f"{name}.state"}


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
@pytest.mark.parametrize("full_at", [0, 32])
def test_a_full_disk_leaves_the_blocks_before(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, name: str, full_at: int
) -> None:
    whole = posterior(conjugate, X, draws=50, **RUN)
    written: list[int] = []
    allocate = os.posix_fallocate

    def full(file: int, start: int, size: int) -> None:
        written.append(size)
        if 16 * len(written) > full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(file, start, size)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(ValueError, match=f"the disk is full; the draws of the blocks before draw {full_at} of"):
            posterior(conjugate, X, draws=50, save=tmp_path / name, **RUN)
    if full_at:
        assert loaded(store(tmp_path / name)).posterior.sizes["draw"] == full_at
    assert_same(whole, loaded(posterior(conjugate, X, draws=50, save=tmp_path / name, resume=True, **RUN)))


@pytest.mark.parametrize("name", ["run.nc", "run.zarr"])
def test_a_death_within_the_first_block_can_be_gone_on_with(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = posterior(conjugate, X, draws=50, **RUN)

    def kill(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "put", kill)  # after the first draws, before the state that knows of them
        with pytest.raises(Killed):
            posterior(conjugate, X, draws=50, save=tmp_path / name, **RUN)
    assert (tmp_path / name).exists()
    assert_same(whole, loaded(posterior(conjugate, X, draws=50, save=tmp_path / name, resume=True, **RUN)))
