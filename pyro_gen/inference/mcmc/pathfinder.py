r"""Pathfinder: draws near the posterior from the paths of a quasi-Newton optimiser.

From each of several starting points L-BFGS climbs the log-density. After each step the curvature that it has met makes
an estimate H of the inverse negative Hessian, so that every point z of the path, with gradient g, comes with a normal
approximation of the density, :math:`q = \mathcal{N}(z + H g, H)`. The path passes the bulk of the posterior on its way
to the mode, which in many dimensions is no typical point: of its approximations the one with the largest evidence
lower bound

.. math:: \mathbb{E}_q [\log \tilde p(z) - \log q(z)]

is kept, estimated with the same random numbers at all of them. Draws of the approximations of all paths are resampled
by their weights :math:`\tilde p / q`, the largest smoothed by a Pareto distribution: paths that ended in a minor mode
drop out.

**Inverse Hessian.** With the last J steps :math:`S = (s_1, \dots)`, the changes of the negative gradient Y along them,
the upper triangle E of :math:`S^\top Y` and its diagonal :math:`\eta`,

.. math::
    H = \mathrm{diag}(\alpha) + (\alpha Y \;\; S)
    \begin{pmatrix} 0 & -E^{-1} \\ -E^{-\top} & E^{-\top} (\eta + Y^\top \alpha Y) E^{-1} \end{pmatrix}
    (\alpha Y \;\; S)^\top ,

which is what the two loops of L-BFGS multiply with, but can be factored: with the QR decomposition Q R of
:math:`\alpha^{-1/2} (\alpha Y \; S)` and M for the matrix in the middle,
:math:`H = \alpha^{1/2} (I + Q R M R^\top Q^\top) \alpha^{1/2}`, so a Cholesky factor of the small matrix
:math:`I + R M R^\top` gives draws and densities in :math:`O(D J)`. The diagonal :math:`\alpha` is itself learnt from
each step (Gilbert & Lemaréchal, 1989).

*Far from the posterior*, where points in (-2, 2) cannot be evaluated or warmed up, :func:`search` takes the best of
many candidates and follows them in float64, in the units of the prior.

All paths of all targets of a batch take their steps together: one evaluation of the density serves them all. The step
length satisfies the weak Wolfe conditions, found by bisection, which needs no finite values beyond the accepted point.

References:
    | Pathfinder: Parallel quasi-Newton variational inference (Zhang et al., 2022)
    | https://arxiv.org/abs/2108.03782
    | Representations of quasi-Newton matrices and their use in limited memory methods (Byrd, Nocedal & Schnabel, 1994)
    | https://doi.org/10.1007/BF01582063
    | Some numerical experiments with variable-storage quasi-Newton algorithms (Gilbert & Lemaréchal, 1989)
    | https://doi.org/10.1007/BF01589113
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density import Density, ProgramDensity
from pyro_gen.inference.likelihood.weights import psis
from pyro_gen.inference.mcmc.starts import Rescaled, candidates, evaluate, far, flat, uniform

__all__ = ["Approximation", "approximate", "pathfinder", "search"]

HISTORY = 20  # steps that the curvature is read off: as many directions of the Hessian are known
ITERATIONS = 200  # at most, of a path
TRIALS = 30  # step lengths tried, at most
TOLERANCE = 1e-7  # of the log-density, relative: a path that gains less has arrived
BOUND_DRAWS = 16  # draws that estimate a lower bound
POOL = 4  # draws to resample from, for each draw asked for
ARMIJO, CURVATURE = 1e-4, 0.9
TRIES = 100  # to draw points on the support
PATHS = 16  # of a search


class Approximation(NamedTuple):
    r"""Normal approximations :math:`\mathcal{N}(\mu, A A^\top)`, :math:`A = \alpha^{1/2} (I + Q (L - I) Q^\top)`.

    Attributes:
        mean: With shape :math:`(P, *B, D)`, for P paths and batch shape B.
        alpha: With shape :math:`(P, *B, D)`.
        vectors: Q, whose columns are orthonormal, with shape :math:`(P, *B, D, K)`.
        factor: L, lower triangular, with shape :math:`(P, *B, K, K)`.
        bound: The evidence lower bound, with shape :math:`(P, *B)`, in nats; minus infinity where there is none.
    """

    mean: Tensor
    alpha: Tensor
    vectors: Tensor
    factor: Tensor
    bound: Tensor

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Maps standard normal numbers with shape (n, P, *B, D) to draws and their log-densities, (n, P, *B)."""
        inner = (self.vectors.mT @ u.unsqueeze(-1)).squeeze(-1)
        moved = (self.factor @ inner.unsqueeze(-1)).squeeze(-1) - inner
        z = self.mean + self.alpha.sqrt() * (u + (self.vectors @ moved.unsqueeze(-1)).squeeze(-1))
        log_scale = 0.5 * self.alpha.log().sum(-1) + self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return z, -0.5 * u.square().sum(-1) - log_scale - 0.5 * u.shape[-1] * math.log(2 * math.pi)


