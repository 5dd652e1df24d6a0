"""Restricted Boltzmann machines against sums over all states and quadrature; what they draw and learn."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.inference import ContrastiveDivergence, ExactLikelihood, Objective
from pyro_gen.models import RestrictedBoltzmann
from pyro_gen.models.undirected.parts.visible import draw_binary

NAN = math.nan


def states(entries: int, levels: int = 2) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(float(levels))] * entries).reshape(-1, entries)


def random_machine(
    visible: Any = "binary", kind: type[RestrictedBoltzmann] = RestrictedBoltzmann
) -> RestrictedBoltzmann:
    """Four visible and three hidden units, with a base that is not the uniform one."""
    torch.manual_seed(0)
    machine = kind(4, 3, visible)
    data = torch.randn(50, 4) + torch.arange(4) / 4
    machine.initialise(data if visible == "gaussian" else (data > 0.2).float())
    for parameter in machine.parameters():
        parameter.data.normal_()
    if visible != "gaussian":
        machine.weights.data.mul_(2)
    return machine


def log_weights(machine: RestrictedBoltzmann, x: Tensor) -> Tensor:
    """Of binary, or softmax, rows by the formula: a sum over the states of h, one unit after the other."""
    visible = machine.visible
    if visible.width == 1:
        phi = (x - visible.logits.sigmoid()).double()  # type: ignore[operator]
        base = (x * visible.logits - (1 + visible.logits.exp()).log()).sum(1).double()  # type: ignore[operator]
    else:
        hot = torch.nn.functional.one_hot(x.long(), visible.width)
        p = visible.logits.softmax(-1)  # type: ignore[operator]
        phi, base = (hot - p).flatten(1).double(), (hot * p.log()).sum((1, 2)).double()
    total = []
    for h in states(len(machine.hidden_biases)) - 0.5:
        field = (machine.visible_biases + machine.weights @ h).detach()
        total.append(phi @ field.double() + float((machine.hidden_biases @ h).detach()))
    return (base + torch.stack(total).logsumexp(0)).detach()


@pytest.mark.parametrize(("visible", "levels"), [("binary", 2), ({"softmax": 3}, 3)])
def test_density_z_and_rows_with_holes(visible: object, levels: int) -> None:
    machine, x = random_machine(visible), states(4, levels)
    weights = log_weights(machine, x)
    assert torch.allclose(unnormalised_log_prob(machine, x).double(), weights, atol=1e-4)
    found = pg.log_partition(machine)
    assert found.kind == "exact" and abs(found.mean() - float(weights.logsumexp(0))) < 1e-5
    seen = torch.tensor([[NAN, 1.0, NAN, NAN], [0.0, 1.0, NAN, 0.0], [1.0, 1.0, 0.0, 0.0]])
    p = weights.softmax(0)
    expected = torch.stack([p[((x == row) | row.isnan()).all(1)].sum() for row in seen]).log()
    assert torch.allclose(pg.log_likelihood(machine, seen).value, expected, atol=1e-5)
    machine.hidden_biases.data[0] += 0.1  # the twin
    assert abs(pg.log_partition(machine).mean() - float(weights.logsumexp(0))) > 1e-3


def test_gaussian_units_are_a_mixture_of_gaussians() -> None:
    """Of two entries, by quadrature."""
    torch.manual_seed(0)
    machine = RestrictedBoltzmann(2, 3, "gaussian")
    machine.initialise(torch.randn(50, 2) + 1)
    for parameter in machine.parameters():
        parameter.data.copy_(0.7 * torch.randn(parameter.shape))
    machine.double()
    line = torch.linspace(-25, 25, 1001, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    with torch.no_grad():
        grid = unnormalised_log_prob(machine, x).view(1001, 1001)
    log_z = float(grid.flatten().logsumexp(0)) + 2 * math.log(0.05)
    assert abs(pg.log_partition(machine).mean() - log_z) < 1e-6
    seen = torch.stack([line[500], torch.tensor(NAN, dtype=torch.float64)]).unsqueeze(0)
    exact = float(grid[500].logsumexp(0)) + math.log(0.05) - log_z
    assert abs(float(pg.log_likelihood(machine, seen).value) - exact) < 1e-6


class Powers(RestrictedBoltzmann):
    """The planted defect: the sum over the hidden units is tempered as a whole, while chains temper the units."""

    def tempered_factor(self, x: Tensor, beta: float, *context: object) -> Tensor:
        return beta * super().tempered_factor(x, 1.0)


@pytest.mark.parametrize("visible", ["binary", "gaussian", {"softmax": 3}])
def test_annealing_against_the_exact_sum(visible: object) -> None:
    for kind, right in ((RestrictedBoltzmann, True), (Powers, False)):
        machine = random_machine(visible, kind)
        found = pg.log_partition(machine, method="ais", chains=500, temperatures=40)
        z = (found.mean() - pg.log_partition(machine).mean()) / found.mean_standard_error()
        assert abs(z) < 4.5 if right else abs(z) > 6  # false alarms: 1e-5


def test_annealing_of_rows_with_holes() -> None:
    machine = random_machine()
    seen = torch.tensor([[NAN, 1.0, NAN, NAN], [0.0, NAN, NAN, 0.0]])
    exact = pg.log_likelihood(machine, seen).value
    found = pg.log_likelihood(machine, seen, method="ais", chains=2000, temperatures=30)
    assert bool(((found.value - exact) / found.standard_error).abs().max() < 4.5)  # false alarms: 1e-5


def p_value(machine: RestrictedBoltzmann, draws: Tensor, among: Tensor | None = None) -> float:
    x = states(4)
    expected = log_weights(machine, x)
    if among is not None:
        expected = expected.masked_fill(~among, -math.inf)
    expected = len(draws) * expected.softmax(0)
    counts = torch.bincount((draws.flatten(1) * 2.0 ** torch.arange(3, -1, -1)).sum(1).long(), minlength=16).double()
    possible = expected > 0
    assert bool((counts[~possible] == 0).all())
    statistic = ((counts - expected).square() / expected)[possible].sum()
    return float(stats.chi2.sf(float(statistic), int(possible.sum()) - 1))


class Forgetful(RestrictedBoltzmann):
    """The planted defect: the visible units do not know that hidden ones are -1/2 and 1/2."""

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: object) -> Tensor:
        own = self.visible_biases.data.clone()
        self.visible_biases.data += 0.5 * self.weights.sum(1)
        out = super().kernel(x, missing, beta)
        self.visible_biases.data.copy_(own)
        return out


@pytest.mark.parametrize("seen", [[NAN] * 4, [NAN, 1.0, NAN, 0.0]])
@pytest.mark.parametrize(("kind", "right"), [(RestrictedBoltzmann, True), (Forgetful, False)])
def test_chains_and_exact_draws(seen: list[float], kind: type[RestrictedBoltzmann], right: bool) -> None:
    machine, row = random_machine(kind=kind), torch.tensor([seen])
    among = ((states(4) == row) | row.isnan()).all(1)
    x = row.nan_to_num(nan=0.0).expand(10_000, 1, 4)
    with torch.no_grad():
        for _ in range(60):
            x = machine.kernel(x, row.isnan(), 1.0)
    p = p_value(machine, x[:, 0], among)
    assert p > 1e-4 if right else p < 1e-6  # false alarms: 1e-4
    assert p_value(machine, pg.impute(machine, row, draws=10_000)[:, 0], among) > 1e-4


def test_chains_of_gaussian_and_softmax_units_stay_where_exact_draws_are() -> None:
    """Means of each entry, and of products of neighbours, after sweeps from exact draws."""
    for visible in ("gaussian", {"softmax": 3}):
        machine = random_machine(visible)
        start, other = pg.sample(machine, 20_000, seed=0), pg.sample(machine, 20_000, seed=1)
        x = start.unsqueeze(1)
        with torch.no_grad():
            for _ in range(5):
                x = machine.kernel(x, torch.ones(1, 4, dtype=torch.bool), 1.0)
        both = [torch.cat([t, t[:, :-1] * t[:, 1:]], 1).double() for t in (x[:, 0], other)]
        gap = both[0].mean(0) - both[1].mean(0)
        assert bool((gap.abs() < 4.5 * ((both[0].var(0) + both[1].var(0)) / 20_000).sqrt()).all())  # 5e-5


def test_four_units_from_one_random_number() -> None:
    """Shares of each of four lanes, for small probabilities too, and no lane knows of another."""
    torch.manual_seed(0)
    p, calls = torch.tensor([0.5, 0.9, 1e-4, 3e-6]), 400  # the last is below the step of r, so that u decides
    share = torch.stack([draw_binary(p.logit().repeat(5000, 1)).double().mean(0) for _ in range(calls)]).mean(0)
    error = (p * (1 - p) / (5000 * calls)).sqrt()
    assert bool(((share - p).abs() < 5 * error).all())  # false alarms: 1e-5
    lanes = draw_binary(torch.zeros(2_000_000, 4)).double() - 0.5
    correlation = (lanes.T @ lanes / len(lanes) * 4).fill_diagonal_(0.0)
    assert float(correlation.abs().max()) < 5 / len(lanes) ** 0.5  # false alarms: 4e-6


@pytest.mark.parametrize("make", [lambda: ContrastiveDivergence(2, persistent=500), ExactLikelihood])
def test_learning_reaches_the_likelihood_of_the_truth(make: Callable[[], Objective]) -> None:
    """Above that of the machine that made the data, on these; with a third of the entries missing not far below."""
    truth = random_machine()
    x = pg.sample(truth, 2000, seed=1)
    holed = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 1 / 3, NAN, x)
    best = pg.log_likelihood(truth, x).mean()
    for data, slack in ((x, 0.0), (holed, 0.02)):
        learned = RestrictedBoltzmann(4, 3, objective=make())
        pg.fit(learned, data, epochs=25, batch_size=500, lr=0.1, schedule="cosine", ema=0.9, progress=False)
        assert pg.log_likelihood(learned, x).mean() > best - 0.01 - slack
    base = RestrictedBoltzmann(4, 3).initialise(x)
    base.weights.data.zero_()  # the twin: independent units
    assert pg.log_likelihood(base, x).mean() < best - 0.1


def test_shapes_and_wrong_arguments() -> None:
    machine = RestrictedBoltzmann([2, 3], 4)
    x = torch.bernoulli(torch.full((5, 2, 3), 0.5))
    assert machine.hidden_means(x).shape == (5, 4) and pg.sample(machine, 3).shape == (3, 2, 3)
    assert machine.log_sum(x) is not None and RestrictedBoltzmann(4, 21).log_sum(x.flatten(1)) is None
    with pytest.raises(ValueError, match=r"visible='poisson': choose \"binary\", \"gaussian\", or \{\"softmax\": L\}"):
        RestrictedBoltzmann(4, 3, "poisson")
