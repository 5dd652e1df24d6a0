"""Paths of a Markov process: the density asked for all steps at once is the product of the steps'."""

import pyro.distributions as dist
import torch

from pyro_gen.distributions import MarkovPath


def walk(z: torch.Tensor, pull: torch.Tensor) -> dist.Independent:
    return dist.Normal(0.5 * z + pull, 1 + z.square()).to_event(1)


def test_density_is_the_product_of_the_steps() -> None:
    start, pull = torch.randn(3, 2), torch.randn(3, 4, 2)
    law = MarkovPath(walk, start, 4, (pull,))
    assert (law.batch_shape, law.event_shape) == ((3,), (4, 2))
    z = law.rsample((5,))
    before, total = start, 0.0
    for t in range(4):
        total = total + walk(before, pull[:, t]).log_prob(z[..., t, :])
        before = z[..., t, :]
    assert z.shape == (5, 3, 4, 2)
    assert torch.allclose(law.log_prob(z), total)
    assert torch.allclose(law.expand((5, 3)).log_prob(z), total)
    assert not torch.allclose(MarkovPath(walk, start, 4, (pull.flip(1),)).log_prob(z), total)


def test_draws_follow_their_inputs_and_carry_gradients() -> None:
    start = torch.zeros(1, 1, requires_grad=True)
    path = MarkovPath(lambda z, u: dist.Normal(z + u, 1e-6).to_event(1), start, 3, (torch.ones(1, 3, 1),)).rsample()
    assert torch.allclose(path[0, :, 0], torch.tensor([1.0, 2.0, 3.0]), atol=1e-4)
    path[0, -1, 0].backward()
    assert start.grad.item() == 1.0


def test_a_value_broadcasts_against_the_batch() -> None:
    start, z = torch.randn(3, 2), torch.randn(4, 2)
    law = MarkovPath(lambda z: dist.Normal(z, 1.0).to_event(1), start, 4)
    assert torch.allclose(law.log_prob(z), law.log_prob(z.expand(3, 4, 2)))
