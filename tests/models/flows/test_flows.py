"""Every flow is a bijection with the Jacobian that it says and a density that integrates to one, after training too."""

import copy
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.distributions.flows import FlowDistribution
from pyro_gen.models.flows import IAF, MAF, ContinuousFlow, Glow, NeuralSpline, RealNVP, ResidualFlow
from pyro_gen.models.flows.parts.program import FlowProgram

PLANE: dict[str, Callable[[], FlowProgram]] = {
    "RealNVP": lambda: RealNVP(2, 4, (16,)),
    "MAF": lambda: MAF(2, 3, (16,)),
    "IAF": lambda: IAF(2, 3, (16,)),
    "NeuralSpline autoregressive": lambda: NeuralSpline(2, "autoregressive", 2, (16,)),
    "NeuralSpline coupling": lambda: NeuralSpline(2, "coupling", 2, (16,), marginals="spline"),
    "Glow": lambda: Glow((2, 1, 1), 1, 3, 16),
    "ResidualFlow": lambda: ResidualFlow(2, 4, (16, 16)),
    "ContinuousFlow": lambda: ContinuousFlow(2, 16, marginals="spline"),
}


def banana(rows: int, shape: torch.Size) -> Tensor:
    a, b = torch.randn(2, rows, generator=torch.Generator().manual_seed(1))
    return torch.stack([a, a.square() - 1 + 0.5 * b], 1).reshape(rows, *shape)


_TRAINED: dict[str, FlowProgram] = {}


def trained(name: str) -> FlowProgram:
    if name not in _TRAINED:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            program = PLANE[name]()
        pg.fit(
            program, banana(400, program.event_shape), epochs=20, batch_size=50, lr=0.01, progress=False, compile=False
        )
        _TRAINED[name] = program.eval()
    return copy.deepcopy(_TRAINED[name])


def log_prob(program: FlowProgram, x: Tensor) -> Tensor:
    with torch.no_grad():
        return FlowDistribution(program.bijection, None, x.shape[:1]).log_prob(x.reshape(-1, *program.event_shape))


def integral(program: FlowProgram) -> float:
    axis = torch.linspace(-8, 20, 281)
    return float(log_prob(program, torch.cartesian_prod(axis, axis)).double().exp().sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("name", PLANE)
def test_trained_it_has_learned_something_and_integrates_to_one(name: str) -> None:
    program = trained(name)
    x = banana(500, program.event_shape)
    gaussian = torch.distributions.MultivariateNormal(x.flatten(1).mean(0), torch.cov(x.flatten(1).T))
    assert float(log_prob(program, x).mean()) > float(gaussian.log_prob(x.flatten(1)).mean()) + 0.2
    assert abs(integral(program) - 1) < 0.01
    # The twin: without the log-determinant it does not.
    inverse = program.bijection.inverse
    program.bijection.inverse = lambda x, h=None: (inverse(x, h)[0], torch.zeros(()))  # type: ignore[method-assign]
    assert abs(integral(program) - 1) > 0.05


@pytest.mark.parametrize("name", PLANE)
def test_trained_it_inverts_with_the_log_determinant_of_its_jacobian(name: str) -> None:
    program = trained(name)
    bijection = program.bijection if name == "ContinuousFlow" else program.bijection.double()
    u = torch.randn(5, *program.event_shape).to(next(bijection.parameters()))
    with torch.no_grad():
        x, log_det = bijection(u)
        back, log_det_back = bijection.inverse(x)
    assert (back - u).abs().max() < 1e-5 * (10 if name == "ContinuousFlow" else 1)  # the solver's tolerance
    assert torch.allclose(log_det, log_det_back, atol=1e-3)
    jacobian = torch.autograd.functional.jacobian(lambda u: bijection(u[None])[0][0].flatten(), u[0])
    assert torch.allclose(torch.linalg.slogdet(jacobian.reshape(2, 2))[1], log_det[0], atol=1e-3)


@pytest.mark.parametrize("name", PLANE)
def test_trained_it_is_finite_far_out(name: str) -> None:
    program = trained(name)
    x = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]]).reshape(-1, *program.event_shape).requires_grad_()
    value = FlowDistribution(program.bijection, None, torch.Size([3])).log_prob(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert bool(value.isfinite().all()) and bool(slope.isfinite().all())
    with torch.no_grad():
        assert bool(program.bijection(x / 100)[0].isfinite().all())


def test_the_density_is_conditional_on_its_context() -> None:
    c = torch.linspace(-1, 1, 300).unsqueeze(1)
    x = torch.cat([2 * c, -c], 1) + 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    program = MAF(2, 2, (16,), context=1)
    pg.fit(program, (x, c), epochs=30, lr=0.02, progress=False, compile=False)
    right = pg.log_likelihood(program, x, c).mean()
    assert right > pg.log_likelihood(program, x, c.flip(0)).mean() + 2
    with pytest.raises(ValueError, match=r"MAF\(context=1\) is conditional on 1 numbers a row"):
        pg.log_likelihood(program, x)


def test_missing_entries_are_latent_and_their_law_is_the_conditional() -> None:
    """The mean of a missing entry given the other, and the density of the seen one, against a sum over a grid.

    Of 200 draws a row the mean is off by s / 14, less by what chains share: 5 standard errors, 1e-6 over seeds.
    """
    program = trained("NeuralSpline coupling")
    seen = torch.tensor([-1.5, 0.0, 1.5])
    holes = torch.stack([seen, torch.full((3,), math.nan)], 1)
    grid = torch.linspace(-6, 12, 721)
    pairs = torch.stack([seen[:, None].expand(3, 721), grid.expand(3, 721)], -1)
    log_p = log_prob(program, pairs.reshape(-1, 2)).reshape(3, 721).double()
    weights = log_p.softmax(1)
    mean = (weights * grid).sum(1)
    deviation = (weights * (grid - mean[:, None]).square()).sum(1).sqrt()
    draws = pg.impute(program, holes, draws=200, seed=1)[..., 1].double()
    assert bool(((draws.mean(0) - mean).abs() < 5 * deviation * math.sqrt(4 / 200)).all())
    exact = log_p.logsumexp(1) + math.log(18 / 720)
    found = pg.log_likelihood(program, holes, seed=0)
    assert found.method == "ais"
    assert bool(((found.value - exact).abs() < 5 * found.standard_error + 0.02).all())


def test_flows_are_not_trained_on_holes() -> None:
    x = banana(50, torch.Size([2]))
    x[0, 1] = math.nan
    with pytest.raises(ValueError, match=r"impute|marginalised"):
        pg.fit(MAF(2, 1, (8,)), x, epochs=1, progress=False)


def test_a_new_flow_is_the_density_of_independent_entries() -> None:
    x = banana(3000, torch.Size([2]))
    program = NeuralSpline(2, marginals="spline").initialise(x)
    a = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0])
    per_entry = log_prob(program, x)
    assert abs((per_entry - a).mean() - _entropy_of_second(x)) < 0.05
    trace = pyro.poutine.trace(program.model).get_trace(x[:4])
    assert abs(float(trace.log_prob_sum().detach()) - float(per_entry[:4].sum().detach())) < 1e-3


def _entropy_of_second(x: Tensor) -> Tensor:
    """The mean log-density of the second entry, a^2 - 1 + b / 2, by a sum over a."""
    a = torch.linspace(-6, 6, 1001)
    mixture = torch.distributions.Normal(a.square() - 1, 0.5).log_prob(x[:, 1:])
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(a) + math.log(12 / 1000)
    return (mixture + prior).logsumexp(1).mean()  # type: ignore[no-any-return]
