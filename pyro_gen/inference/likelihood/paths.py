r"""Paths of distributions from a base to a target: what annealed importance sampling and sequential Monte Carlo share.

A target :math:`\pi(z) = p(x, z)`, unnormalised, and a normalised base :math:`q_0` are joined by

.. math::
    \log f_\beta(z) = \log q_0(z) + \beta \, s(z), \qquad s(z) = \log p(x, z) - \log q_0(z), \qquad
    0 \le \beta \le 1 ,

in unconstrained space. The base is the prior, where :math:`s` is the log-likelihood; a Gaussian fitted to draws of the
guide; or any distribution that the user gives. Between temperatures, chains make moves that leave :math:`f_\beta`
invariant, by Hamiltonian Monte Carlo.

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
from torch.distributions import Distribution

from pyro_gen._random import fork, seeded
from pyro_gen.density import Density, ProgramDensity, density
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.hmc import Evaluation, Metric, Point
from pyro_gen.inference.proposals import draws_for, guide_trace
from pyro_gen.program import Program
from pyro_gen.traces import latent_sites

__all__ = [
    "Base",
    "Engine",
    "Hamiltonian",
    "Own",
    "Particles",
    "Path",
    "as_target",
    "engine_of",
    "guide_base",
    "unit_of",
]

INFLATION = 1.25  # of the guide's standard deviations: a base needs wider tails than its target
DENSE = 200  # latent variables up to which a joint target has a base and a metric with correlations


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


# ----------------------------------------------------------------------------------------------------------------------
# Bases


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


class Base(abc.ABC):
    """A normalised density on unconstrained space with exact draws, for N targets in D dimensions."""

    @abc.abstractmethod
    def sample(self, chains: int) -> Tensor:
        """Draws with shape :math:`(C, N, D)`."""

    @abc.abstractmethod
    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities with shape :math:`(C, N)` and their gradients."""


class _Normal(Base):
    """Independent coordinates: loc and scale (N, D)."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        self.constant = (scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def sample(self, chains: int) -> Tensor:
        return self.loc + self.scale * self.loc.new_empty(chains, *self.loc.shape).normal_()

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        u = (z - self.loc) / self.scale
        return -0.5 * u.square().sum(-1) - self.constant, -u / self.scale


class _Given(Base):
    """A distribution of torch's, of shape (*batch, D) in all."""

    def __init__(self, given: Distribution, batch: torch.Size, dim: int) -> None:
        shape = given.batch_shape + given.event_shape
        if shape != (*batch, dim):
            raise ValueError(
                f"The distribution to start from has shape {tuple(shape)}: give one over unconstrained points, of "
                f"shape {(*batch, dim)}."
            )
        with seeded(0):
            far = torch.full_like(given.sample(), 1e4)
        support = given.support
        if support is not None and not all(bool(support.check(point).all()) for point in (far, -far)):
            raise ValueError(
                f"The distribution to start from, {type(given).__name__}, has no density on part of unconstrained "
                "space, where chains could not start: give one over all of it, a normal one say."
            )
        self.given, self.rank = given, len(batch)
        self.shape = (batch.numel(), dim)

    def sample(self, chains: int) -> Tensor:
        return self.given.sample(torch.Size((chains,))).reshape(chains, *self.shape)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # A trajectory may have left for infinity, at which torch's validation of values would raise.
        lost = ~z.isfinite().all(-1)
        with torch.enable_grad():
            z = z.masked_fill(lost.unsqueeze(-1), 0.0).reshape(len(z), *self.given.batch_shape, *self.given.event_shape)
            z = z.detach().requires_grad_()
            value = self.given.log_prob(z)
            value = value.reshape(*value.shape[: 1 + self.rank], -1).sum(-1)
            (grad,) = torch.autograd.grad(value.sum(), z)
        return value.detach().reshape(lost.shape).masked_fill(lost, math.nan), grad.reshape(len(z), *self.shape)


def guide_base(target: ProgramDensity) -> Base | None:
    """A Gaussian fitted to draws of the guide in unconstrained space, made wider by a quarter.

    Its coordinates are independent for targets per datum, and correlated (up to 200 of them) for a joint one. A program
    without a guide has its prior alone to start from: ``None``.
    """
    if not isinstance(target.program, Program):
        raise ValueError('A plain model function has no guide to start from: use start="prior", or a Program.')
    with seeded(0):
        if not latent_sites(guide_trace(target.program, *target.data)):
            return None
    if target.stacked is not None:
        raise ValueError('The guide knows no stacked data sets: use start="prior".')
    # A joint target has correlations to be known.
    values, _ = draws_for(target, 64 if target.per_datum else max(256, 4 * min(target.dim, DENSE)))
    z = target.unconstrain(values).reshape(-1, target.batch_shape.numel(), target.dim)
    if bool((z == z[:1]).all(0).any()):
        raise ValueError('All draws of the guide are one point, which is no base to start from: use start="prior".')
    loc, scale = z.mean(0), INFLATION * z.std(0).clamp(min=1e-6)
    if not bool((loc.isfinite() & scale.isfinite()).all()):
        raise ValueError('The guide has draws that are not finite: use ais(start="prior"), or train it again.')
    if target.batch_shape or target.dim > DENSE:
        return _Normal(loc, scale)
    covariance = INFLATION**2 * z[:, 0].T.double().cov() + 1e-10 * scale.square().double().diag_embed()[0]
    factor = torch.linalg.cholesky(covariance).to(z)
    gaussian = torch.distributions.MultivariateNormal(loc[0], scale_tril=factor, validate_args=False)
    return _Given(gaussian, target.batch_shape, target.dim)


