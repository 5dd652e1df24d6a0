"""Deep belief networks against sums over all states."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import pyro_gen as pg
from pyro_gen.models import DeepBelief, RestrictedBoltzmann
from pyro_gen.models.undirected.parts.boltzmann_law import BoltzmannLaw

NAN = math.nan


def states(entries: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * entries)


def random_network(units: int = 2, kind: type[DeepBelief] = DeepBelief) -> DeepBelief:
    torch.manual_seed(0)
    network = kind(3, [4, units])
    network.initialise((torch.randn(50, 3) > 0.3).float())
    for name, parameter in network.named_parameters():
        parameter.data.normal_()
        if name.startswith("recognition"):
            parameter.data.mul_(0.3)
    return network


def exact(network: DeepBelief) -> Tensor:
    """Log-probabilities of the 8 states of x by the formula, layer by layer, float64."""
    h, x = states(4), states(3)
    top = network.top
    terms = []
    for g in states(len(top.hidden_biases)) - 0.5:
        terms.append((h - 0.5) @ (top.visible_biases + top.weights @ g) + top.hidden_biases @ g)
    log_p = torch.stack(terms).double().logsumexp(0)
    logits = network.visible.logits + network.biases + (h - 0.5) @ network.weights.T  # (16, 3)
    p = logits.sigmoid().double().unsqueeze(0)
    seen = x.unsqueeze(1)
    log_x = (seen * p.log() + (1 - seen) * (1 - p).log()).sum(2)  # (8, 16)
    return (log_x + log_p.log_softmax(0)).logsumexp(1).detach()


class Unnormalised(DeepBelief):
    """The planted defect: log Z of the top pair is left out."""

    def prior(self) -> BoltzmannLaw:
        return BoltzmannLaw(self.top, torch.zeros(()))


@pytest.mark.parametrize(("kind", "right"), [(DeepBelief, True), (Unnormalised, False)])
def test_the_bound_reaches_the_likelihood(kind: type[DeepBelief], right: bool) -> None:
    network = random_network(kind=kind)
    found = pg.log_likelihood(network, states(3), method="iwae", num_particles=5000)
    z = (found.value - exact(network)) / found.standard_error
    # The bound's bias is half of the squared error, a hundredth of it. False alarms: 4e-5 for 8 data.
    assert float(z.abs().max()) < 4.7 if right else float(z.abs().max()) > 10
    elbo = pg.log_likelihood(network, states(3), method="elbo", num_particles=500)
    assert not right or elbo.mean() < found.mean()


def test_holes_are_summed_out() -> None:
    network = random_network()
    seen = torch.tensor([[NAN, 1.0, 0.0], [NAN, NAN, NAN]])
    p = exact(network).exp()
    expected = torch.stack([p[((states(3) == row) | row.isnan()).all(1)].sum() for row in seen]).log()
    found = pg.log_likelihood(network, seen, method="iwae", num_particles=5000)
    assert float(((found.value - expected) / found.standard_error.clamp(min=1e-6)).abs().max()) < 4.5  # 1e-5


def test_the_constant_is_estimated_where_it_cannot_be_summed() -> None:
    machine = RestrictedBoltzmann(3, 4)
    network = DeepBelief.from_machines(machine, RestrictedBoltzmann(4, 21))
    with pytest.raises(ValueError, match=r"log Z of the top pair, with 21 units .* is not known: call"):
        network.prior()
    network.normalise(method="exact")  # of 16 states of h
    total = network.prior().log_prob(states(4)).exp().sum()
    assert abs(float(total.detach()) - 1) < 1e-4
    assert torch.equal(network.recognition, machine.weights) and torch.equal(network.weights, machine.weights)
    network.normalise(chains=256, temperatures=20)
    assert abs(float(network.prior().log_prob(states(4)).exp().sum().detach()) - 1) < 0.1
    assert pg.sample(network, 5).shape == (5, 3)


@pytest.mark.parametrize("draw", ["exactly", "by chains"])
def test_draws(draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the top pair down; the twin draws h from fair coins."""
    network = random_network()
    expected = 10_000 * exact(network).exp()
    if draw == "by chains":
        constant = pg.log_partition(network.top).mean()
        network.log_partition.fill_(constant)
        monkeypatch.setattr("pyro_gen.models.undirected.restricted_boltzmann.MAX_SUMMED", 1)

    def p_value() -> float:
        x = pg.sample(network, 10_000)
        counts = torch.bincount((x * torch.tensor([4.0, 2.0, 1.0])).sum(1).long(), minlength=8).double()
        return float(stats.chi2.sf(float(((counts - expected).square() / expected).sum()), 7))

    assert p_value() > 1e-4  # false alarms: 1e-4

    def coins(self: Any, sample_shape: Any = ()) -> Tensor:
        return torch.bernoulli(torch.full((*self.batch_shape, 4), 0.5))

    monkeypatch.setattr(BoltzmannLaw, "sample", coins)
    assert p_value() < 1e-6


def test_learning_raises_the_exact_likelihood() -> None:
    truth = random_network()
    x = pg.sample(truth, 500, seed=1)
    learned = DeepBelief(3, [4, 2])
    code = (x * torch.tensor([4.0, 2.0, 1.0])).sum(1).long()
    learned.initialise(x)
    before = float(exact(learned)[code].mean())
    pg.fit(learned, x, epochs=8, batch_size=250, lr=0.1, schedule="cosine", compile=False, progress=False)
    assert float(exact(learned)[code].mean()) > max(before, float(exact(truth)[code].mean()) - 0.02)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"hidden=\[3\]\): give the numbers of units of two layers"):
        DeepBelief(4, [3])
    with pytest.raises(ValueError, match=r"The lower machine has 4 hidden units and the upper one data of"):
        DeepBelief.from_machines(RestrictedBoltzmann(3, 4), RestrictedBoltzmann(5, 2))