class _Curvature(NamedTuple):
    """What the steps of the paths have shown of the Hessian. Steps not made yet are zero."""

    alpha: Tensor  # (P, *B, D)
    steps: Tensor  # (P, *B, D, J)
    changes: Tensor  # (P, *B, D, J), of the negative gradient

    @staticmethod
    def start(z: Tensor) -> "_Curvature":
        nothing = z.new_zeros(*z.shape, HISTORY)
        return _Curvature(torch.ones_like(z), nothing, nothing)

    def update(self, s: Tensor, y: Tensor, usable: Tensor) -> "_Curvature":
        """Takes in steps s and changes y where they show a positive curvature."""
        b = (s * y).sum(-1, keepdim=True)
        usable = usable & (b > 1e-12 * y.square().sum(-1, keepdim=True)).squeeze(-1)
        a = (self.alpha * y.square()).sum(-1, keepdim=True)
        c = (s.square() / self.alpha).sum(-1, keepdim=True)
        alpha = (a / (b * self.alpha) + y.square() / b - a * s.square() / (b * c * self.alpha.square())).reciprocal()
        usable = usable & (alpha.isfinite() & (alpha > 0)).all(-1)

        def push(history: Tensor, new: Tensor) -> Tensor:
            moved = torch.cat([history[..., 1:], new.unsqueeze(-1)], -1)
            return torch.where(usable[..., None, None], moved, history)

        return _Curvature(
            torch.where(usable.unsqueeze(-1), alpha, self.alpha), push(self.steps, s), push(self.changes, y)
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """The matrices of H = diag(alpha) + V M V': V with shape (P, *B, D, 2 J) and M with shape (P, *B, 2 J, 2 J)."""
        s, y = self.steps, self.changes
        scaled = self.alpha.unsqueeze(-1) * y
        inner = s.mT @ y
        eta = inner.diagonal(dim1=-2, dim2=-1)
        e = inner.triu() + torch.diag_embed((eta == 0).to(eta))  # a step not made: any number will do
        inverse = torch.linalg.solve_triangular(e, torch.eye(HISTORY, dtype=e.dtype, device=e.device), upper=True)
        corner = inverse.mT @ (torch.diag_embed(eta) + y.mT @ scaled) @ inverse
        middle = torch.cat(
            [torch.cat([torch.zeros_like(inverse), -inverse], -1), torch.cat([-inverse.mT, corner], -1)], -2
        )
        return torch.cat([scaled, s], -1), middle


def _times(alpha: Tensor, vectors: Tensor, middle: Tensor, g: Tensor) -> Tensor:
    """H g for vectors with shape (P, *B, D)."""
    return alpha * g + (vectors @ (middle @ (vectors.mT @ g.unsqueeze(-1)))).squeeze(-1)


def pathfinder(density: Density, chains: int, seed: int = 0, *, paths: int = 16) -> Tensor:
    """Draws approximately from a density: good starting points of Markov chains, at the cost of a short optimisation.

    Arguments:
        density: The density, of any batch shape B.
        chains: The number C of draws.
        seed: Seeds starting points and draws; the caller's generators are left alone.
        paths: The number of paths for each target, each from a point of its own in (-2, 2).

    Returns:
        Unconstrained points, with shape :math:`(C, *B, D)`, drawn with replacement.

    Raises:
        ValueError: There are no points on the support in (-2, 2), or no path met a density that a normal one resembles.

    Example:
        >>> import torch
        >>> from pyro_gen.density import Density, ProgramDensity
        >>> target = Density.from_functions(lambda z: -0.5 * ((z - 5.0) / 0.1).square().sum(-1), dim=3)
        >>> z = pathfinder(target, 1000)
        >>> z.shape, bool((z.mean(0) - 5.0).abs().max() < 0.02), bool((z.std(0) - 0.1).abs().max() < 0.02)
        (torch.Size([1000, 3]), True, True)
    """
    if chains < 1 or paths < 1:
        raise ValueError(f"pathfinder(chains={chains}, paths={paths}): give positive numbers.")
    with seeded(seed), torch.no_grad():
        start = uniform(density, paths)
        log_density, usable = evaluate(density, start)
        for _ in range(TRIES):
            if bool(usable.all()):
                break
            start = torch.where(usable.unsqueeze(-1), start, uniform(density, paths))
            log_density, usable = evaluate(density, start)
        if bool((~usable).any() | (far(density, log_density, usable) | flat(density, start)).any()):
            z, found = search(density, chains)
            if not bool(found.all()):
                raise ValueError(
                    "pathfinder found no point at which the log-density is finite: give starting points on the support."
                )
            return z
        fits = approximate(density, start)
        if not bool((fits.bound > -math.inf).any(0).all()):
            raise AdviceError(
                "pathfinder found no normal approximation on any of its paths: start the chains by {init} or {init_}.",
                init="prior",
                init_="uniform",
            )
        return _resampled(density, fits, chains).to(density.dtype)


def search(density: Density, chains: int) -> tuple[Tensor, Tensor]:
    """Looks far and wide for starting points near the bulk of a density; draws by the global generator.

    Arguments:
        density: The density.
        chains: The number C of points.

    Returns:
        Points with shape :math:`(C, *B, D)`, and the targets for which there are any, a mask with shape :math:`(*B)`.
    """
    points, scale = candidates(density)
    held = None
    if isinstance(density, ProgramDensity) and density.hold:
        held = density.draw_held(points[:1].to(density.dtype))
    target = Rescaled(density, scale, held)
    points = points / scale
    log_density, grad = target.log_density_and_grad(points)
    usable = log_density.isfinite() & grad.isfinite().all(-1)
    found = usable.any(0)
    order = log_density.masked_fill(~usable, -math.inf).argsort(0, descending=True)
    points = points.gather(0, order.unsqueeze(-1).expand_as(points))
    # As many paths as there are usable points of the target with the fewest, of those that have any.
    count = max(1, min(PATHS, int(torch.where(found, usable.sum(0), PATHS).min())))
    fits = approximate(target, points[:count])
    arrived = (fits.bound > -math.inf).any(0)
    # Where nothing was met that a normal density resembles, the best points themselves.
    rest = points[torch.arange(chains, device=points.device) % count]
    z = torch.where(arrived.unsqueeze(-1), _resampled(target, fits, chains), rest)
    return (z * scale).to(density.dtype), found


def _resampled(density: Density | Rescaled, fits: Approximation, chains: int) -> Tensor:
    """Draws of the approximations (P, *B) by their weights, with shape (C, *B, D)."""
    paths, *batch = fits.bound.shape
    each = max(100, math.ceil(POOL * chains / paths))
    u = torch.randn(each, *fits.mean.shape, dtype=torch.float64, device=fits.mean.device)
    z, log_q = fits.draw(u)
    z = z.to(density.dtype).flatten(0, 1)  # (draws, *B, D)
    log_p = density.log_density(z).detach().double()
    log_w = (log_p - log_q.flatten(0, 1)).nan_to_num(-math.inf, -math.inf, -math.inf)
    # A path without an approximation has drawn from its last iterate.
    log_w = log_w.masked_fill((fits.bound == -math.inf).repeat(each, *(1 for _ in batch)), -math.inf)
    log_w = log_w.masked_fill((log_w == -math.inf).all(0), 0.0)  # no draw is better than another
    weights = psis(log_w.flatten(1) if batch else log_w.unsqueeze(1)).softmax(0)
    index = torch.multinomial(weights.T, chains, replacement=True).T  # (C, targets)
    rows = z.reshape(len(z), -1, z.shape[-1])
    picked = rows.gather(0, index.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
    return picked.reshape(chains, *batch, z.shape[-1])


def approximate(density: Density | Rescaled, z: Tensor) -> Approximation:
    """Follows paths uphill and keeps the best normal approximation of each; draws by the global generator.

    Arguments:
        density: The density.
        z: Where the paths start, with shape :math:`(P, *B, D)`, on the support.

    Returns:
        The approximations, in float64.
    """

    def value(z: Tensor) -> tuple[Tensor, Tensor]:
        log_p, grad = density.log_density_and_grad(z.to(density.dtype))
        return log_p.double(), grad.double()

    z = z.double()
    u = torch.randn(BOUND_DRAWS, *z.shape, dtype=z.dtype, device=z.device)
    log_p, grad = value(z)
    curvature = _Curvature.start(z)
    running = torch.ones_like(log_p, dtype=torch.bool)
    best: Approximation | None = None
    for iteration in range(ITERATIONS):
        vectors, middle = curvature.factors()
        direction = _times(curvature.alpha, vectors, middle, grad)
        length = grad.norm(dim=-1).clamp(min=1.0).reciprocal() if iteration == 0 else torch.ones_like(log_p)
        new_z, new_log_p, new_grad, moved = _line_search(value, z, log_p, grad, direction, length, running)
        gain = new_log_p - log_p
        curvature = curvature.update(new_z - z, grad - new_grad, moved)
        z, log_p, grad = new_z, new_log_p, new_grad
        fit = _normal(density, z, grad, curvature, u)
        fit = fit._replace(bound=fit.bound.masked_fill(~moved, -math.inf))
        best = fit if best is None else _better(fit, best)
        running = moved & (gain > TOLERANCE * log_p.abs().clamp(min=1.0))
        if not bool(running.any()):
            break
    assert best is not None
    return best


def _line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    z: Tensor,
    log_p: Tensor,
    grad: Tensor,
    direction: Tensor,
    length: Tensor,
    running: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Steps with the weak Wolfe conditions: the new points, their values and gradients, and which paths moved."""
    slope = (direction * grad).sum(-1)
    low, high = torch.zeros_like(length), torch.full_like(length, math.inf)
    found = ~(running & (slope > 0))
    kept: tuple[Tensor, ...] = (z, log_p, grad)
    moved = torch.zeros_like(found)
    for _ in range(TRIALS):
        if bool(found.all()):
            break
        point = z + length.unsqueeze(-1) * direction
        value, gradient = evaluate(point)
        finite = value.isfinite() & gradient.isfinite().all(-1)
        enough = finite & (value >= log_p + ARMIJO * length * slope)
        flat = enough & ((direction * gradient).sum(-1) <= CURVATURE * slope)
        # A point that is high enough is taken unless a better one comes: bisection may end without any.
        take = enough & ~found
        kept = _chosen(take, (point, value, gradient), kept)
        moved = moved | take
        found = found | flat
        low = torch.where(enough, length, low)
        high = torch.where(enough, high, length)
        length = torch.where(high.isfinite(), 0.5 * (low + high), 2 * low)
    new_z, new_log_p, new_grad = kept
    return new_z, new_log_p, new_grad, moved


def _normal(density: Density | Rescaled, z: Tensor, grad: Tensor, curvature: _Curvature, u: Tensor) -> Approximation:
    """The normal approximation at the points of the paths, with its bound."""
    vectors, middle = curvature.factors()
    root = curvature.alpha.sqrt()
    q, r = torch.linalg.qr(vectors / root.unsqueeze(-1))
    small = r @ middle @ r.mT
    small = 0.5 * (small + small.mT) + torch.eye(small.shape[-1], dtype=small.dtype, device=small.device)
    factor, failed = torch.linalg.cholesky_ex(small)
    failed = (failed != 0) | ~factor.isfinite().flatten(-2).all(-1)
    factor = torch.where(failed[..., None, None], torch.eye(small.shape[-1]).to(small), factor)
    mean = z + _times(curvature.alpha, vectors, middle, grad)
    fit = Approximation(mean, curvature.alpha, q, factor, torch.zeros_like(z[..., 0]))
    draws, log_q = fit.draw(u)
    log_p = density.log_density(draws.flatten(0, 1).to(density.dtype)).detach().double().reshape(log_q.shape)
    bound = (log_p - log_q).mean(0).nan_to_num(-math.inf, -math.inf, -math.inf)
    return fit._replace(bound=bound.masked_fill(failed, -math.inf))


def _better(new: Approximation, old: Approximation) -> Approximation:
    return Approximation(*_chosen(new.bound > old.bound, new, old))


def _chosen(take: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The new tensors (P, *B, *) of the paths where ``take``, a mask (P, *B), says so, and the old ones elsewhere."""
    wide = (take.view(take.shape + (1,) * (a.dim() - take.dim())) for a in new)
    return tuple(torch.where(mask, a, b) for mask, a, b in zip(wide, new, old, strict=True))