# ----------------------------------------------------------------------------------------------------------------------
# Engines: a target, its base and its moves, as chains see them


class Engine(abc.ABC):
    """N targets with chains (C, N), each state a :class:`Point` whose tensors have this leading shape.

    Attributes:
        n: The number N of targets.
        dim: The number D of coordinates that moves can be scaled by; 0 for kernels that need no tuning.
        from_prior: Whether the path is tempered likelihood, from the prior on.
        gradients: Gradients evaluated so far, for each target.
    """

    n: int
    dim: int
    from_prior = False
    gradients = 0

    @abc.abstractmethod
    def start(self, chains: int) -> Point:
        """Exact draws of the base."""

    @abc.abstractmethod
    def rise(self, point: Point, low: float, high: float) -> Tensor:
        r""":math:`\log f_{high} - \log f_{low}`, float64 with shape :math:`(C, N)`."""

    @abc.abstractmethod
    def move(self, point: Point, beta: float, step_size: Tensor, metric: Metric) -> tuple[Point, Tensor]:
        """Moves all chains; also the probabilities of acceptance, with shape :math:`(C, N)`."""

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


class Hamiltonian(Engine):
    """A density and a base, with moves of Hamiltonian Monte Carlo. ``base=None`` is the prior."""

    def __init__(self, density: Density, base: Base | None, leapfrog: int) -> None:
        self.density, self.base, self.leapfrog = density, base, leapfrog
        self.n, self.dim = density.batch_shape.numel(), density.dim
        self.from_prior = base is None

    @property
    def batch_shape(self) -> torch.Size:
        return self.density.batch_shape

    def terms(self, z: Tensor) -> tuple[Tensor, ...]:
        """(C, N, D) -> log q_0 and s, (C, N), and their gradients."""
        self.gradients += len(z)
        flat = z.shape[:2]
        terms = self.density.value_and_grad(self.unflatten(z))
        prior, likelihood = terms.log_prior.reshape(flat), terms.log_likelihood.reshape(flat)
        grad_prior, grad_likelihood = terms.grad_prior.view_as(z), terms.grad_likelihood.view_as(z)
        if self.base is None:
            return prior, likelihood, grad_prior, grad_likelihood
        q, grad_q = self.base.evaluate(z)
        return q, prior + likelihood - q, grad_q, grad_prior + grad_likelihood - grad_q

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
        """Chains at the base, standing at given points (C, N, D). Off the support they have weight 0."""
        q, s, grad_q, grad_s = self.terms(z)
        s = torch.where(s.isnan(), -math.inf, s)
        grad_s = torch.where(s.isfinite().unsqueeze(-1), grad_s, 0.0)
        return Point(z, q, grad_q, (q, s, grad_q, grad_s))

    def start(self, chains: int) -> Point:
        if self.base is None:
            return self.place(self.density.sample_prior(chains).reshape(chains, self.n, self.dim))
        return self.place(self.base.sample(chains))

    def rise(self, point: Point, low: float, high: float) -> Tensor:
        return (high - low) * point.parts[1].double()

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

    @property
    def batch_shape(self) -> torch.Size:
        return self.path.batch_shape

    def _point(self, x: Tensor) -> Point:
        flat = x.reshape(len(x), self.n, *x.shape[1 + len(self.batch_shape) :])
        nothing = torch.zeros(len(x), self.n, 0, device=x.device)
        return Point(flat, nothing.sum(-1), nothing)

    def start(self, chains: int) -> Point:
        return self._point(self.path.start(chains))

    def rise(self, point: Point, low: float, high: float) -> Tensor:
        x = self.unflatten(point.z)
        above, below = (self.path.log_density(x, beta).double() for beta in (high, low))
        # What has left the support has weight 0 already, and -inf + inf would make it NaN.
        return torch.where(below == -math.inf, -math.inf, above - below).reshape(len(x), self.n)

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


def engine_of(target: Density | Path, start: str | Distribution, leapfrog: int) -> Engine:
    """The engine of a density or path; ``start`` as in :func:`pyro_gen.inference.likelihood.ais.ais`."""
    if isinstance(target, Path):
        return Own(target)
    base: Base | None = None
    if isinstance(start, Distribution):
        base = _Given(start, target.batch_shape, target.dim)
    elif start == "guide":
        if not isinstance(target, ProgramDensity):
            raise ValueError('This density has no program and no guide to start from: use start="prior".')
        base = guide_base(target)
    return Hamiltonian(target, base, leapfrog)


def unit_of(target: Density | Path) -> tuple[float, str]:
    """How many numbers were seen per target, and the unit of its evidence."""
    unit = "nats per data set" if target.batch_shape else "nats"
    if not isinstance(target, ProgramDensity):  # of which it is not known what was seen
        return math.nan, unit
    seen = sum(float((~v.isnan()).sum()) for v in target.observed.values())
    return seen / target.batch_shape.numel(), "nats per datum" if target.per_datum else unit
