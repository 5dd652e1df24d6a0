"""Deep Boltzmann machines against sums over all states of all three layers."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.inference import ContrastiveDivergence, ExactLikelihood, Objective
from pyro_gen.models import DeepBoltzmann

NAN = math.nan


def states(entries: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * entries)


def random_machine(**options: Objective) -> DeepBoltzmann:
    """Four visible units, three and two hidden ones, with a base that is not the uniform one."""
    torch.manual_seed(0)
    machine = DeepBoltzmann(4, [3, 2], **options)
    data = (torch.randn(50, 4) + torch.arange(4) / 4 > 0.2).float()
    machine.initialise({"x": data, "top": torch.full((50, 2), NAN)})
    for parameter in machine.parameters():
        parameter.data.normal_()
    machine.weights.data.mul_(torch.tensor([3.0] * 4 + [5.0] * 2).unsqueeze(1))
    return machine


def log_weights(machine: DeepBoltzmann, scale: float = 1.0) -> Tensor:
    """Log-weights of the 16 visible states by the formula, layer by layer; ``scale`` is of the upper weights."""
    lower, upper = machine.weights.detach().double().split([4, 2])
    a, c = machine.visible_biases.detach().double().split([4, 2])
    mean = machine.visible.mean[:4].double()
    total = []
    for g in states(2).double() - 0.5:
        for h in states(3).double() - 0.5:
            phi = states(4).double() - mean
            within = phi @ a + phi @ lower @ h
            total.append(within + h @ machine.hidden_biases.detach().double() + c @ g + scale * g @ upper @ h)
    x = states(4).double()
    base = (x * mean.log() + (1 - x) * (1 - mean).log()).sum(1) - 2 * math.log(2)  # of g too, fair coins
    weights: Tensor = base + torch.stack(total).logsumexp(0)
    return weights


def test_likelihoods_and_z_are_those_of_the_formula() -> None:
    machine, x = random_machine(), states(4)
    weights = log_weights(machine)
    found = pg.log_likelihood(machine, x)
    assert found.kind == "exact" and torch.allclose(found.value, weights.log_softmax(0), atol=1e-5)
    assert abs(pg.log_partition(machine).mean() - float(weights.logsumexp(0))) < 1e-5
    p = weights.softmax(0)
    seen = torch.tensor([[NAN, 1.0, NAN, 0.0], [1.0, NAN, 0.0, 0.0]])
    expected = torch.stack([p[((x == row) | row.isnan()).all(1)].sum() for row in seen]).log()
    assert torch.allclose(pg.log_likelihood(machine, seen).value, expected, atol=1e-5)
    twin = log_weights(machine, scale=0.8)
    assert float((found.value - twin.log_softmax(0)).abs().max()) > 1e-2


def test_the_sum_over_the_top_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hidden units are too many to sum over, and log Z is by annealing."""
    machine, x = random_machine(), states(4)
    rows = torch.cat([x, torch.full((16, 2), NAN)], 1)
    monkeypatch.setattr("pyro_gen.models.undirected.restricted_boltzmann.MAX_SUMMED", 2)
    with torch.no_grad():
        found = machine.log_sum(rows)
    assert found is not None and torch.allclose(found, log_weights(machine), atol=1e-5)
    assert machine.log_sum(torch.full((1, 6), NAN)) is None


def test_annealing_against_enumeration() -> None:
    """Log Z, and the likelihood of each datum, whose path goes over the top layer."""
    machine, x = random_machine(), states(4)
    weights = log_weights(machine)
    z = pg.log_partition(machine, method="ais", chains=1000, temperatures=40)
    assert abs(z.mean() - float(weights.logsumexp(0))) < 4.5 * z.mean_standard_error()  # false alarms: 1e-5
    found = pg.log_likelihood(machine, x, method="ais", chains=1000, temperatures=40)
    gap = (found.value - weights.log_softmax(0)) / found.standard_error
    assert float(gap.abs().max()) < 5  # of 16; false alarms: 1e-5
    assert float(((found.value - log_weights(machine, 0.0).log_softmax(0)) / found.standard_error).abs().max()) > 8


@pytest.mark.parametrize(("scale", "right"), [(1.0, True), (0.0, False)])
def test_chains_and_draws(scale: float, right: bool) -> None:
    """Of chains whose top layer moves along, and exact draws; the twin has no upper weights."""
    machine = random_machine()
    expected = 40_000 * log_weights(machine, scale).softmax(0)
    x = torch.zeros(40_000, 1, 6)
    with torch.no_grad():
        for _ in range(60):
            x = machine.kernel(x, torch.ones(1, 6, dtype=torch.bool), 1.0)
    for draws in (x[:, 0, :4], pg.sample(machine, 40_000)["x"]):
        counts = torch.bincount((draws * 2.0 ** torch.arange(3, -1, -1)).sum(1).long(), minlength=16).double()
        p = float(stats.chi2.sf(float(((counts - expected).square() / expected).sum()), 15))
        assert p > 1e-4 if right else p < 1e-6  # false alarms: 1e-4


def test_the_top_layer_is_imputed() -> None:
    machine = random_machine()
    x = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    drawn = pg.impute(machine, x, draws=5000)
    assert torch.equal(drawn["x"], x.expand(5000, 1, 4))
    both = torch.cat([x.expand(4, 4), states(2)], 1)
    with torch.no_grad():
        expected = machine.tempered_factor(both, 1.0).softmax(0).double()  # the base of the top layer is uniform
    share = torch.stack([(drawn["top"][:, 0] == g).all(1).double().mean() for g in states(2)])
    assert bool(((share - expected).abs() < 4.5 * (expected * (1 - expected) / 5000).sqrt()).all())  # 3e-5


@pytest.mark.parametrize(
    "objective",
    [
        ContrastiveDivergence(5, persistent=500),
        ContrastiveDivergence(2, persistent=500, sums=True),
        ExactLikelihood(),
    ],
)
def test_learning_reaches_the_likelihood_of_the_truth(objective: Objective) -> None:
    truth = random_machine()
    x = pg.sample(truth, 1000, seed=1)["x"]
    learned = DeepBoltzmann(4, [3, 2], objective)
    pg.fit(learned, x, epochs=20, batch_size=250, lr=0.1, schedule="cosine", ema=0.9, progress=False)
    best = pg.log_likelihood(truth, x).mean()
    assert pg.log_likelihood(learned, x).mean() > best - 0.03
    learned.weights.data.zero_()  # the twin: independent units
    assert pg.log_likelihood(learned, x).mean() < best - 0.05


def test_sums_that_are_not_known() -> None:
    machine = DeepBoltzmann(3, [21, 15], ContrastiveDivergence(2, sums=True))
    with pytest.raises(ValueError, match="this DeepBoltzmann does not know the sum over what is missing"):
        machine.objective.loss(machine, torch.zeros(2, 3))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"hidden=\[3\]\): give the numbers of units of two layers"):
        DeepBoltzmann(4, [3])
    with pytest.raises(ValueError, match=r"Variable 'x' of DeepBoltzmann has shape \(4,\) per datum"):
        pg.log_likelihood(DeepBoltzmann(4, [3, 2]), torch.zeros(2, 5))
