r"""Hamiltonian Monte Carlo as a pure function, for many chains at once.

A metric is a linear map :math:`z = L u` to coordinates in which the target is closer to isotropic. In them the momentum
is standard normal, :math:`p \sim \mathcal{N}(0, I)`, and with :math:`g = \nabla \log \pi(z)` one leapfrog step of size
:math:`\epsilon` is

.. math::
    p \gets p + \tfrac{\epsilon}{2} L^\top g(z), \qquad
    z \gets z + \epsilon L p, \qquad
    p \gets p + \tfrac{\epsilon}{2} L^\top g(z) .

It conserves volume, is its own inverse once the momentum is flipped, and changes the energy
:math:`H = \tfrac{1}{2} |p|^2 - \log \pi(z)` by :math:`O(\epsilon^2)`; so accepting the end of a trajectory with
probability :math:`\min(1, e^{H - H'})` leaves :math:`\pi` invariant. A trajectory of one step is the
Metropolis-adjusted Langevin algorithm.

The chains share the number of steps, a Python integer, so that all of them always work. A transition of :math:`n` steps
evaluates :math:`n` gradients: the last one of a trajectory is the first of the next.

References:
    | MCMC using Hamiltonian dynamics (Neal, 2011)
    | https://arxiv.org/abs/1206.1901
"""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density, Tempered

__all__ = [
    "Evaluation",
    "Info",
    "Metric",
    "Point",
    "Proposal",
    "Target",
    "accept_or_stay",
    "init",
    "leapfrog",
    "plain",
    "propose",
    "retempered",
    "select",
    "step",
]

DIVERGENT = 1000.0  # nats of energy error beyond which a trajectory has left the level set for good (Stan's figure)
LOWEST = 1e30  # nats below which a point might as well be off the support

Evaluation = tuple[Tensor, Tensor, tuple[Tensor, ...]]
Target = Callable[[Tensor], Evaluation]


class Point(NamedTuple):
    """Where the chains are, and what is known there.

    Attributes:
        z: Positions, with shape :math:`(C, *B, D)` for C chains and batch shape B.
        log_density: Their log-densities, with shape :math:`(C, *B)`, in nats.
        grad: The gradients, with shape :math:`(C, *B, D)`.
        parts: Tensors that travel with the points, each with leading shape :math:`(C, *B)`: for example both terms of a
            tempered density, so that to evaluate it at another temperature costs nothing.
    """

    z: Tensor
    log_density: Tensor
    grad: Tensor
    parts: tuple[Tensor, ...] = ()


class Info(NamedTuple):
    """What happened in a transition.

    Attributes:
        acceptance: The probability of acceptance, with shape :math:`(C, *B)`; 0 where the trajectory diverged.
        energy: The energy of the point kept, momentum included, with shape :math:`(C, *B)`, in nats.
        diverging: Whether the energy rose by more than 1000 nats or ceased to be finite, with shape :math:`(C, *B)`.
        num_steps: The number of leapfrog steps.
    """

    acceptance: Tensor
    energy: Tensor
    diverging: Tensor
    num_steps: int


def plain(density: Density) -> Target:
    """The target of MCMC: the density itself. Points of a tempered one carry the parts for all temperatures."""

    def target(z: Tensor) -> Evaluation:
        return *density.log_density_and_grad(z), ()

    def tempered(z: Tensor) -> Evaluation:
        assert isinstance(density, Tempered)
        parts = density.parts(z)
        return *density.combine(parts), parts

    return tempered if isinstance(density, Tempered) else target


def retempered(point: Point, density: Density) -> Point | None:
    """The same points at the present temperature of a density, at no cost; ``None`` where they carry no parts."""
    if not isinstance(density, Tempered) or not point.parts:
        return None
    return _on_support(point.z, (*density.combine(point.parts), point.parts))


def init(z: Tensor, target: Target) -> Point:
    """Evaluates a target at the starting points.

    Off the support a point has log-density minus infinity and is given gradient zero: a chain may start there, and
    takes the first proposal on the support.

    Arguments:
        z: Positions, with shape :math:`(C, *B, D)`.
        target: The target.
    """
    return _on_support(z, target(z))


