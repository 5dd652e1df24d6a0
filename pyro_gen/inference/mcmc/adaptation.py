r"""What a sampler learns in its warm-up: step size, metric and trajectory length, from all chains together.

**Step size.** Dual averaging of :math:`\log \epsilon` on the harmonic mean of the acceptance over the chains, which
heeds the chains that accept least.

**Metric.** The linear map :math:`L` that makes the target as isotropic as the chains can tell. Among all matrices,
:math:`\Sigma = L L^\top` minimises the Fisher divergence between the whitened target and a standard normal where

.. math:: \Sigma \, \mathrm{Cov}(g) \, \Sigma = \mathrm{Cov}(z), \qquad g = \nabla \log \pi(z) ;

among the diagonal ones, where :math:`\Sigma_{ii} = \sqrt{\mathrm{Var}(z_i) / \mathrm{Var}(g_i)}`. The gradients are
there already, and for a Gaussian target the answer is exact wherever the chains are, the first time.

**Trajectory.** Its length maximises the change of the squared projection on the principal component of the whitened
target,

.. math:: \mathbb{E} \left[ \left( (q^\top y')^2 - (q^\top y)^2 \right)^2 \right],

(SNAPER), or of the squared norm (ChEES), by stochastic gradient ascent: lengthening a trajectory moves its end by its
momentum. The component :math:`q` comes from Oja's rule.

References:
    | The No-U-Turn Sampler (Hoffman and Gelman, 2014): dual averaging
    | https://arxiv.org/abs/1111.4246
    | An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte Carlo (Hoffman et al., 2021)
    | https://proceedings.mlr.press/v130/hoffman21a.html
    | Focusing on Difficult Directions for Learning HMC Trajectory Lengths (Sountsov and Hoffman, 2021)
    | https://arxiv.org/abs/2110.11576
    | Preconditioning Hamiltonian Monte Carlo by Minimizing Fisher Divergence (Seyboldt et al., 2026)
    | https://arxiv.org/abs/2603.18845
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen.inference.mcmc.hmc import Metric, Point, Proposal

__all__ = [
    "DualAveraging",
    "Moments",
    "Trajectory",
    "Tuning",
    "fisher_dense",
    "fisher_diagonal",
    "halton",
    "harmonic_mean",
    "low_rank",
    "some_chains",
]

MIN_DENSE_AXIS_RATIO = 1.5  # longest by shortest axis, beyond which a dense metric repays its matrix products
MAX_DENSE_DIM = 100  # beyond which it does not
KINDS = ("auto", "diagonal", "dense", "low_rank")


def some_chains(z: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
    """At least 512 chains and five for each dimension, if there are: more say little more, and take their time."""
    every = len(z) // max(512, 5 * z.shape[-1])
    return tuple(t[::every] for t in (z, *more)) if every > 1 else (z, *more)


def harmonic_mean(acceptance: Tensor, floor: float = 0.1) -> Tensor:
    """The harmonic mean over chains, (C, *B) -> (*B); the floor keeps one stuck chain from stopping all others."""
    return acceptance.clamp(min=floor).reciprocal().mean(0).reciprocal()


def halton(i: int) -> float:
    """The i-th number of the van der Corput sequence, in (0, 1) for i >= 1: evenly spread however many are taken."""
    value, share = 0.0, 0.5
    while i:
        value += share * (i & 1)
        i, share = i >> 1, share / 2
    return value


class DualAveraging:
    r"""Dual averaging of the logarithms of step sizes, one for each target of a batch.

    Arguments:
        step_size: The first step sizes, with shape :math:`(*B)`.
        target: The acceptance to reach.
    """

    # Stan's figures. t0 tames the first steps, gamma scales them all, kappa is how fast the average forgets.
    GAMMA, T0, KAPPA = 0.05, 10.0, 0.75

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: Tensor) -> None:
        """Begins anew from these step sizes."""
        self.log_step = step_size.double().log()
        self.average = self.log_step
        self._centre = self.log_step
        self._error = torch.zeros_like(self.log_step)
        self._count = 0

    def update(self, acceptance: Tensor) -> None:
        """Takes up the acceptance, with shape :math:`(*B)`, of a transition with the current step sizes."""
        self._count += 1
        t = self._count
        self._error.add_(self.target).sub_(acceptance)
        self.log_step = torch.sub(self._centre, self._error, alpha=math.sqrt(t) / self.GAMMA / (t + self.T0))
        self.average = torch.lerp(self.average, self.log_step, t**-self.KAPPA)


class Moments:
    """Moments of positions and gradients, over chains and iterations.

    A few iterations are taken up together, which takes a fraction of the time. Moments are float64: the squares of
    gradients on the way from a far start, and of draws in picofarads, are beyond float32.

    Arguments:
        dense: Whether covariances are wanted, or variances.

    Attributes:
        count: The number of iterations.
        chains: The number of chains.
    """

    TOGETHER = 8

    _means: Tensor
    _spreads: Tensor
    _dtype: torch.dtype

    def __init__(self, dense: bool) -> None:
        self.dense = dense
        self.count = self.chains = 0
        self._merged = 0  # of the count
        self._waiting: list[Tensor] = []

    @property
    def mean(self) -> Tensor:
        """The mean of the positions, with shape :math:`(*B, D)`."""
        return self._moments()[0][0].to(self._dtype)

    @property
    def grad_mean(self) -> Tensor:
        """The mean of the gradients, with shape :math:`(*B, D)`."""
        return self._moments()[0][1].to(self._dtype)

    @property
    def spread(self) -> Tensor:
        """The variances of the positions, with shape :math:`(*B, D)`, or covariances, :math:`(*B, D, D)`."""
        return self._moments()[1][0]

    @property
    def grad_spread(self) -> Tensor:
        """The same of the gradients."""
        return self._moments()[1][1]

    def update(self, z: Tensor, grad: Tensor) -> None:
        """Takes up positions and gradients, each with shape :math:`(C, *B, D)`."""
        self.count += 1
        self.chains, self._dtype = len(z), z.dtype
        self._waiting.append(torch.stack([z, grad]))
        if len(self._waiting) == self.TOGETHER:
            self._moments()

    def recent_mean(self) -> Tensor:
        """The mean of the positions without those that wait, with shape :math:`(*B, D)`."""
        return self._means[0].to(self._dtype) if self._merged else self.mean

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Means (2, *B, D) and spreads of positions and gradients."""
        if self._waiting:
            new = torch.cat(self._waiting, 1).double()
            means = new.mean(1)
            spreads = self._spread(new - means.unsqueeze(1))
            if self._merged:
                w = len(self._waiting) / self.count
                between = self._spread((means - self._means).unsqueeze(1))
                means = torch.lerp(self._means, means, w)
                spreads = torch.lerp(self._spreads, spreads + (1 - w) * between, w)
            self._means, self._spreads = means, spreads
            self._merged, self._waiting = self.count, []
        return self._means, self._spreads

    def _spread(self, centred: Tensor) -> Tensor:
        if self.dense:
            return centred.movedim(1, -1) @ centred.movedim(1, -2) / centred.shape[1]
        return centred.square().mean(1)


