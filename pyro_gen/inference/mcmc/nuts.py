r"""The no-U-turn sampler, for many chains at once.

From :math:`(z, p)`, with :math:`p \sim \mathcal{N}(0, I)` in whitened coordinates (see
:mod:`pyro_gen.inference.mcmc.hmc`), a trajectory is doubled, forwards or backwards in time by the toss of a coin, until
it turns back on itself. With :math:`\rho = \sum_i p_i`, the sum over its points, and the momenta
:math:`p_-, p_+` of its two ends, it does not turn while

.. math::
    p_\pm^\top \Big( \rho - \frac{p_- + p_+}{2} \Big) > 0 ,

where the bracket is the distance between the ends, by the trapezoidal rule, over the step size. The tree of depth j has
:math:`2^j` points. A doubling is given up, and the transition ends, when any sub-tree of 2, 4, 8, ... points of the new
half turns or diverges: the same tree must be as probable from each of its points.

The draw is one of the points, in proportion to :math:`w_i = e^{-H(z_i, p_i)}`: multinomially within the half that is
being added, point by point,

.. math::
    P(\text{keep the new point } i) = \frac{w_i}{\sum_{j \le i} w_j} , \qquad
    P(\text{move to the new half}) = \min \Big( 1, \frac{w(\text{new half})}{w(\text{old half})} \Big) ,

and the new half is preferred to the old, which still leaves the target invariant and moves farther.

**Vectorised.** All chains that are still going are at the same depth and the same point of the half that they add: they
are masked, never indexed. The recursion becomes a loop over points n = 0, 1, ... of the new half. An even n opens
sub-trees: its momentum and the sum of momenta up to it are kept in place ``popcount(n // 2)`` of a list of length
max_depth. An odd n closes as many as there are ones at the end of its binary form, and each is checked against what was
kept. So memory is logarithmic in the length of a trajectory, and its time that of the longest chain: this is why the
default method shares one length.

References:
    | The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo (Hoffman, Gelman, 2014)
    | https://arxiv.org/abs/1111.4246
    | A Conceptual Introduction to Hamiltonian Monte Carlo (Betancourt, 2017), appendix A
    | https://arxiv.org/abs/1701.02434
    | Composable Effects for Flexible and Accelerated Probabilistic Programming in NumPyro (Phan et al., 2019)
    | https://arxiv.org/abs/1912.11554
    | tfp.mcmc: Modern Markov Chain Monte Carlo Tools Built for Modern Hardware (Lao et al., 2020)
    | https://arxiv.org/abs/2002.01184
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.adaptation import Tuning
from pyro_gen.inference.mcmc.hmc import DIVERGENT, Metric, Point, Target, select
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["NUTS", "NUTSInfo", "step"]


class NUTS(Sampler):
    r"""The no-U-turn sampler: it has no trajectory length to learn, and learns step size and metric from all chains.

    Arguments:
        density: The density.
        metric: As for :class:`pyro_gen.inference.mcmc.HMC`.
        target_acceptance: What the harmonic mean over the chains of the acceptance is to reach.
        max_depth: A trajectory has at most :math:`2^{\text{max\_depth}}` points.
        step_size: A fixed step size in whitened coordinates, or ``None`` to learn it.

    Raises:
        ValueError: There is no such metric, or a number does not make sense.
    """

    def __init__(
        self,
        density: Density,
        *,
        metric: str = "auto",
        target_acceptance: float = 0.8,
        max_depth: int = 10,
        step_size: float | None = None,
    ) -> None:
        super().__init__(density)
        if max_depth < 1:
            raise ValueError(f"max_depth={max_depth}: give a positive number.")
        self.target = hmc.plain(density)
        self.tuning = Tuning(target_acceptance, metric, step_size)
        self.max_depth = max_depth

    def init(self, z: Tensor) -> Point:
        point = self.place(z)
        self.tuning.begin(point)
        return point

    def place(self, z: Tensor) -> Point:
        return hmc.init(z, self.target)

    def retempered(self, state: Point) -> Point:
        return hmc.retempered(state, self.density) or self.place(state.z)

    def step(self, state: Point, progress: float | None) -> tuple[Point, dict[str, Tensor]]:
        if progress is None:
            self.tuning.freeze()
        point, info = trajectory(state, torch.randn_like(state.z), self.target, self.tuning.scaled, self.max_depth)
        figures = {
            "lp": point.log_density,
            "energy": info.energy,
            "acceptance_rate": info.acceptance,
            "n_steps": info.num_steps,
            "tree_depth": info.depth,
            "diverging": info.diverging,
            "step_size": self.tuning.step_size.to(info.energy).expand_as(info.energy),
        }
        if progress is not None:
            point = self.tuning.update(point, info.acceptance, progress)
        return point, figures

    def report(self) -> dict[str, Any]:
        tuning = self.tuning
        return {"step_size": tuning.step_size, "metric": tuning.metric.kind, "restarted": tuning.restarted}

    def state_dict(self) -> dict[str, Any]:
        self.tuning.freeze()
        return {"tuning": self.tuning.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tuning.load_state_dict(state["tuning"])


class NUTSInfo(NamedTuple):
    """What happened in a transition, per chain: each with shape :math:`(C, *B)`.

    Attributes:
        acceptance: The mean over the points of the trajectory of the probability with which HMC would accept them.
        energy: The energy of the point drawn, momentum included, in nats.
        diverging: Whether the trajectory ended because its energy rose by more than 1000 nats or ceased to be finite.
        num_steps: The number of leapfrog steps, an integer.
        depth: How many times the trajectory was doubled, an integer.
    """

    acceptance: Tensor
    energy: Tensor
    diverging: Tensor
    num_steps: Tensor
    depth: Tensor


class _End(NamedTuple):
    """An end of a trajectory: position, momentum and gradient, each (C, *B, D)."""

    z: Tensor
    momentum: Tensor
    grad: Tensor


def step(
    point: Point, target: Target, step_size: float | Tensor, metric: Metric, max_depth: int = 10
) -> tuple[Point, NUTSInfo]:
    r"""Makes one transition that leaves the target invariant; draws by the global generator.

    Arguments:
        point: The chains.
        target: The target. ``point`` must hold its values, not those of another temperature.
        step_size: The step size :math:`\epsilon`, a number or a tensor with shape :math:`(*B)` or :math:`(C, *B)`.
        metric: The metric.
        max_depth: The trajectory is doubled at most this often: it has at most :math:`2^{\text{max\_depth}}` points.

    Returns:
        The chains after the transition, and what happened in it.

    Example:
        >>> import torch
        >>> from pyro_gen.inference.mcmc.hmc import init
        >>> def normal(z):
        ...     return -0.5 * z.square().sum(-1), -z, ()
        >>> _ = torch.manual_seed(0)
        >>> point = init(torch.randn(10_000, 2), normal)
        >>> point, info = step(point, normal, 0.5, Metric.diagonal(torch.ones(2)))
        >>> point.z.shape, int(info.num_steps.max()), int(info.depth.max())
        (torch.Size([10000, 2]), 7, 3)
    """
    return trajectory(point, torch.randn_like(point.z), target, metric.scaled(step_size), max_depth)


def trajectory(
    point: Point, momentum: Tensor, target: Target, metric: Metric, max_depth: int
) -> tuple[Point, NUTSInfo]:
    """Grows the trajectory of a given momentum, and draws one of its points; with step size 1."""
    energy = 0.5 * momentum.square().sum(-1) - point.log_density
    # A chain that starts off the support has no weight there, and takes the first point that has one.
    inside = energy.isfinite()
    start_energy = torch.where(inside, energy, 0.0)
    log_weight = torch.where(inside, 0.0, -math.inf).to(energy)
    backward = forward = _End(point.z, momentum, point.grad)
    momenta = momentum.clone()  # their sum over the trajectory
    alive = torch.ones_like(inside)
    diverging = torch.zeros_like(inside)
    acceptance = torch.zeros_like(energy)
    num_steps = torch.zeros_like(inside, dtype=torch.int64)
    depth = torch.zeros_like(num_steps)
    draw = point
    for j in range(max_depth):
        # Backwards in time is forwards with the momentum flipped; the criterion does not see the sign.
        sign = _directions(energy).unsqueeze(-1)
        z, momentum, grad = _pick(sign > 0, forward, backward)
        momentum = sign * momentum
        half, half_energy = point, energy
        half_momenta = torch.zeros_like(momenta)
        half_weight = torch.full_like(log_weight, -math.inf)
        opened: dict[int, tuple[Tensor, Tensor]] = {}
        for n in range(2**j):
            momentum = metric.kick(momentum, grad, 0.5)
            # Chains that have ended stay where they began: no model is asked about points that have run away.
            z = torch.where(alive.unsqueeze(-1), metric.drift(z, momentum), point.z)
            new = Point(z, *target(z))
            grad = new.grad
            momentum = metric.kick(momentum, grad, 0.5)
            new_energy = 0.5 * momentum.square().sum(-1) - new.log_density
            # Also where the density is plus infinity: a chain that went there would never come back.
            gain = torch.where(new_energy.isfinite(), start_energy - new_energy, -math.inf)
            num_steps += alive
            acceptance += torch.where(alive, gain.clamp(max=0.0).exp(), 0.0)
            off = alive & ((gain == -math.inf) | ((gain < -DIVERGENT) & inside))
            diverging |= off
            alive = alive & ~off
            half_weight = torch.logaddexp(half_weight, gain)
            kept = torch.rand_like(gain) < (gain - half_weight).exp()
            half, half_energy = select(kept, new, half), torch.where(kept, new_energy, half_energy)
            half_momenta += momentum
            place = (n // 2).bit_count()
            if n % 2 == 0:
                opened[place] = (momentum.clone(), half_momenta.clone())
                continue
            for i in range(place, place - _trailing_ones(n), -1):
                first, until_first = opened[i]
                alive = alive & ~_turns(first, momentum, half_momenta - until_first + first)
            if not bool(alive.any()):
                break
        # Only where the new half is whole: chains that ended within it keep what they had.
        moved = alive & (torch.rand_like(log_weight) < (half_weight - log_weight).exp())
        draw, energy = select(moved, half, draw), torch.where(moved, half_energy, energy)
        log_weight = torch.logaddexp(log_weight, half_weight)
        depth += alive
        end = _End(z, sign * momentum, grad)
        backward, forward = _pick(sign > 0, backward, end), _pick(sign > 0, end, forward)
        momenta = momenta + sign * half_momenta
        alive = alive & ~_turns(backward.momentum, forward.momentum, momenta)
        if not bool(alive.any()):
            break
    return draw, NUTSInfo(acceptance / num_steps, energy, diverging, num_steps, depth)


def _directions(like: Tensor) -> Tensor:
    """Forwards in time, 1, or backwards, -1: the toss of a coin for each entry of ``like``."""
    return torch.where(torch.rand_like(like) < 0.5, 1.0, -1.0).to(like)


def _pick(mask: Tensor, a: _End, b: _End) -> _End:
    """Takes a where the mask, with shape (C, *B, 1), is set, and b elsewhere."""
    return _End(*(torch.where(mask, x, y) for x, y in zip(a, b, strict=True)))


def _turns(first: Tensor, last: Tensor, momenta: Tensor) -> Tensor:
    """The criterion, for trajectories with these momenta at the ends and this sum of all."""
    way = momenta - 0.5 * (first + last)
    return ((first * way).sum(-1) <= 0) | ((last * way).sum(-1) <= 0)


def _trailing_ones(n: int) -> int:
    return (~n & (n + 1)).bit_length() - 1