def _on_support(z: Tensor, evaluation: Evaluation) -> Point:
    log_density, grad, parts = evaluation
    log_density = torch.where(log_density.isfinite(), log_density, -math.inf)
    return Point(z, log_density, grad.nan_to_num(0.0, 0.0, 0.0), parts)


def select(accepted: Tensor, new: Point, old: Point) -> Point:
    """Takes the new point where ``accepted``, a mask with shape :math:`(C, *B)`, and the old one elsewhere."""
    # To broadcast over the last dimension, a short one, takes three times as long as to read a whole mask.
    wide = accepted.unsqueeze(-1).expand_as(new.z).contiguous()

    def pick(a: Tensor, b: Tensor) -> Tensor:
        mask = wide if a.shape == wide.shape else accepted.view(accepted.shape + (1,) * (a.dim() - accepted.dim()))
        return torch.where(mask, a, b)

    return Point(
        pick(new.z, old.z),
        pick(new.log_density, old.log_density),
        pick(new.grad, old.grad),
        tuple(pick(a, b) for a, b in zip(new.parts, old.parts, strict=True)),
    )


def step(
    point: Point, target: Target, step_size: float | Tensor, metric: "Metric", num_steps: int
) -> tuple[Point, Info]:
    r"""Makes one transition that leaves the target invariant; draws by the global generator.

    Arguments:
        point: The chains.
        target: The target. ``point`` must hold its values, not those of another temperature.
        step_size: The step size :math:`\epsilon`, a number or a tensor with shape :math:`(*B)` or :math:`(C, *B)`.
        metric: The metric.
        num_steps: The number of leapfrog steps, at least 1.

    Returns:
        The chains after the transition, and what happened in it.

    Example:
        >>> import torch
        >>> def normal(z):
        ...     return -0.5 * z.square().sum(-1), -z, ()
        >>> _ = torch.manual_seed(0)
        >>> point = init(torch.randn(10_000, 2), normal)
        >>> point, info = step(point, normal, 0.5, Metric.diagonal(torch.ones(2)), 3)
        >>> point.z.shape, bool(info.acceptance.mean() > 0.9)
        (torch.Size([10000, 2]), True)
    """
    return accept_or_stay(point, propose(point, target, metric.scaled(step_size), num_steps))


class Proposal(NamedTuple):
    """The end of a trajectory.

    Attributes:
        point: Where it ends.
        momentum: The momentum there, in whitened coordinates, with shape :math:`(C, *B, D)`.
        before: Minus the energy at its beginning, with shape :math:`(C, *B)`.
        after: Minus the energy at its end, with shape :math:`(C, *B)`.
        num_steps: The number of leapfrog steps.
    """

    point: Point
    momentum: Tensor
    before: Tensor
    after: Tensor
    num_steps: int


def propose(point: Point, target: Target, metric: "Metric", num_steps: int) -> Proposal:
    """Draws a momentum and follows it; the step size is part of the metric."""
    momentum = torch.randn_like(point.z)
    half = momentum.new_full(momentum.shape[-1:], 0.5)
    before = point.log_density - momentum.square() @ half  # half the time of a sum over a short last dimension
    new, momentum = leapfrog(point, momentum, target, metric, num_steps)
    after = new.log_density - momentum.square() @ half
    return Proposal(new, momentum, before, after, num_steps)


def leapfrog(point: Point, momentum: Tensor, target: Target, metric: "Metric", num_steps: int) -> tuple[Point, Tensor]:
    """Follows a momentum, which is overwritten, for some steps; the step size is part of the metric."""
    metric = metric.expanded(point.z)
    kick, drift = metric.kick, metric.drift
    momentum = kick(momentum, point.grad, 0.5)
    z = drift(point.z, momentum)
    for _ in range(num_steps - 1):
        momentum = kick(momentum, target(z)[1], 1.0)
        z = drift(z, momentum)
    point = Point(z, *target(z))
    return point, kick(momentum, point.grad, 0.5)