def fisher_diagonal(z: Tensor, grad: Tensor) -> Tensor:
    """Scales with the least Fisher divergence, from variances of positions and gradients, each (*B, D)."""
    scale = (z / grad).pow(0.25)
    # One chain, or a coordinate that the density does not depend on, says nothing.
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)


def fisher_dense(z: Tensor, grad: Tensor) -> Tensor:
    """The Cholesky factor of the matrix with the least Fisher divergence, from covariances, each (*B, D, D)."""
    root = torch.linalg.cholesky(grad)
    # Sigma G Sigma = Z with G = R R' is (R' Sigma R)^2 = R' Z R.
    values, vectors = torch.linalg.eigh(root.mT @ z @ root)
    half = torch.linalg.solve_triangular(root.mT, vectors * values.clamp(min=0).pow(0.25).unsqueeze(-2), upper=True)
    # Sigma = half half', so that the R of half' = Q R is an upper factor.
    upper: Tensor = torch.linalg.qr(half.mT).R
    return (upper * _diagonal(upper).sign().unsqueeze(-1)).mT


def low_rank(scale: Tensor, z: Tensor, grad: Tensor, rank: int = 10) -> Metric:
    r"""The metric with the least Fisher divergence in the directions that stand out, the diagonal one in the others.

    They are the principal components of the scaled positions, which are long, and of the scaled gradients, short.

    Arguments:
        scale: The diagonal metric, with shape :math:`(*B, D)`.
        z: Centred positions, with shape :math:`(C, *B, D)`.
        grad: Centred gradients, with shape :math:`(C, *B, D)`.
        rank: The number K of directions of each kind, at most a quarter of the chains.
    """
    chains, dim = z.shape[0], z.shape[-1]
    rank = max(1, min(rank, chains // 4, dim // 2))
    x, g = ((t / chains**0.5).movedim(0, -2).double() for t in (z / scale, grad * scale))
    found = torch.cat([torch.linalg.svd(t, full_matrices=False).Vh[..., :rank, :] for t in (x, g)], -2)
    basis = torch.linalg.qr(found.mT).Q
    x, g = x @ basis, g @ basis
    factor = fisher_dense(*(_regular(t.mT @ t, chains / (chains + 2 * rank)) for t in (x, g)))
    vectors, stretch, _ = torch.linalg.svd(factor)
    return Metric.low_rank(scale, (basis @ vectors).to(scale), stretch.to(scale))


class Trajectory:
    """The length of a trajectory in whitened coordinates, as a multiple of a quarter of the slowest oscillation.

    For a Gaussian target the multiple is about 1, and so it begins. Divided by the square root of the length, the
    criterion has its maximum where a gradient is worth most: without, trajectories grow for the last per cent of it.
    A few transitions are taken up together, which takes a fraction of the time.

    Arguments:
        criterion: ``"snaper"`` or ``"chees"``.

    Attributes:
        principal: The principal component of the whitened target, with shape :math:`(*B, D)`.
        spread: The standard deviation along it.
        log_factor: The logarithm of the multiple.
    """

    POWER = 0.5  # of the length, by which the criterion is divided
    MAX_VARIANCES = (
        9.0  # variances beyond which a squared projection counts no more: its fourth power is all noise there
    )
    MAX_LOG_FACTOR = math.log(4)  # log-multiple, either way
    SHARES = 4.0  # the window holds the last quarter of the time
    TOGETHER = 4  # transitions

    def __init__(self, criterion: str) -> None:
        if criterion not in ("snaper", "chees"):
            raise ValueError(f'criterion={criterion!r}: choose "snaper" or "chees".')
        self.criterion = criterion
        self.principal: Tensor | None = None
        self.spread = 1.0
        self.log_factor = self.average = 0.0
        self._gain = self._criterion = 0.0
        self._time = self._learning = 0
        self._waiting: list[tuple[Tensor, ...]] = []

    @property
    def length(self) -> float:
        """The mean length."""
        return 0.5 * math.pi * self.spread * math.exp(self.log_factor)

    def renew(self) -> None:
        """Begins anew: the metric has changed, and what was learnt may have been learnt on the way to the target."""
        self._time = self._learning = 0
        self._waiting = []
        self.log_factor = self.average = 0.0

    def freeze(self) -> None:
        """Ends the adaptation."""
        self.log_factor = self.average

    def update(
        self,
        old: Tensor,
        proposal: Proposal,
        acceptance: Tensor,
        mean: Tensor,
        metric: Metric,
        length: Tensor,
        learn: bool,
    ) -> None:
        """Takes up a transition.

        Arguments:
            old: Where the trajectories began, with shape :math:`(C, *B, D)`.
            proposal: Where they ended.
            acceptance: The probabilities of acceptance, with shape :math:`(C, *B)`.
            mean: The mean of the target, with shape :math:`(*B, D)`.
            metric: The metric, without the step size.
            length: The length of the trajectories, with shape :math:`(*B)`.
            learn: Whether to learn the multiple, or no more than the principal component and its spread.
        """
        figures = some_chains(old, proposal.point.z, proposal.momentum, acceptance)
        self._waiting.append((*figures, length.unsqueeze(0)))
        if self.principal is None:
            self.principal = torch.full_like(mean, mean.shape[-1] ** -0.5)
        elif len(self._waiting) < self.TOGETHER:
            return
        begin, end, momentum, acceptance, length = (torch.stack(t) for t in zip(*self._waiting, strict=True))
        self._waiting = []
        self._time += 1
        ends = torch.stack([begin, end]) - mean  # (2, K, C, *B, D)
        along = metric.pull_inverse(self.principal[None])[0]
        old, s = ends[0], (ends * along).sum(-1)
        spread = s[0].abs().mean((0, 1)) * math.sqrt(math.pi / 2)  # chains far out count little
        found = [spread.mean()]
        if learn:
            if self.criterion == "snaper":
                far = self.MAX_VARIANCES * spread.square()
                before, after = s.square().minimum(far)
                slope = (s[1] * (momentum * self.principal).sum(-1)).where(after < far, 0.0)
            else:
                whitened = metric.whiten(ends.flatten(0, 2)).view_as(ends)
                before, after = whitened.square().sum(-1)
                slope = (whitened[1] * momentum).sum(-1)
            # d/d(log length) of the criterion, and the criterion; rejected trajectories may have ended at infinity.
            change = after - before
            terms = torch.stack([4 * length * slope, change]) * (change * acceptance)
            found += [*terms.where(acceptance > 0, 0.0).flatten(1).mean(1)]
        # Oja: one multiplication by the covariance of the chains.
        image = metric.whiten((s[0].unsqueeze(-1) * old).mean((0, 1)).unsqueeze(0))[0]
        weight = self.SHARES / (self._time + self.SHARES - 1)
        self.principal = _normalised(torch.lerp(self.principal, _normalised(image), weight))
        new, *criterion = torch.stack(found).tolist()
        self.spread += weight * (new - self.spread)
        if learn:
            self._climb(*criterion)

    def _climb(self, gain: float, criterion: float) -> None:
        self._learning += 1
        weight = self.SHARES / (self._learning + self.SHARES - 1)
        self._gain += weight * (gain - self._gain)
        self._criterion += weight * (criterion - self._criterion)
        slope = max(-2.0, min(2.0, self._gain / max(self._criterion, 1e-30) - self.POWER))
        self.log_factor += slope / (self._learning + 10 / self.TOGETHER)
        self.log_factor = max(-self.MAX_LOG_FACTOR, min(self.MAX_LOG_FACTOR, self.log_factor))
        self.average += weight * (self.log_factor - self.average)


def _normalised(vectors: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.clamp(min=1e-30)


class Tuning:
    r"""Step size and metric of a sampler on the whitened momentum of :mod:`pyro_gen.inference.mcmc.hmc`.

    The metric is renewed at a few moments of the warm-up, each time from what the chains did since the last: on the way
    to the target gradients can be so great that no fading memory forgets them. Then dual averaging begins anew. Chains
    that are lost when the early part is over, off the support or far below all others, are restarted where a random
    other one is.

    Arguments:
        target_acceptance: What the harmonic mean of the acceptance over the chains is to reach.
        metric: ``"auto"``, ``"diagonal"``, ``"dense"`` or ``"low_rank"``.
        step_size: A fixed step size, in whitened coordinates.

    Attributes:
        metric: The metric, without the step size.
        step_size: The step sizes, with shape :math:`(*B)`, in float64 on the CPU.
        scaled: The metric times the step size.
        mean: The mean of the target as far as it is known, with shape :math:`(*B, D)`.
        restarted: How many chains were restarted that had come to a standstill.
    """

    RENEW = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7)  # shares of the warm-up
    RESCUE = (0.1, 0.45)  # the renewals between which lost chains are restarted
    FREEZE = 0.9

    metric: Metric
    scaled: Metric
    mean: Tensor

    def __init__(self, target_acceptance: float, metric: str = "auto", step_size: float | None = None) -> None:
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance={target_acceptance}: give a number between 0 and 1.")
        if metric not in KINDS:
            raise ValueError(f"metric={metric!r}: choose from {', '.join(KINDS)}.")
        if step_size is not None and step_size <= 0:
            raise ValueError(f"step_size={step_size}: give a positive number.")
        self.kind, self.target_acceptance, self.fixed = metric, target_acceptance, step_size
        self.restarted = 0
        self.frozen = False

    def begin(self, point: Point) -> None:
        """Makes the first metric from where the chains start."""
        chains, dim = point.z.shape[0], point.z.shape[-1]
        shape, self._like = point.z.shape[1:-1], point.z.new_empty(0)
        first = 0.5 * dim**-0.25 if self.fixed is None else self.fixed
        self.step_size = torch.full(shape, first, dtype=torch.float64)
        self._averaging = DualAveraging(self.step_size, self.target_acceptance)
        self._dense = self.kind == "dense" or (self.kind == "auto" and 5 * dim <= min(chains, 5 * MAX_DENSE_DIM))
        self._moments = Moments(self._dense)
        self._moments.update(point.z, point.grad)
        self._due = list(self.RENEW)
        self._last = point.log_density  # at the last renewal
        self.metric = self._learnt_metric(point)
        self._scale()

    def update(self, point: Point, acceptance: Tensor, progress: float) -> Point:
        """Takes up a transition of the warm-up.

        Arguments:
            point: The chains after it.
            acceptance: Its probabilities of acceptance, with shape :math:`(C, *B)`.
            progress: The share of the warm-up that is done.

        Returns:
            The chains, with lost ones restarted.
        """
        if progress >= self.FREEZE:
            self.freeze()
            return point
        if self.fixed is None:
            self._averaging.update(harmonic_mean(acceptance).cpu())
        self._moments.update(*some_chains(point.z, point.grad))
        self.mean = self._moments.recent_mean()
        renew = False
        while self._due and progress >= self._due[0]:
            at, renew = self._due.pop(0), True
        if renew:
            if self.RESCUE[0] <= at <= self.RESCUE[1]:
                point = self._rescue(point)
            self._last = point.log_density
            self.metric = self._learnt_metric(point)
            self._moments = Moments(self._dense)
            self._averaging.restart(self._averaging.average.exp())
        self.step_size = self._averaging.log_step.exp()
        self._scale()
        return point

    def freeze(self) -> None:
        """Ends the adaptation."""
        if not self.frozen:
            self.frozen = True
            self.step_size = self._averaging.average.exp()
            self._scale()

    def _scale(self) -> None:
        step = self.step_size
        self.scaled = self.metric.scaled(float(step) if step.dim() == 0 else step.to(self._like))

    def _learnt_metric(self, point: Point) -> Metric:
        self.mean = self._moments.mean
        spread, grad_spread = self._moments.spread, self._moments.grad_spread
        if self.kind == "low_rank":
            scale = fisher_diagonal(spread, grad_spread).to(self._like)
            return low_rank(scale, point.z - self.mean, point.grad - self._moments.grad_mean)
        if not self._moments.dense:
            return Metric.diagonal(fisher_diagonal(spread, grad_spread).to(self._like))
        scale = fisher_diagonal(_diagonal(spread), _diagonal(grad_spread))
        outer = scale.unsqueeze(-1) * scale.unsqueeze(-2)
        # Few draws make a covariance too long: lean on its diagonal. Successive draws of one chain count less.
        dim, count = spread.shape[-1], self._moments.chains * max(1.0, self._moments.count / 10)
        share = count / (count + dim)
        factor = fisher_dense(*(_regular(m, share) for m in (spread / outer, grad_spread * outer)))
        if self.kind == "auto":
            axes = torch.linalg.svdvals(factor)
            if float((axes[..., 0] / axes[..., -1]).median()) < MIN_DENSE_AXIS_RATIO:
                return Metric.diagonal(scale.to(self._like))
        return Metric.dense((scale.unsqueeze(-1) * factor).to(self._like))

    def _rescue(self, point: Point) -> Point:
        """Restarts chains that are off the support, or below the others by ten times the depth of the upper half."""
        chains = len(point.log_density)
        log_density = point.log_density.reshape(chains, -1)
        middle, top = log_density.median(0).values, log_density.max(0).values
        lost = ~(log_density >= middle - (10 * (top - middle)).clamp(min=50.0))
        count = int(lost.sum())
        if not count or bool(lost.all(0).any()):
            return point
        # One that has risen since the last renewal was just on its way from a far start.
        self.restarted += int((lost & ~(log_density > self._last.reshape(chains, -1) + 1)).sum())
        donors = torch.multinomial((~lost).mT.float(), chains, replacement=True).mT
        donors = torch.where(lost, donors, torch.arange(chains, device=donors.device).unsqueeze(-1))

        def move(t: Tensor) -> Tensor:
            flat = t.reshape(*log_density.shape, *t.shape[point.log_density.dim() :])
            return flat[donors, torch.arange(flat.shape[1], device=t.device)].view_as(t)

        return Point(move(point.z), move(point.log_density), move(point.grad), tuple(map(move, point.parts)))

    def state_dict(self) -> dict[str, Any]:
        """The frozen step size and metric."""
        return {
            "step_size": self.step_size,
            "metric": self.metric.kind,
            "tensors": [t.cpu() for t in self.metric.tensors],
            "restarted": self.restarted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up frozen values, after :meth:`begin`."""
        self.step_size = state["step_size"]
        make: Callable[..., Metric] = getattr(Metric, state["metric"])
        self.metric = make(*(t.to(self._like) for t in state["tensors"]))
        self.restarted = state["restarted"]
        self.frozen = True
        self._scale()


def _regular(covariance: Tensor, share: float) -> Tensor:
    """A share of a covariance (*B, D, D), the rest of its diagonal; 1 for coordinates without any variance."""
    variance = _diagonal(covariance)
    known = variance > 0
    shrunk = share * covariance + (1 - share) * variance.diag_embed()
    both = known.unsqueeze(-1) & known.unsqueeze(-2)
    return torch.where(both, shrunk, torch.eye(variance.shape[-1], dtype=variance.dtype, device=variance.device))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)
