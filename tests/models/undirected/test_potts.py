"""The Potts model against sums over all states and the Ising model, and what its chains draw."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.models import Ising, Potts
from pyro_gen.models.undirected import BlockedGibbs, SwendsenWang

STATES = torch.cartesian_prod(*[torch.arange(3.0)] * 4)


def potts(sampler: object = None) -> Potts:
    torch.manual_seed(0)
    edges = [(0, 1), (1, 2), (2, 0), (2, 3)]
    return Potts(edges, 3, torch.rand(4), 0.5 * torch.randn(4, 3), sampler=sampler)  # type: ignore[arg-type]


def weights(model: Potts) -> Tensor:
    """Log-weights of all states, by the formula alone."""
    first, second = model.graph.edges.T
    same = (STATES[:, first] == STATES[:, second]).double()
    own = torch.stack([model.fields[i][STATES[:, i].long()] for i in range(4)], 1).double()
    return (same @ model.couplings.double() + own.sum(1)).detach()


def test_the_density_and_z_are_those_of_the_formula() -> None:
    model = potts()
    assert torch.allclose(unnormalised_log_prob(model, STATES).double(), weights(model), atol=1e-5)
    exact = float(weights(model).logsumexp(0))
    assert abs(pg.log_partition(model).mean() - exact) < 1e-6
    found = pg.log_partition(model, method="ais", chains=256)
    assert abs(found.mean() - exact) < 4 * found.mean_standard_error() < 0.2  # false alarms: 6e-5


def test_two_values_are_an_ising_model() -> None:
    """J s s' = 2 J [x = x'] - J, for each of the 24 edges of a torus."""
    ising = pg.log_partition(Ising({"torus": [3, 4]}, 0.3)).mean()
    assert abs(pg.log_partition(Potts({"torus": [3, 4]}, 2, 0.6)).mean() - 24 * 0.3 - ising) < 1e-6


class Together(BlockedGibbs):
    """The planted defect: neighbours are drawn together."""

    def __call__(self, field: Potts, x: Tensor, moving: Tensor, beta: float) -> Tensor:  # type: ignore[override]
        out = x.clone()
        for block in field.blocks:
            out[block.nodes] = field.draw_block(block, x, beta)
        return out


@pytest.mark.parametrize(
    ("sampler", "right"), [(BlockedGibbs(), True), (SwendsenWang(), True), (None, True), (Together(), False)]
)
def test_draws_have_their_probabilities(sampler: object, right: bool) -> None:
    """By chains, and where there is no sampler by :func:`pyro_gen.sample`, which is exact."""
    model = potts(sampler)
    draws = pg.sample(model, 10_000) if sampler is None else list(model.chains(30, 10_000, thin=30))[-1]
    counts = torch.bincount((draws * torch.tensor([27.0, 9, 3, 1])).sum(1).long(), minlength=81)
    expected = 10_000 * weights(model).softmax(0)
    p = stats.chi2.sf(float(((counts - expected).square() / expected).sum()), 80)
    assert p > 1e-4 if right else p < 1e-6  # false alarms: 1e-4


class Deaf(BlockedGibbs):
    """The planted defect: values are drawn as if others had been seen beside them."""

    def __call__(self, field: Potts, x: Tensor, moving: Tensor, beta: float) -> Tensor:  # type: ignore[override]
        return torch.where(moving, super().__call__(field, torch.where(moving, x, 0.0), moving, beta), x)


@pytest.mark.parametrize(
    ("sampler", "chains", "right"), [(None, False, True), (None, True, True), (Deaf(), True, False)]
)
def test_missing_values_are_drawn_given_those_seen(sampler: object, chains: bool, right: bool) -> None:
    """Exactly, and by annealed chains, which are resampled from four times as many: 1.1 times the error."""
    model, draws = potts(sampler), 5000
    seen = torch.tensor([[math.nan, 2.0, math.nan, math.nan]])
    options = {"chains": 4 * draws, "temperatures": 40} if chains else None
    drawn = pg.impute(model, seen, draws=draws, options=options, progress=False)[:, 0]
    allowed = STATES[:, 1] == 2
    counts = torch.bincount((drawn * torch.tensor([27.0, 9, 3, 1])).sum(1).long(), minlength=81)
    assert counts[~allowed].sum() == 0
    expected = draws * weights(model)[allowed].softmax(0)
    statistic = float(((counts[allowed] - expected).square() / expected).sum()) / (1.25 if chains else 1.0)
    p = stats.chi2.sf(statistic, 26)
    assert p > 1e-4 if right else p < 1e-6  # false alarms: 1e-4


def test_holes_of_a_map_are_filled() -> None:
    """A node that nobody saw, between three of one label: its odds are exp(3 J)."""
    model = Potts({"grid": [2, 2]}, 3, 1.0)
    x = torch.tensor([[[1.0, 1.0], [1.0, math.nan]]])
    found = model.marginals(x).variables[3][0]
    assert torch.allclose(found, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64).softmax(0))
    assert float(model.most_probable(x)[0, 1, 1]) == 1.0


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"Potts\(levels=1\): a variable has at least two values"):
        Potts({"grid": [2, 2]}, 1)
    with pytest.raises(ValueError, match=r"fields has shape \(2,\): give \(3,\), or \(4, 3\)"):
        Potts({"grid": [2, 2]}, 3, 0.0, torch.zeros(2))
