r"""Paths of distributions from a base to a target: what annealed importance sampling and sequential Monte Carlo share.

A target :math:`\pi(z) = p(x, z)`, unnormalised, and a normalised base :math:`q_0` are joined by

.. math::
    \log f_\beta(z) = \log q_0(z) + \beta \, s(z), \qquad s(z) = \log p(x, z) - \log q_0(z), \qquad
    0 \le \beta \le 1 ,

in unconstrained space. The base is the prior, where :math:`s` is the log-likelihood; a Gaussian fitted to draws of the
guide; or any distribution that the user gives. Between temperatures, chains make moves that leave :math:`f_\beta`
invariant, by Hamiltonian Monte Carlo or by any other sampler (:mod:`pyro_gen.inference.likelihood.kernels`).

Chains carry both terms and their gradients (:class:`pyro_gen.inference.mcmc.hmc.Point`), and at the next temperature
they are combined anew. To keep the combination instead, the density at the *old* temperature, is a known mistake that
leaves a biased chain.

:class:`Path` is for everything else, undirected models above all: a family of densities and a kernel of the user's own.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.density import Base, Density, ProgramDensity, Tempered, density
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.hmc import Evaluation, Metric, Point

__all__ = ["Engine", "Hamiltonian", "OfDensity", "Own", "Particles", "Path", "as_target", "unit_of"]


class Path(abc.ABC):
    r"""A path of distributions with a transition kernel of the user's own, for :func:`anneal` and :func:`smc`.

    Subclasses define the three methods. States are tensors with leading shape :math:`(C, *B)` for C chains and the
    batch shape B of independent targets; what follows is theirs.

    Attributes:
        batch_shape: The batch shape B, :math:`()` for one target.

    Example:
        >>> import torch
        >>> class Coin(Path):  # of weight exp(3 beta) for heads: Z = (1 + e^3) / 2
        ...     def start(self, chains):
        ...         return torch.randint(2, (chains,)).double()
        ...     def log_density(self, x, beta):
        ...         return 3.0 * beta * x - torch.tensor(2.0).log()
        ...     def move(self, x, beta):
        ...         return torch.bernoulli(torch.sigmoid(torch.full_like(x, 3.0 * beta)))
        >>> from pyro_gen.inference.likelihood.ais import anneal
        >>> abs(anneal(Coin(), temperatures=20).evidence.mean() - 2.355) < 0.1
        True
    """

    batch_shape: torch.Size = torch.Size()

    @abc.abstractmethod
    def start(self, chains: int) -> Tensor:
        """Draws from the base, the distribution at beta = 0, by the global generator: exactly, not by a chain."""

    @abc.abstractmethod
    def log_density(self, x: Tensor, beta: float) -> Tensor:
        r"""The logarithm of :math:`f_\beta`, with shape :math:`(C, *B)`, in nats; normalised at beta = 0 alone."""

    @abc.abstractmethod
    def move(self, x: Tensor, beta: float) -> Tensor:
        r"""One transition that leaves :math:`f_\beta` invariant, by the global generator."""

    def slope(self, x: Tensor) -> Tensor | None:
        r""":math:`d \log f_\beta / d \beta` with shape :math:`(C, *B)`, where it is the same at all :math:`\beta`.

        Where a path has it, a temperature costs one evaluation of it in the place of four densities.
        """
        return None


@dataclass(frozen=True)
class Particles:
    """Weighted draws of a posterior, and the evidence that came with them.

    Arguments:
        evidence: The evidence, or the likelihood of each datum.
        z: Unconstrained points (states, for a :class:`Path`), with shape :math:`(C, *B, D)`.
        log_weights: The logarithms of their weights, float64 with shape :math:`(C, *B)`.
        target: The density or path that they are of.
    """

    evidence: LogLikelihood
    z: Tensor
    log_weights: Tensor
    target: Density | Path

    def draws(self, count: int, seed: int = 0) -> Tensor:
        """Resamples equally weighted points by systematic resampling, with shape :math:`(S, *B, D)`.

        Raises:
            ValueError: A target has no particle on its support, or weights that are NaN.
        """
        flat = self.log_weights.flatten(1) if self.log_weights.dim() > 1 else self.log_weights.unsqueeze(1)
        if bad := int((~flat.logsumexp(0).isfinite()).sum()):
            raise ValueError(
                f"Particles.draws: of {bad} of {flat.shape[1]} targets no particle has a finite weight that is not 0, "
                "so there is nothing to draw: give more chains or temperatures, or look at the model."
            )
        with seeded(fork(seed)):  # the same seed may have made the particles
            index = resample(flat, count)
        batch = self.log_weights.shape[1:]
        states = self.z.reshape(len(self.z), flat.shape[1], *self.z.shape[1 + len(batch) :])
        return gather(states, index).reshape(count, *self.z.shape[1:])

    def posterior(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """Resamples values of the latent and deterministic sites by name, each with shape :math:`(S, *)`."""
        if not isinstance(self.target, Density):
            raise ValueError("The states of a Path have no sites: use draws(count).")
        return self.target.constrain(self.draws(count, seed))


# ----------------------------------------------------------------------------------------------------------------------
# Engines: a target, its base and its moves, as chains see them


class Engine(abc.ABC):
    """N targets with chains (C, N), each state a :class:`Point` whose tensors have this leading shape.

    Attributes:
        n: The number N of targets.
        dim: The number D of coordinates that moves can be scaled by; 0 for kernels that need no tuning.
        from_prior: Whether the path is tempered likelihood, from the prior on.
    """

    n: int
    dim: int
    from_prior = False

    @property
    def gradients(self) -> int:
        """Gradients evaluated so far, for each target."""
        return 0

    @abc.abstractmethod
    def start(self, chains: int) -> Point:
        """Exact draws of the base."""

    @abc.abstractmethod
    def rise(self, point: Point, low: float, high: float) -> Tensor:
        r""":math:`\log f_{high} - \log f_{low}`, float64 with shape :math:`(C, N)`."""

    @abc.abstractmethod
    def move(self, point: Point, beta: float, step_size: Tensor, metric: Metric) -> tuple[Point, Tensor]:
        """Moves all chains; also the probabilities of acceptance, with shape :math:`(C, N)`."""

    def learn(self, point: Point, beta: float) -> None:  # noqa: B027
        """Learns in a pilot run how to move at a temperature, from copies of the chains, if step sizes are not all."""

    def take(self, point: Point, index: Tensor) -> Point:
        """Picks chains for each target: an index with shape :math:`(S, N)`."""
        z, log_density, grad = (gather(t, index) for t in point[:3])
        return Point(z, log_density, grad, tuple(gather(t, index) for t in point.parts))

    def coordinates(self, point: Point) -> Tensor:
        """What moves are scaled by, with shape :math:`(C, N, D)`."""
        return point.z

    def unflatten(self, states: Tensor) -> Tensor:
        """(C, N, *) -> (C, *batch, *)."""
        return states.reshape(len(states), *self.batch_shape, *states.shape[2:])

    @property
    @abc.abstractmethod
    def batch_shape(self) -> torch.Size:
        """The batch shape of the target."""


class OfDensity(Engine):
    """A density and a base; how chains move is left open. ``base=None`` is the prior."""

    def __init__(self, density: Density, base: Base | None) -> None:
        self.density, self.target = density, Tempered(density, base)
        self.n, self.dim = density.batch_shape.numel(), density.dim
        self.from_prior = base is None

    @property
    def batch_shape(self) -> torch.Size:
        return self.density.batch_shape

    @property
    def gradients(self) -> int:
        return self.target.evaluations

    @abc.abstractmethod
    def place(self, z: Tensor) -> Point:
        """Chains at the base, standing at given points (C, N, D). Off the support they have weight 0."""

    def start(self, chains: int) -> Point:
        return self.place(self.target.sample_prior(chains).reshape(chains, self.n, self.density.dim))

    def rise(self, point: Point, low: float, high: float) -> Tensor:
        return (high - low) * point.parts[1].double()


class Hamiltonian(OfDensity):
    """Moves of Hamiltonian Monte Carlo, whose step sizes and metrics are those of the plan."""

    def __init__(self, density: Density, base: Base | None, leapfrog: int) -> None:
        super().__init__(density, base)
        self.leapfrog = leapfrog

    def terms(self, z: Tensor) -> tuple[Tensor, ...]:
        """(C, N, D) -> log q_0 and s, (C, N), and their gradients."""
        q, s, grad_q, grad_s = self.target.parts(self.unflatten(z))
        flat = z.shape[:2]
        return q.reshape(flat), s.reshape(flat), grad_q.view_as(z), grad_s.view_as(z)

    def tempered(self, beta: float) -> hmc.Target:
        """The target at one temperature."""

        def target(z: Tensor) -> Evaluation:
            q, s, grad_q, grad_s = parts = self.terms(z)
            return torch.add(q, s, alpha=beta), torch.add(grad_q, grad_s, alpha=beta), parts

        return target

    def at(self, point: Point, beta: float) -> Point:
        """The same points at another temperature, which costs no gradient."""
        q, s, grad_q, grad_s = point.parts
        return point._replace(log_density=torch.add(q, s, alpha=beta), grad=torch.add(grad_q, grad_s, alpha=beta))

    def place(self, z: Tensor) -> Point:
        q, s, grad_q, grad_s = self.terms(z)
        s = torch.where(s.isnan(), -math.inf, s)
        grad_s = torch.where(s.isfinite().unsqueeze(-1), grad_s, 0.0)
        return Point(z, q, grad_q, (q, s, grad_q, grad_s))

    def move(self, point: Point, beta: float, step_size: Tensor, metric: Metric) -> tuple[Point, Tensor]:
        if self.leapfrog > 1:
            # Equal trajectories resonate: on a Gaussian, two steps at the usual acceptance come out near -z, and
            # nothing mixes.
            step_size = step_size * (0.5 + 0.5 * torch.rand_like(step_size))
        point, info = hmc.step(self.at(point, beta), self.tempered(beta), step_size, metric, self.leapfrog)
        return point, info.acceptance


class Own(Engine):
    """A path of the user's."""

    dim = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = path.batch_shape.numel()
        # The densities of the last states, by temperature.
        self._known: tuple[Tensor | None, dict[float, Tensor]] = (None, {})

    @property
    def batch_shape(self) -> torch.Size:
        return self.path.batch_shape

    def _point(self, x: Tensor) -> Point:
        flat = x.reshape(len(x), self.n, *x.shape[1 + len(self.batch_shape) :])
        nothing = torch.zeros(len(x), self.n, 0, device=x.device)
        slope = self.path.slope(x)
        if slope is None:
            return Point(flat, nothing.sum(-1), nothing)
        slope = torch.where(slope.isnan(), -math.inf, slope.double()).reshape(len(x), self.n)
        return Point(flat, nothing.sum(-1), nothing, (slope,))

    def start(self, chains: int) -> Point:
        return self._point(self.path.start(chains))

    def rise(self, point: Point, low: float, high: float) -> Tensor:
        if point.parts:
            return (high - low) * point.parts[0]
        above, below = (self._log_density(point, beta) for beta in (high, low))
        # What has left the support has weight 0 already, and -inf + inf would make it NaN.
        return torch.where(below == -math.inf, -math.inf, above - below).reshape(len(point.z), self.n)

    def _log_density(self, point: Point, beta: float) -> Tensor:
        if self._known[0] is not point.z:
            self._known = point.z, {}
        known = self._known[1]
        if beta not in known:
            known[beta] = self.path.log_density(self.unflatten(point.z), beta).double()
        return known[beta]

    def move(self, point: Point, beta: float, step_size: Tensor, metric: Metric) -> tuple[Point, Tensor]:
        moved = self._point(self.path.move(self.unflatten(point.z), beta))
        return moved, torch.ones_like(moved.log_density)

    def coordinates(self, point: Point) -> Tensor:
        return point.grad


def as_target(target: Any, data: tuple[Any, ...]) -> Density | Path:
    """A density or path as it is, and the joint or per-datum density of a program or model function and its data."""
    if isinstance(target, Density | Path):
        if data:
            raise ValueError(f"A {type(target).__name__} holds its data: give it alone.")
        return target
    return density(target, *data)


def unit_of(target: Density | Path) -> tuple[float, str]:
    """How many numbers were seen per target, and the unit of its evidence."""
    unit = "nats per data set" if target.batch_shape else "nats"
    if not isinstance(target, ProgramDensity):  # of which it is not known what was seen
        return math.nan, unit
    seen = sum(float((~v.isnan()).sum()) for v in target.observed.values())
    return seen / target.batch_shape.numel(), "nats per datum" if target.per_datum else unit
