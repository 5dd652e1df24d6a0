"""The exporter, first of all where az.from_pyro is wrong, against a loop over draws in plain Pyro."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

from pyro_gen.density import density
from pyro_gen.inference.export import Exporter, Layout, layout
from pyro_gen.inference.storage import Disk, Memory, store

SEEN = torch.tensor([True, True, False, True])


def regression(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def masked(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)), pyro.poutine.mask(mask=SEEN):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def mixture(y: Tensor) -> None:
    means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(means[k], 1.0), obs=y)


def by_loop(model: Callable[..., None], data: tuple[Tensor, ...], values: dict[str, Tensor], site: str) -> Tensor:
    """The log-likelihood of each datum, draw after draw, in plain Pyro: (S, N)."""
    rows = []
    for s in range(len(next(iter(values.values())))):
        conditioned = pyro.condition(model, {name: v[s] for name, v in values.items()})
        trace = pyro.poutine.trace(conditioned).get_trace(*data)
        trace.compute_log_prob()
        rows.append(trace.nodes[site]["log_prob"])
    return torch.stack(rows)


def exported(model: Callable[..., None], *data: Tensor, draws: int = 5, chains: int = 4, **names: Any) -> Any:
    """Draws around 0 of a model as InferenceData, and their values with shape (S * C, *)."""
    target = density(model, *data)
    z = 0.5 * torch.randn(draws, chains, target.dim)
    values = target.constrain(z.flatten(0, 1))
    exporter = Exporter(target, layout(target.prototype, **names))
    stats = {"lp": target.log_density(z.flatten(0, 1)).unflatten(0, z.shape[:2])}
    sink = Memory(exporter)
    sink.write(0, exporter.groups(0, z, {n: v.unflatten(0, z.shape[:2]) for n, v in values.items()}, stats))
    sink.put(exporter.observed())
    return sink.result(), values


def flat(variable: xr.DataArray) -> Tensor:
    """(C, S, *) -> (S * C, *)."""
    return torch.from_numpy(variable.values).transpose(0, 1).flatten(0, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Where az.from_pyro is wrong


@pytest.mark.parametrize("count", [20, 7], ids=["as many draws as data", "other numbers"])
def test_each_draw_meets_all_data(count: int) -> None:
    x = torch.randn(count, 3)
    y = x @ torch.tensor([1.0, -1.0, 0.5]) + 0.5 * torch.randn(count)
    idata, values = exported(regression, x, y)  # 20 draws in all
    expected = by_loop(regression, (x, y), values, "y")
    found = flat(idata.log_likelihood["y"])
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "data")
    torch.testing.assert_close(found, expected)
    if count == 20:  # the defect: draw i is paired with datum i, without a word
        paired = dist.Normal((x * values["b"]).sum(-1), 0.5).log_prob(y)
        assert (found - paired).abs().max() > 1 and found.shape != paired.shape


def test_masked_observations_have_no_likelihood() -> None:
    y = torch.tensor([0.5, -1.0, 50.0, 1.0])
    idata, values = exported(masked, y)
    found = flat(idata.log_likelihood["y"])
    torch.testing.assert_close(found, by_loop(masked, (y,), values, "y"))
    assert bool((found[:, ~SEEN] == 0).all()) and bool((found[:, SEEN] < 0).all())


def test_missing_observations_have_no_likelihood() -> None:
    from pyro_gen import Program, observe

    class Mean(Program):
        def model(self, x: Tensor) -> Tensor:
            mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with self.plate(x):
                return observe("x", dist.Normal(mean, 1.0).to_event(1), x)

    x = torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan], [1.0, 2.0]])
    idata, values = exported(Mean(), x)
    mean = values["mean"].unsqueeze(1)
    expected = dist.Normal(mean, 1.0).log_prob(x.nan_to_num()).masked_fill(x.isnan(), 0.0).sum(-1)
    torch.testing.assert_close(flat(idata.log_likelihood["x"]), expected)
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "data")
    assert not idata.posterior_predictive["x"].isnull().any()
    assert np.array_equal(idata.observed_data["x"], x.numpy(), equal_nan=True)


def test_a_factor_in_a_plate_is_a_likelihood_and_one_outside_of_all_is_not() -> None:
    y = torch.tensor([0.3, 1.1])

    def censored(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("prior", -(mean**2))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        with pyro.plate("late", 3):
            pyro.factor("alive", torch.log(0.5 * torch.erfc(mean - torch.arange(3.0))))

    target = density(censored, y)
    z = torch.tensor([[0.0], [0.5]])
    found = Exporter(target, layout(target.prototype)).groups(0, z.unsqueeze(1), {"mean": z}, {})["log_likelihood"]
    assert {n: v.shape for n, v in found.items()} == {"y": (1, 2, 2), "alive": (1, 2, 3)}
    whole = found["y"].sum() + found["alive"].sum()
    assert whole == pytest.approx(float((target.log_likelihood(z) + z[:, 0] ** 2).sum()), abs=1e-4)
    names = Exporter(target, layout(target.prototype)).datasets({"log_likelihood": found})["log_likelihood"]
    assert names["alive"].dims == ("chain", "draw", "late")


def test_figures_stay_with_their_chains() -> None:
    """Of more than ten chains too, where "chain 10" sorts before "chain 2"."""
    exporter = Exporter(None, Layout({}))
    diverging = torch.zeros(5, 12, dtype=torch.bool)
    diverging[:, 2] = True
    diverging[3, 11] = True
    numbered = {"z": torch.arange(60.0).reshape(5, 12)}
    groups = exporter.groups(0, torch.zeros(5, 12, 1), numbered, {"diverging": diverging})
    dataset = exporter.datasets(groups)["sample_stats"]
    assert dataset["diverging"].dtype == bool
    assert dataset["diverging"].sum("draw").values.tolist() == [0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert exporter.datasets(groups)["posterior"]["z"].sel(chain=11, draw=3) == 3 * 12 + 11


@pytest.mark.parametrize("stats", [{"lp": torch.zeros(5, 2)}, {}], ids=["lp", "none"])
def test_samplers_may_have_few_figures(stats: dict[str, Tensor]) -> None:
    """A random walk has no divergences, an energy neither."""
    exporter = Exporter(None, Layout({}))
    datasets = exporter.datasets(exporter.groups(0, torch.zeros(5, 2, 1), {"z": torch.zeros(5, 2)}, stats))
    assert set(datasets["sample_stats"]) == set(stats) if stats else "sample_stats" not in datasets


def test_discrete_latent_variables_are_summed_out() -> None:
    y = torch.tensor([-2.5, 0.0, 1.0, 3.0])
    idata, values = exported(mixture, y)
    each = dist.Normal(values["means"].unsqueeze(1), 1.0).log_prob(y[:, None])  # (S, N, K)
    expected = (each + torch.tensor([0.3, 0.7]).log()).logsumexp(-1)
    torch.testing.assert_close(flat(idata.log_likelihood["y"]), expected)
    assert "k" not in idata.posterior
    drawn = each[..., 1]  # the defect: k drawn once
    assert (flat(idata.log_likelihood["y"]) - drawn).abs().max() > 0.5


# ----------------------------------------------------------------------------------------------------------------------
# Names


def shapes() -> None:
    with pyro.plate("school", 3, dim=-2):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("pupil", 4, dim=-1):
            b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.deterministic("c", a + b.sum(-1))
            pyro.deterministic("d", b)
    pyro.sample("e", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    with pyro.plate("chain", 2):
        pyro.sample("f", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(2))


def test_plates_name_dimensions() -> None:
    idata, _ = exported(shapes)
    dims = {name: variable.dims[2:] for name, variable in idata.posterior.data_vars.items()}
    assert dims == {
        "a": ("school", "a_dim_1"),
        "b": ("school", "pupil", "b_dim_2"),
        "c": ("school", "pupil"),
        "d": ("school", "d_dim_1", "d_dim_2"),
        "e": ("e_dim_0",),
        "f": ("chain_plate",),
    }
    assert idata.observed_data["y"].dims == ("chain_plate",)


def test_the_user_names_dimensions_and_labels() -> None:
    x, y = torch.randn(4, 3), torch.randn(4)
    names = ["intercept", "age", "dose"]
    idata, values = exported(
        regression, x, y, dims={"b": ["term"], "y": "row"}, coords={"term": names, "row": list("abcd")}
    )
    assert idata.posterior["b"].dims == ("chain", "draw", "term")
    np.testing.assert_array_equal(
        idata.posterior["b"].sel(term="dose", chain=1), values["b"].unflatten(0, (5, 4))[:, 1, 2]
    )
    for group in ("log_likelihood", "posterior_predictive", "observed_data"):
        assert idata[group]["y"].dims[-1] == "row" and idata[group]["row"].values.tolist() == list("abcd")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"dims": {"b": ["i", "j"]}}, r"names 2 dimensions, and its values have 1: shape \(3,\)"),
        ({"coords": {"data": ["u", "v"]}}, r"coords=\{'data': ...\} has 2 labels, and the dimension is 4 long"),
        ({"dims": {"b": ["data"]}}, "The dimension 'data' is 4 long at 'y' and 3 long at another site: name one"),
        ({"dims": {"b": ["chain"]}}, "a dimension of 'b' cannot be called 'chain'"),
        ({"dims": {"b": ["b"]}}, "a dimension of 'b' cannot be called 'b'"),
    ],
)
def test_wrong_names(names: dict[str, Any], message: str) -> None:
    from pyro_gen.inference.posterior import posterior

    with pytest.raises(ValueError, match=message):
        posterior(regression, torch.randn(4, 3), torch.randn(4), **names)


def test_unknown_names_are_refused() -> None:
    from pyro_gen.inference.posterior import posterior

    with pytest.raises(ValueError, match="dims names 'beta', which is no site: the sites are b, y"):
        posterior(regression, torch.randn(4, 3), torch.randn(4), dims={"beta": ["i"]})
    with pytest.raises(ValueError, match=r"coords names .term., which is no dimension: .* are b_dim_0, data"):
        posterior(regression, torch.randn(4, 3), torch.randn(4), coords={"term": [1, 2, 3]})


def test_replicated_data_are_of_the_model() -> None:
    """Means of 4000 draws of N(x'b, 1/4) at each draw of b: 5 standard errors at 12 places, false alarms 1e-5."""
    x, y = torch.randn(3, 3), torch.randn(3)
    target = density(regression, x, y)
    z = torch.randn(4, 3).repeat_interleave(4000, 0)
    exporter = Exporter(target, layout(target.prototype))
    groups = exporter.groups(0, z.unsqueeze(1), {}, {})
    drawn = torch.from_numpy(groups["posterior_predictive"]["y"][0]).unflatten(0, (4, 4000))
    expected = z[::4000] @ x.T
    error = 0.5 / 4000**0.5
    assert (drawn.mean(1) - expected).abs().max() < 5 * error
    assert (drawn.mean(1) - expected.roll(1, 0)).abs().max() > 5 * error  # the defect: draws in another order
    assert (drawn.std(1) - 0.5).abs().max() < 5 * error


def test_replicated_data_depend_on_seed_and_block_alone(untouched_rng: None) -> None:
    target = density(masked, torch.zeros(4))
    names, z = layout(target.prototype), torch.zeros(2, 3, 1)

    def drawn(start: int, seed: int) -> Any:
        return Exporter(target, names, seed=seed).groups(start, z, {}, {})["posterior_predictive"]["y"]

    assert np.array_equal(drawn(0, 0), drawn(0, 0))
    assert not np.array_equal(drawn(0, 0), drawn(2, 0)) and not np.array_equal(drawn(0, 0), drawn(0, 1))


# ----------------------------------------------------------------------------------------------------------------------
# On disk


def blocks_of(target: Any) -> tuple[Exporter, Callable[[Any, range], None]]:
    exporter = Exporter(target, layout(target.prototype, coords={"data": list("abcd")}), attrs={"method": "hmc"})
    z = torch.randn(25, 3, target.dim)
    values = {n: v.unflatten(0, z.shape[:2]) for n, v in target.constrain(z.flatten(0, 1)).items()}
    stats = {"lp": z.sum(-1), "diverging": z.sum(-1) > 0, "n_steps": torch.arange(75).reshape(25, 3)}

    def write(sink: Any, starts: range) -> None:
        for s in starts:
            rows = slice(s, s + starts.step)
            part = [{n: t[rows] for n, t in tensors.items()} for tensors in (values, stats)]
            sink.write(s, exporter.groups(s, z[rows], *part))

    return exporter, write


def assert_same(a: Any, b: Any) -> None:
    assert set(a.groups()) == set(b.groups())
    for group in a.groups():
        xr.testing.assert_equal(a[group].load(), b[group].load())
        for name, variable in a[group].data_vars.items():
            assert b[group][name].dtype == variable.dtype, name


def close(idata: Any) -> None:
    for group in idata.groups():
        idata[group].close()


@pytest.mark.parametrize("name", ["draws.nc", "draws.zarr"])
def test_blocks_on_disk_are_those_in_memory(name: str, tmp_path: Path) -> None:
    exporter, write = blocks_of(density(masked, torch.randn(4)))
    memory, disk = Memory(exporter), Disk(exporter, tmp_path / name)
    for sink in (memory, disk):
        write(sink, range(0, 25, 10))
        sink.put(exporter.observed())
        sink.put({"sample_stats": xr.Dataset({"khat": ("data", np.arange(4.0))})})
    whole, found = memory.result(), disk.result()
    assert whole.sample_stats["khat"].dims == ("data",)
    assert_same(whole, found)
    assert found.posterior.attrs["method"] == "hmc"
    close(found)
    # The last block again, over itself; and a run that begins anew.
    write(Disk(exporter, tmp_path / name, fresh=False), range(20, 25, 10))
    again = store(tmp_path / name)
    assert_same(whole, again)
    close(again)
    write(fresh := Disk(exporter, tmp_path / name), range(0, 5, 5))
    short = fresh.result()
    assert short.posterior.sizes["draw"] == 5
    close(short)


def test_a_file_that_is_open_is_named(tmp_path: Path) -> None:
    exporter, write = blocks_of(density(masked, torch.randn(4)))
    write(disk := Disk(exporter, tmp_path / "draws.nc"), range(0, 5, 5))
    found = disk.result()
    found.posterior["mean"].load()
    disk = Disk(exporter, tmp_path / "draws.nc", fresh=False)
    said = None
    try:
        write(disk, range(5, 10, 5))
    except ValueError as error:
        said = str(error)
    close(found)
    if said is None:  # older versions of xarray write to a file that is open: then the draws must be there
        again = disk.result()
        assert again.posterior.sizes["draw"] == 10 and not bool(again.posterior["mean"].isnull().any())
        close(again)
    else:
        assert re.search(r"draws.nc is open, .* close what was read from it", said)


def test_wrong_paths(tmp_path: Path) -> None:
    exporter = Exporter(None, Layout({}))
    with pytest.raises(ValueError, match=r"draws.csv: draws are written to a file named .nc \(NetCDF\)"):
        Disk(exporter, "draws.csv")
    with pytest.raises(ValueError, match=r"its folder .* is not there"):
        Disk(exporter, tmp_path / "nowhere" / "draws.nc")
    with pytest.raises(ValueError, match="no such file"):
        store(tmp_path / "draws.nc")
