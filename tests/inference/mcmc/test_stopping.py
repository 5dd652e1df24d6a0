"""The number of chains by what a gradient costs, and runs that end when their draws are worth what is asked for."""

from pathlib import Path
from typing import Any

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_gen.density import Density, density
from pyro_gen.density.graphs import count_work
from pyro_gen.inference.mcmc import stopping
from pyro_gen.inference.mcmc.stopping import Watch, cheapest_chains
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.run_state import RunState


def line(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(beta[0] + beta[1] * x, 1.0), obs=y)


def rows(n: int, far: float = 0.0) -> tuple[Tensor, Tensor]:
    x = far + torch.linspace(-2.0, 2.0, n)
    return x, 1.0 + 0.5 * x


def test_work_is_counted() -> None:
    a, b = torch.ones(3, 4), torch.ones(4)
    # The transpose is a view and no work; a sum reads its 12 numbers.
    assert count_work(lambda a, b: (a * b).T.sum(), a, b) == (2, 24)


def test_many_chains_where_a_gradient_is_small() -> None:
    assert cheapest_chains(density(line, *rows(20))) == 512
    assert cheapest_chains(density(line, *rows(200_000))) == 64
    target = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=2)
    assert cheapest_chains(target) == cheapest_chains(target)  # by counting: the same each time


@pytest.mark.parametrize("settings", [{}, {"chains": 4, "target_ess": 700.0}])
def test_a_run_ends_when_its_target_is_met(settings: dict[str, Any]) -> None:
    idata = posterior(line, *rows(20), progress=False, **settings)
    sizes, target = idata.posterior.sizes, settings.get("target_ess", stopping.TARGET_ESS)
    worth = float(az.ess(idata.posterior)["beta"].min())
    assert worth > 0.95 * target  # ArviZ's own figure of constrained values
    assert sizes["chain"] == settings.get("chains", 512)
    assert sizes["draw"] < stopping.last_look(sizes["chain"], target)


def autoregressive(rho: float, draws: int, chains: int) -> Tensor:
    """Stationary chains of autocorrelation rho, (S, C, 1)."""
    z = [torch.randn(chains, 1)]
    for _ in range(draws - 1):
        z.append(rho * z[-1] + (1 - rho**2) ** 0.5 * torch.randn(chains, 1))
    return torch.stack(z)


def test_how_many_more_draws() -> None:
    rho = 0.8  # each draw is worth (1 - .8) / (1 + .8) = 1 / 9
    watch = Watch(1000.0)
    watch.add(autoregressive(rho, 125, 8))  # 111 of 1000
    # 1.1 * 9000 / 8 draws in all; the estimate of the ESS has a relative error of about 10 %.
    assert 4 * 125 >= watch.more() > 300
    watch.add(autoregressive(rho, 1250, 8))
    assert watch.more() == 0
    apart = Watch(10.0)
    apart.add(autoregressive(rho, 125, 8) + torch.arange(8.0)[:, None])  # the defect: chains that do not agree
    assert apart.more() > 0


def test_the_slowest_coordinates_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "WATCHED", 2 * 200 * 8)
    z = torch.randn(200, 8, 5)
    z[..., 3:4] = autoregressive(0.95, 200, 8)
    watch = Watch(1000.0)
    watch.add(z)
    assert watch.columns is not None and len(watch.columns) == 2 and 3 in watch.columns
    assert watch.more() > 0
    fast = Watch(1000.0, {"columns": torch.tensor([0, 1]), "draws": z[..., :2].double()})  # the defect
    assert fast.more() == 0


def test_a_run_that_falls_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "MOST", 800)
    settings: dict[str, Any] = {"method": "rwm", "chains": 4, "warmup": 20, "target_ess": 100.0}
    with pytest.warns(UserWarning, match=r"the run ended at 200 draws .* target_ess=100 was asked for"):
        posterior(line, *rows(5), progress=False, **settings)


def test_a_run_to_a_target_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"chains": 4, "warmup": 50, "target_ess": 300.0, "progress": False, "method": "mala"}
    whole = posterior(line, *rows(5), **settings)
    assert whole.posterior.sizes["draw"] > stopping.first_look(4, 300.0)
    save = RunState.save

    class KilledError(Exception):
        pass

    def kill(state: RunState, path: Path) -> None:
        save(state, path)
        if state.done:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", kill)
        with pytest.raises(KilledError):
            posterior(line, *rows(5), save=tmp_path / "run.zarr", **settings)
    found = posterior(line, *rows(5), save=tmp_path / "run.zarr", resume=True, **settings)
    assert whole.posterior.equals(found.posterior.load())


def test_draws_or_a_target() -> None:
    with pytest.raises(ValueError, match=r"draws=5, target_ess=10\): give one of them"):
        posterior(line, *rows(5), draws=5, target_ess=10)
    with pytest.raises(ValueError, match=r"target_ess=0\): give a positive number"):
        posterior(line, *rows(5), target_ess=0)
