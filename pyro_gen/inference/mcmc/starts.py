r"""Candidates for starting points where those that are uniform in (-2, 2) say nothing.

Of data in years, dollars or picofarads they say nothing: a rate :math:`\exp(a + b u)` with u in the thousands
overflows at nearly all of them, and at others the log-density is lower by :math:`10^{20}` nats than in the bulk of the
posterior, so that no step size and no metric serve the chains together. So points are drawn at several distances from
the origin and from the prior, and evaluated in float64, in coordinates in which the prior has unit scale.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_gen.density import Density, ProgramDensity

__all__ = ["Rescaled", "candidates", "evaluate", "far", "flat", "uniform"]

RADII = (2.0, 0.5, 0.1, 0.02, 0.002, 0.0)
CANDIDATES_PER_RADIUS = 32
PRIOR_DRAWS = 128
PLATEAU_POINTS = 16  # at which plateaus are looked for
MAX_NATS_PER_NUMBER = 1e10  # observed, below the best point: beyond this a warm-up does not always arrive


def uniform(density: Density, chains: int) -> Tensor:
    """Points uniform in (-2, 2) in every unconstrained coordinate, with shape :math:`(C, *B, D)`; draws."""
    shape = (chains, *density.batch_shape, density.dim)
    return 4 * torch.rand(shape, dtype=density.dtype, device=density.device) - 2


def evaluate(density: Density, z: Tensor, gradients: bool = True) -> tuple[Tensor, Tensor]:
    """The log-density at points (C, *B, D) and whether a chain can start there, each with shape :math:`(C, *B)`.

    Held sites are drawn for it. Where no gradients are asked for, the value alone decides.
    """
    held = density.draw_held(z) if isinstance(density, ProgramDensity) and density.hold else None
    if not gradients:
        log_density = density.log_density(z, held=held)
        return log_density, log_density.isfinite()
    log_density, grad = density.log_density_and_grad(z, held=held)
    return log_density, log_density.isfinite() & grad.isfinite().all(-1)


def far(density: Density, log_density: Tensor, usable: Tensor) -> Tensor:
    """The targets whose points cannot all be warmed up together, a mask with shape :math:`(*B)`.

    Arguments:
        density: The density.
        log_density: That of the points, with shape :math:`(C, *B)`.
        usable: Whether a chain can start there, with shape :math:`(C, *B)`.
    """
    observed = density.observed.values() if isinstance(density, ProgramDensity) else ()
    numbers = density.dim + sum(v.numel() for v in observed) / math.prod(density.batch_shape)
    values = log_density.double()
    best = values.masked_fill(~usable, -math.inf).max(0).values
    worst = values.masked_fill(~usable, math.inf).min(0).values
    return usable.any(0) & (best - worst > MAX_NATS_PER_NUMBER * numbers)


def flat(density: Density, z: Tensor) -> Tensor:
    """The targets of which the data say nothing at most of some points, a mask with shape :math:`(*B)`.

    Where a probability is 1 to the last digit its gradient is 0, and chains on such a plateau drift by the prior alone.
    """
    if not isinstance(density, ProgramDensity):
        return torch.zeros(density.batch_shape, dtype=torch.bool, device=z.device)
    held = density.draw_held(z[:PLATEAU_POINTS]) if density.hold else None
    with torch.enable_grad():
        leaf = z[:PLATEAU_POINTS].detach().requires_grad_()
        value = density.log_likelihood(leaf, held=held)
        if not value.requires_grad:
            return torch.zeros(density.batch_shape, dtype=torch.bool, device=z.device)
        (grad,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True, allow_unused=True)
    return ((grad == 0).all(-1) & (value != 0)).double().mean(0) > 0.5


class Rescaled:
    """A density of points in units of their own, in float64; in the density's precision where networks are float32.

    Arguments:
        density: The density.
        scale: The units, with shape :math:`(*B, D)`.
        held: Values of the held sites for one chain, each with a leading dimension of 1.
    """

    dtype = torch.float64

    def __init__(self, density: Density, scale: Tensor, held: Mapping[str, Tensor] | None) -> None:
        self.density, self.scale, self.held = density, scale, held
        self._inner = torch.float64

    def log_density(self, u: Tensor) -> Tensor:
        """With shape :math:`(C, *B)`, in nats, up to a constant."""
        return self._value(u)

    def log_density_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density, (C, *B), and its gradient, (C, *B, D)."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            value = self._value(leaf)
            (grad,) = torch.autograd.grad(value.sum(), leaf, materialize_grads=True, allow_unused=True)
        return value.detach(), grad

    def _value(self, u: Tensor) -> Tensor:
        held = None if self.held is None else {n: v.expand(len(u), *v.shape[1:]) for n, v in self.held.items()}
        with torch.enable_grad():  # past the graphs, which are of the density's own precision
            z = (u if u.requires_grad else u.detach().requires_grad_()) * self.scale
            try:
                value = self.density.log_density(z.to(self._inner), held=held)
            except RuntimeError:
                if self._inner == self.density.dtype:
                    raise
                self._inner = self.density.dtype
                value = self.density.log_density(z.to(self._inner), held=held)
        return value.double()


def candidates(density: Density) -> tuple[Tensor, Tensor]:
    """Draws points with shape :math:`(K, *B, D)`, in float64, and says the scale of the prior, :math:`(*B, D)`."""
    shape = (len(RADII) * CANDIDATES_PER_RADIUS, *density.batch_shape, density.dim)
    radii = torch.tensor(RADII, dtype=torch.float64, device=density.device).repeat_interleave(CANDIDATES_PER_RADIUS)
    points = radii.view(-1, *(1 for _ in shape[1:])) * (2 * torch.rand(shape).to(radii) - 1)
    try:
        drawn = density.sample_prior(PRIOR_DRAWS).double()
    except ValueError:  # improper, or unknown
        return points, torch.ones_like(points[0])
    drawn = drawn[drawn.isfinite().flatten(1).all(1)]
    if len(drawn) < 2:
        return points, torch.ones_like(points[0])
    low, high = (drawn.quantile(q, 0) for q in (0.25, 0.75))
    scale = (high - low) / 1.349  # of a normal distribution
    return torch.cat([points, drawn]), torch.where(scale > 0, scale, 1.0)
