"""Places in a latent space: a likelihood by hand, what moves leave alone, and draws against quadrature."""

import math

import numpy as np
import pyro
import pytest
import torch

import pyro_gen as pg
from pyro_gen.models.network import LatentPosition
from pyro_gen.models.network.latent_position import distances, procrustes

NAN = torch.nan


def pair(edges):
    """As many networks of two nodes, of which so many have the edge."""
    x = torch.zeros(4, 2, 2)
    x[:edges, 0, 1] = x[:edges, 1, 0] = 1.0
    return x


def test_draws_of_two_nodes_against_quadrature():
    program = LatentPosition(2, dims=1, scale=1.0).initialise(pair(1))
    x = pair(1)
    x[3] = NAN
    posterior = pg.posterior(program, x, method="hmc", chains=32, draws=100, warmup=200, seed=0, progress=False)
    z = posterior.posterior["z"].to_numpy()[..., 0]
    drawn = np.abs(z[..., 0] - z[..., 1]).mean(1)
    error = drawn.std(ddof=1) / math.sqrt(len(drawn))

    def expected(seen):
        alpha, d = np.meshgrid(np.linspace(-12, 12, 801), np.linspace(0, 9, 801))
        p = 1 / (1 + np.exp(d - alpha))
        w = np.exp(-(alpha**2) / 8 - d**2 / 4) * p * (1 - p) ** (seen - 1)
        return (w * d).sum() / w.sum()

    assert abs(drawn.mean() - expected(3)) < 5 * error  # a normal mean of 32 chains: 2e-5 by Student's t
    assert abs(drawn.mean() - expected(12)) > 5 * error  # the twin: missing networks seen without the edge


def test_the_likelihood_by_hand_and_moves_that_leave_it_alone():
    x = torch.tensor([[[0.0, 1, 0], [1, 0, NAN], [0, NAN, 0]]])
    program = LatentPosition(3)
    z, alpha = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), torch.tensor(1.5)
    angle = torch.tensor(0.7)
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    values = []
    for places in (z, z @ turn + 2.0, 2 * z):
        fixed = pyro.condition(program.model, {"z": places, "alpha": alpha})
        trace = pyro.poutine.trace(fixed).get_trace(x)
        values.append(float(trace.nodes["x"]["fn"].log_prob(trace.nodes["x"]["value"]).sum()))
    by_hand = math.log(1 / (1 + math.exp(5 - 1.5))) + math.log(1 - 1 / (1 + math.exp(1 - 1.5)))
    assert values[0] == pytest.approx(by_hand, abs=1e-5) and values[1] == pytest.approx(by_hand, abs=1e-5)
    assert abs(values[2] - by_hand) > 0.1  # the twin: a scale does not


def test_places_are_laid_upon_each_other_and_have_gradients():
    reference = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    mirrored = reference.flip(-1) * torch.tensor([1.0, -1.0]) - 4.0
    assert torch.allclose(procrustes(mirrored.expand(3, 6, 2), reference), reference.expand(3, 6, 2), atol=1e-4)
    z = torch.zeros(3, 2, requires_grad=True)
    distances(z).sum().backward()
    assert z.grad is not None and bool(z.grad.isfinite().all())
    with pytest.raises(ValueError, match="2 nodes and 1 dimension"):
        LatentPosition(1)