def accept_or_stay(point: Point, proposal: Proposal) -> tuple[Point, Info]:
    """Accepts the end of a trajectory, or stays."""
    before, after = proposal.before, proposal.after
    # Not to where the density is NaN, nor plus infinity: a chain that went there would never come back. A chain that
    # starts off the support, at minus infinity, takes any other place.
    gain = (after - before.clamp(min=-LOWEST)).nan_to_num_(-math.inf, -math.inf, -math.inf)
    acceptance = gain.clamp(max=0.0).exp()
    accepted = torch.rand_like(acceptance) < acceptance
    energy = -torch.where(accepted, after, before)
    kept = select(accepted, proposal.point, point)
    return kept, Info(acceptance, energy, gain < -DIVERGENT, proposal.num_steps)


# ----------------------------------------------------------------------------------------------------------------------
# Metrics


class Metric(abc.ABC):
    """The linear map :math:`z = L u` of whitened coordinates, one for each target of a batch.

    Made by :meth:`diagonal`, :meth:`dense` or :meth:`low_rank`.

    Example:
        >>> import torch
        >>> metric = Metric.dense(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        >>> metric.push(torch.tensor([[1.0, 1.0]])), metric.pull(torch.tensor([[1.0, 1.0]]))
        (tensor([[2., 2.]]), tensor([[3., 1.]]))
    """

    kind: str

    @staticmethod
    def diagonal(scale: Tensor) -> "Metric":
        """Scales of the coordinates, with shape :math:`(*B, D)`."""
        return _Diagonal(scale)

    @staticmethod
    def dense(factor: Tensor) -> "Metric":
        """A matrix :math:`L` with shape :math:`(*B, D, D)`, such as the Cholesky factor of a covariance."""
        return _Dense(factor)

    @staticmethod
    def low_rank(scale: Tensor, vectors: Tensor, stretch: Tensor) -> "Metric":
        r"""Scales, after a stretch along a few directions: :math:`L = \mathrm{diag}(s) (I + V (\Lambda - I) V^\top)`.

        Arguments:
            scale: :math:`s`, with shape :math:`(*B, D)`.
            vectors: :math:`V`, whose K columns are orthonormal, with shape :math:`(*B, D, K)`.
            stretch: The diagonal of :math:`\Lambda`, standard deviations along them, with shape :math:`(*B, K)`.
        """
        return _LowRank(scale, vectors, stretch)

    @property
    @abc.abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What the constructor of this kind takes."""

    @abc.abstractmethod
    def push(self, u: Tensor) -> Tensor:
        """Computes :math:`L u` for vectors with shape :math:`(C, *B, D)`."""

    @abc.abstractmethod
    def pull(self, g: Tensor) -> Tensor:
        r"""Computes :math:`L^\top g` for vectors with shape :math:`(C, *B, D)`."""

    @abc.abstractmethod
    def whiten(self, z: Tensor) -> Tensor:
        """Computes :math:`L^{-1} z` for vectors with shape :math:`(C, *B, D)`."""

    @abc.abstractmethod
    def pull_inverse(self, q: Tensor) -> Tensor:
        r"""Computes :math:`L^{-\top} q` for vectors with shape :math:`(C, *B, D)`."""

    @abc.abstractmethod
    def scaled(self, factor: float | Tensor) -> "Metric":
        """The metric times a number, or times one for each target, :math:`(*B)`, or for each chain, :math:`(C, *B)`."""

    def expanded(self, z: Tensor) -> "Metric":
        """The same metric, made fast for vectors of the shape of ``z``."""
        return self

    def kick(self, momentum: Tensor, grad: Tensor, share: float) -> Tensor:
        r"""Adds :math:`L^\top g` times a share to a momentum, in place."""
        return momentum.add_(self.pull(grad), alpha=share)

    def drift(self, z: Tensor, momentum: Tensor) -> Tensor:
        """Computes :math:`z + L p`."""
        return z + self.push(momentum)


def _trailing(factor: float | Tensor, dims: int) -> float | Tensor:
    return factor.view(factor.shape + (1,) * dims) if isinstance(factor, Tensor) else factor


class _Diagonal(Metric):
    kind = "diagonal"

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale
        self._wide: _Diagonal | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.scale,)

    def push(self, u: Tensor) -> Tensor:
        return self.scale * u

    def pull(self, g: Tensor) -> Tensor:
        return self.scale * g

    def whiten(self, z: Tensor) -> Tensor:
        return z / self.scale

    def pull_inverse(self, q: Tensor) -> Tensor:
        return q / self.scale

    def scaled(self, factor: float | Tensor) -> "Metric":
        return _Diagonal(self.scale * _trailing(factor, 1))

    def expanded(self, z: Tensor) -> "Metric":
        # To broadcast over the last dimension, a short one, takes three times as long as to read the scales again.
        if self._wide is None or self._wide.scale.shape != z.shape:
            self._wide = _Diagonal(self.scale.expand_as(z).contiguous())
        return self._wide

    def kick(self, momentum: Tensor, grad: Tensor, share: float) -> Tensor:
        return momentum.addcmul_(self.scale, grad, value=share)

    def drift(self, z: Tensor, momentum: Tensor) -> Tensor:
        return torch.addcmul(z, self.scale, momentum)


class _Dense(Metric):
    kind = "dense"

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.factor,)

    def push(self, u: Tensor) -> Tensor:
        return self._times(u, self.factor.mT)

    def pull(self, g: Tensor) -> Tensor:
        return self._times(g, self.factor)

    def _times(self, rows: Tensor, matrix: Tensor) -> Tensor:
        if matrix.dim() == 2:
            return rows @ matrix
        if matrix.dim() == rows.dim():  # a matrix for each target, shared by the chains
            return (rows.movedim(0, -2) @ matrix).movedim(-2, 0)
        return (rows.unsqueeze(-2) @ matrix).squeeze(-2)  # a matrix for each chain

    def whiten(self, z: Tensor) -> Tensor:
        return self._times(z, torch.linalg.inv(self.factor).mT)

    def pull_inverse(self, q: Tensor) -> Tensor:
        return self._times(q, torch.linalg.inv(self.factor))

    def scaled(self, factor: float | Tensor) -> "Metric":
        return _Dense(self.factor * _trailing(factor, 2))

    def kick(self, momentum: Tensor, grad: Tensor, share: float) -> Tensor:
        if self.factor.dim() == 2 == momentum.dim():
            return momentum.addmm_(grad, self.factor, alpha=share)
        return super().kick(momentum, grad, share)

    def drift(self, z: Tensor, momentum: Tensor) -> Tensor:
        if self.factor.dim() == 2 == z.dim():
            return torch.addmm(z, momentum, self.factor.mT)
        return super().drift(z, momentum)


class _LowRank(Metric):
    kind = "low_rank"

    def __init__(self, scale: Tensor, vectors: Tensor, stretch: Tensor) -> None:
        self.scale, self.vectors, self.stretch = scale, vectors, stretch
        self._along = _Dense(vectors)
        self._excess = _Dense(((stretch - 1).unsqueeze(-2) * vectors).mT)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.scale, self.vectors, self.stretch)

    def _stretched(self, u: Tensor) -> Tensor:
        return u + self._excess.pull(self._along.pull(u))

    def push(self, u: Tensor) -> Tensor:
        return self.scale * self._stretched(u)

    def pull(self, g: Tensor) -> Tensor:
        return self._stretched(self.scale * g)

    def _inverse(self) -> "_LowRank":
        return _LowRank(1 / self.scale, self.vectors, 1 / self.stretch)

    def whiten(self, z: Tensor) -> Tensor:
        return self._inverse().pull(z)

    def pull_inverse(self, q: Tensor) -> Tensor:
        return self._inverse().push(q)

    def scaled(self, factor: float | Tensor) -> "Metric":
        return _LowRank(self.scale * _trailing(factor, 1), self.vectors, self.stretch)
