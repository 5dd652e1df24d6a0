"""A chain and an inverse of bijections have the Jacobian that they say, and the start has the moments of the data."""

import pytest
import torch
from torch import Tensor

from pyro_gen.distributions.flows import Chain, FlowDistribution, Inverse, Rescaling, Transport


def perturbed(kind: str, features: int = 0) -> Chain:
    parts = [Inverse(Transport(3, features, kind, layers=2, hidden=(8,))), Transport(3, 0, "affine", layers=1)]
    flow = Chain(*parts, Rescaling((3,))).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        flow.start(2 * torch.randn(20, 3, dtype=torch.float64) + 1)
    return flow


@pytest.mark.parametrize("kind", ["affine", "coupling"])
def test_a_chain_has_the_log_determinant_of_its_jacobian(kind: str) -> None:
    flow, u, h = perturbed(kind, 2), torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    x, log_det = flow(u, h)
    back, log_det_back = flow.inverse(x, h)
    assert torch.allclose(back, u, atol=1e-8) and torch.allclose(log_det, log_det_back, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda u: flow(u, h)[0], u)
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det, atol=1e-8)
    assert abs(log_det - Inverse(flow)(x, h)[1]) > 1e-3  # the twin: of the other direction it has the other sign


def test_densities_of_draws_are_those_of_values() -> None:
    flow = FlowDistribution(perturbed("spline"), None, torch.Size([4]))
    x = flow.rsample((5,))
    assert flow.log_prob(x).shape == (5, 4)
    assert torch.allclose(flow.log_prob(x), flow.log_prob(x.clone()), atol=1e-8)


def test_a_start_gives_noise_the_moments_of_the_data() -> None:
    x = torch.randn(50, 3) * torch.tensor([1.0, 3.0, 0.0]) + 2
    flow = Rescaling((3,))
    with torch.no_grad():
        u: Tensor = flow.start(x)
    assert torch.allclose(u.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(u[:, :2].std(0, correction=0), torch.ones(2)) and u.isfinite().all()


def test_what_chains_refuse() -> None:
    with pytest.raises(ValueError, match="the same number of entries"):
        Chain(Rescaling((3,)), Rescaling((4,)))


def test_a_draw_of_a_flow_whose_buffers_have_changed_is_scored_anew() -> None:
    flow = Rescaling((2,))
    law = FlowDistribution(flow, None, torch.Size([3]))
    z = law.rsample()
    flow.start(5 * torch.randn(20, 2) + 1)
    assert torch.equal(law.log_prob(z), law.log_prob(z.clone()))
