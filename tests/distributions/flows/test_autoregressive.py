"""Flows are bijections whose log-determinant is that of their Jacobian, and densities, also after training."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_gen as pg
from pyro_gen._random import vmap_draws
from pyro_gen.distributions.flows import AmortisedFlow, FlowDistribution, Transport
from pyro_gen.distributions.flows.autoregressive import KINDS, spline
from pyro_gen.inference import ELBO, IWAE


def perturbed(transport: Transport, scale: float = 0.1) -> Transport:
    """Not the identity any more, which a flow is when it is made."""
    transport = transport.double()
    with torch.no_grad():
        for parameter in transport.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return transport


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_is_a_bijection_with_the_log_determinant_of_its_jacobian(kind: str, features: int, dim: int) -> None:
    transport = perturbed(Transport(dim, features, kind))
    u = 2 * torch.randn(6, dim, dtype=torch.float64)
    h = torch.randn(6, features, dtype=torch.float64) if features else None
    z, log_det = transport(u, h)
    back, log_det_back = transport.inverse(z, h)
    assert torch.allclose(back, u, atol=1e-8)
    assert torch.allclose(log_det_back, log_det, atol=1e-8)
    for i in range(6):
        context = None if h is None else h[i]
        jacobian = torch.autograd.functional.jacobian(lambda point, c=context: transport(point, c)[0], u[i])
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det[i], atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_begin_from_the_normal_distribution_that_the_context_gives(kind: str) -> None:
    """They see a point of the latent space: a flow that scaled their output by the context lost 4 nats of MNIST."""
    transport = perturbed(Transport(3, 2, kind, layers=2))
    u, h = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    with torch.no_grad():
        for layer in transport.layers:
            layer.context.weight.zero_()
        loc, log_scale = transport.head(h).chunk(2)
        z, log_det = transport(u, h)
        v, rest = transport(loc + log_scale.exp() * u)
        assert torch.allclose(z, v) and torch.allclose(log_det, rest + log_scale.sum())
        # the twin: a normal distribution at the other end is another flow
        assert not torch.allclose(z, loc + log_scale.exp() * transport(u)[0], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_the_normal_distribution_that_an_encoder_gives(kind: str) -> None:
    h, z = torch.randn(4, 7), torch.randn(4, 3)
    law = dist.Normal(h[:, :3], h[:, 3:6].exp()).to_event(1)  # the last entry is for the layers alone
    assert torch.allclose(AmortisedFlow(7, 3, kind)(h).log_prob(z), law.log_prob(z), atol=1e-4)
    other = AmortisedFlow(5, 3, kind)(h[:, :5])  # of fewer features the means are a map of all, and scales are 1
    assert not torch.allclose(other.log_prob(z), law.log_prob(z), atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_flow_is_the_identity(kind: str) -> None:
    u = 3 * torch.randn(50, 4)
    z, log_det = Transport(4, 0, kind)(u)
    assert torch.allclose(z, u, atol=1e-5) and log_det.abs().max() < 1e-5


def test_splines_are_monotone_with_the_slope_they_say_and_end_smoothly() -> None:
    parameters = torch.randn(1, 23, dtype=torch.float64)
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64).requires_grad_()
    y, log_slope = spline(x, parameters.expand(len(x), 23))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert bool((slope > 0).all()) and torch.allclose(slope.log(), log_slope, atol=1e-9)
    outside = x.abs() >= 5
    assert torch.equal(y[outside], x[outside]) and not log_slope[outside].any()
    assert (y[1:] - y[:-1]).min() > 0 and (log_slope[1:] - log_slope[:-1]).abs().max() < 0.1  # no jump of the slope


@pytest.mark.parametrize("kind", KINDS)
def test_layers_depend_on_earlier_groups_only(kind: str) -> None:
    layer = perturbed(Transport(6, 0, kind, layers=1)).layers[0]
    u = torch.randn(6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda point: layer(point, None)[0], u)
    groups = torch.arange(6) % 2 if kind.endswith("coupling") else torch.arange(6)
    allowed = (groups[:, None] > groups) | torch.eye(6, dtype=torch.bool)
    assert not jacobian[~allowed].any()
    assert bool((jacobian[allowed] != 0).all())  # and on all of them


def banana(z: Tensor) -> Tensor:
    """A normalised density on the plane."""
    first = dist.Normal(0.0, 1.0).log_prob(z[..., 0])
    return first + dist.Normal(z[..., 0] ** 2 - 1, 0.5).log_prob(z[..., 1])  # type: ignore[no-any-return]


def integral(transport: Transport) -> float:
    axis = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_q = FlowDistribution(transport, None, torch.Size()).log_prob(grid)
    return float(log_q.double().exp().sum() * (axis[1] - axis[0]) ** 2)


def trained(kind: str, steps: int) -> tuple[Transport, Tensor]:
    transport = Transport(2, 0, kind, layers=2, hidden=(32,))
    optimizer = torch.optim.Adam(transport.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        q = FlowDistribution(transport, None, torch.Size())
        z = q.rsample((128,))
        gap = (q.log_prob(z) - banana(z)).mean()
        optimizer.zero_grad()
        gap.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        q = FlowDistribution(transport, None, torch.Size())
        z = q.rsample((20_000,))
        return transport, (q.log_prob(z) - banana(z)).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_flow_integrates_to_one(kind: str) -> None:
    transport, gap = trained(kind, 300)
    assert gap < 0.2  # it has learned something: at first it was 2 nats and more
    assert abs(integral(transport) - 1) < 0.01
    # The twin: without the log-determinant it does not.
    inverse = transport.inverse
    transport.inverse = lambda z, h=None: (inverse(z, h)[0], torch.zeros(()))  # type: ignore[assignment]
    assert abs(integral(transport) - 1) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_density(kind: str) -> None:
    """E[f(z)] over draws against the integral of f q over a grid, in float64.

    The error of a mean of 40,000 draws is s / 200: beyond 5 of them once in 10^6 seeds, for each of 3 functions.
    """
    transport = perturbed(Transport(2, 0, kind, layers=2, hidden=(16,)), 0.2)
    q = FlowDistribution(transport, None, torch.Size())
    axis = torch.linspace(-15, 15, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        weights = q.log_prob(grid).softmax(0)
        z = q.rsample((40_000,))
    functions: list[Callable[[Tensor], Tensor]]
    functions = [lambda z: z[:, 0].tanh(), lambda z: z[:, 1].tanh(), lambda z: (z[:, 0] * z[:, 1]).tanh()]
    for f in functions:
        values = f(z)
        assert abs(values.mean() - (weights * f(grid)).sum()) < 5 * values.std() / math.sqrt(len(z))


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_a_draw_is_that_of_the_value(kind: str) -> None:
    flow = AmortisedFlow(3, 2, kind)
    perturbed(flow.transport)
    q = flow(torch.randn(7, 3, dtype=torch.float64))
    z = q.rsample((5,))
    known = q.log_prob(z)
    assert known.shape == (5, 7) and torch.allclose(known, q.log_prob(z.clone()), atol=1e-8)


def test_a_step_of_the_optimiser_makes_no_stale_density() -> None:
    """The trap of cached transforms: the draw is old, the parameters are new."""
    flow = AmortisedFlow(1, 2, "affine")
    q = flow(torch.ones(4, 1))
    z = q.rsample()
    before = q.log_prob(z)
    with torch.no_grad():
        flow.transport.log_scale.add_(1.0)
    after = q.log_prob(z)
    assert torch.allclose(after, flow(torch.ones(4, 1)).log_prob(z)) and not torch.allclose(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_flows_are_vectorised_and_recorded(kind: str) -> None:
    flow = AmortisedFlow(3, 2, kind)
    perturbed(flow.transport)
    h = torch.randn(4, 3, dtype=torch.float64)

    def weigh(h: Tensor) -> Tensor:
        q = flow(h)
        return torch.stack([q.log_prob(q.rsample()), q.log_prob(h[..., :2])])

    with torch.no_grad():
        torch.manual_seed(1)
        expected = weigh(h)
        graph = make_fx(weigh)(h)
        torch.manual_seed(1)
        assert torch.allclose(graph(h), expected)
        particles = vmap_draws(lambda: weigh(h), 3)
    assert particles.shape == (3, 2, 4)
    assert torch.allclose(particles[:, 1], expected[1].expand(3, 4))
    assert (particles[0, 0] != particles[1, 0]).all()  # draws of their own


def test_copies_and_states_of_flows() -> None:
    flow = AmortisedFlow(3, 2)
    perturbed(flow.transport)
    h, z = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    other = AmortisedFlow(3, 2).double()
    other.load_state_dict(flow.state_dict())
    for twin in (other, copy.deepcopy(flow)):
        assert torch.equal(twin(h).log_prob(z), flow(h).log_prob(z))


class Ring(pg.Program):
    """Data that tell the radius of a latent point: the posterior of each is a ring, which no Gaussian guide fits."""

    def __init__(self, flow: bool) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        self.flow = AmortisedFlow(4, 2, "coupling", layers=4, hidden=(32,)) if flow else None

    def model(self, x: Tensor) -> Any:
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return pg.observe("x", dist.Normal(z.norm(dim=-1, keepdim=True), 0.3).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x):
            h = self.encoder(x)
            loc, log_scale = h.chunk(2, -1)
            q = dist.Normal(loc, log_scale.exp()).to_event(1) if self.flow is None else self.flow(h)
            pyro.sample("z", q)


def test_an_amortised_flow_beats_the_gaussian_encoder() -> None:
    """The evidence of a datum is a quadrature; the bound is below it, and for several particles nearer."""
    x = torch.linspace(0.5, 2.5, 64)[:, None]
    axis = torch.linspace(-6, 6, 301)
    grid = torch.cartesian_prod(axis, axis)
    log_p = dist.Normal(0.0, 1.0).log_prob(grid).sum(-1) + dist.Normal(grid.norm(dim=-1), 0.3).log_prob(x)
    exact = (log_p.logsumexp(-1) + 2 * (axis[1] - axis[0]).log()).mean()
    gaps = {}
    for flow in (False, True):
        torch.manual_seed(0)
        program = Ring(flow)
        result = pg.fit(
            program, x, objective=ELBO(4), epochs=400, batch_size=64, lr=0.005, schedule="cosine", progress=False
        )
        assert result.mode == "traced"
        gaps[flow] = exact - pg.log_likelihood(program, x, method="elbo", num_particles=500).mean()
        with torch.no_grad():
            iwae = -IWAE(50).loss(program, x) / len(x)
        assert -0.02 < exact - iwae < gaps[flow]
    assert 0.0 < gaps[True] < 0.5 * gaps[False]


def test_what_flows_refuse() -> None:
    with pytest.raises(ValueError, match="choose one of affine, spline, affine-coupling, coupling"):
        AmortisedFlow(2, 2, "radial")
    with pytest.raises(ValueError, match="both are positive"):
        AmortisedFlow(0, 2)
    with pytest.raises(ValueError, match="at least one layer"):
        AmortisedFlow(2, 2, layers=0)
    with pytest.raises(ValueError, match=r"context of 2 features and was given shape \(5, 3\)"):
        AmortisedFlow(2, 2)(torch.zeros(5, 3))
