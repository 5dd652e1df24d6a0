r"""The likelihood of a row of mixed columns: entries are independent, each with a distribution of its column's kind.

.. math::
    \text{real:} \quad & x \sim t_\nu(\mu, \sigma) \text{ or } \mathcal{N}(\mu, \sigma^2) \\
    \text{count:} \quad & p(n) = \frac{\Gamma(n + r)}{\Gamma(r) \, n!}
        \Big(\frac{r}{r + m}\Big)^r \Big(\frac{m}{r + m}\Big)^n, \text{ of variance } m + m^2 / r \\
    \text{binary, nominal:} \quad & P(x = l) = \operatorname{softmax}(h)_l \\
    \text{ordinal:} \quad & P(x \le l) = \operatorname{logit}^{-1}(c_l - \eta), \quad c_0 < c_1 < \ldots

Draws are functions of uniform numbers, so that a row can have randomness of its own in whatever batch it comes.

References:
    | A Note on the Generation of Random Normal Deviates (Box & Muller, 1958)
    | Polar Generation of Random Variates with the t-Distribution (Bailey, 1994)
    | Regression Models for Ordinal Data (McCullagh, 1980), the cumulative logits
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from scipy import special, stats
from torch import Tensor
from torch.distributions import constraints

__all__ = ["ABSENT_LOGIT", "MixedColumns", "cut_points", "level_logits", "marginal_cuts"]

ABSENT_LOGIT = -1e4  # a logit that exp makes 0 in any precision


class MixedColumns(dist.TorchDistribution):
    r"""Independent entries of mixed columns: :math:`R` real ones, :math:`C` counts and :math:`G` with levels.

    Arguments:
        loc: Locations of the real columns, with shape :math:`(*, R)`.
        scale: Their scales, with shape :math:`(*, R)`.
        df: Their degrees of freedom (Student-t) with shape :math:`(R)`, or ``None`` (normal).
        log_mean: Logarithms of the means of counts, with shape :math:`(*, C)`.
        log_size: Logarithms of the sizes :math:`r` of their negative binomials, whose variance is
            :math:`\mu + \mu^2 / r`, with shape :math:`(C)`.
        logits: Of the levels of the other columns, with shape :math:`(*, G, L)`.
        order: Where the real columns, the counts and the others are in a row, with shape :math:`(D)`.
        last: Where draws and means of counts end, with shape :math:`(C)`; left out, nowhere.

    Example:
        >>> d = MixedColumns(
        ...     torch.zeros(1), torch.ones(1), None, torch.zeros(1), torch.zeros(1), torch.zeros(1, 4), torch.arange(3)
        ... )
        >>> [round(p, 3) for p in d.log_prob(torch.zeros(3)).exp().tolist()]  # density, 1 / (1 + mean), 1 of 4 levels
        [0.399, 0.5, 0.25]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    uniforms_per_entry = 2

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        df: Tensor | None,
        log_mean: Tensor,
        log_size: Tensor,
        logits: Tensor,
        order: Tensor,
        last: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.loc, self.scale, self.df = loc, scale, df
        self.log_mean, self.log_size = log_mean, log_size
        self.logits = logits.log_softmax(-1)
        self.order, self.last = order, last
        self.sizes = [loc.shape[-1], log_mean.shape[-1], logits.shape[-2]]
        shape = torch.Size((*loc.shape[:-1], len(order))) if batch_shape is None else batch_shape
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "MixedColumns":
        return MixedColumns(
            self.loc,
            self.scale,
            self.df,
            self.log_mean,
            self.log_size,
            self.logits,
            self.order,
            self.last,
            torch.Size(batch_shape),
        )

    @property
    def column_supports(self) -> list[Any]:
        """What values each column of a row can take."""
        real, counts, _ = self.sizes
        depths = (
            (self.logits > 0.5 * ABSENT_LOGIT).sum(-1).reshape(-1, self.sizes[2])[0].tolist() if self.sizes[2] else []
        )
        kinds: list[Any] = [constraints.real] * real + [constraints.nonnegative_integer] * counts
        kinds += [constraints.integer_interval(0, depth - 1) for depth in depths]
        return [kinds[i] for i in torch.argsort(self.order).tolist()]

    def _in_row_order(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, -1).index_select(-1, torch.argsort(self.order))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        x, count, code = value.index_select(-1, self.order).split(self.sizes, -1)
        y = (x - self.loc) / self.scale
        if self.df is None:
            real = -0.5 * y.square() - 0.5 * math.log(2 * math.pi)
        else:
            half = 0.5 * self.df
            constant = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (math.pi * self.df).log()
            real = constant - (half + 0.5) * torch.log1p(y.square() / self.df)
        real = real - self.scale.log()
        # In double precision: lgamma of a large count has no digits to lose.
        n, r, odds = count.double(), self.log_size.double().exp(), (self.log_mean - self.log_size).double()
        binomial = torch.lgamma(n + r) - torch.lgamma(r) - torch.lgamma(n + 1)
        counts = (binomial + r * F.logsigmoid(-odds) + n * F.logsigmoid(odds)).to(real.dtype)
        logits = self.logits.expand(*code.shape, self.logits.shape[-1])
        levels = logits.gather(-1, code.long().unsqueeze(-1)).squeeze(-1)
        return self._in_row_order(real, counts, levels)

    @property
    def probs(self) -> Tensor:
        """The probabilities of the levels, with shape :math:`(*, G, L)`."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        """Expectations, of codes where there are levels, with the batch shape."""
        codes = torch.arange(self.logits.shape[-1], device=self.loc.device, dtype=self.loc.dtype)
        counts = self.log_mean.exp()
        if self.last is not None and self.last.isfinite().any():
            counts = _ended_mean(self.log_size.exp().expand_as(counts), counts, self.last.to(counts))
        return self._in_row_order(self.loc, counts, self.probs @ codes).expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size((*sample_shape, *self.batch_shape, self.uniforms_per_entry))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.from_uniforms(u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps), _counts)

    def from_uniforms(self, u: Tensor, counts: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Turns uniform numbers into draws.

        Arguments:
            u: In (0, 1), with shape :math:`(*, D, 2)`.
            counts: Draws counts of a size, a mean and uniform numbers; the quantile function by default.

        Returns:
            Entries with shape :math:`(*, D)`.
        """
        first, second = u.index_select(-2, self.order).unbind(-1)
        (a, c, g), (b, _, _) = first.split(self.sizes, -1), second.split(self.sizes, -1)
        # Box & Muller, and their like for Student's t (Bailey, 1994).
        squared = -2 * a.log() if self.df is None else self.df * torch.expm1(-2 / self.df * a.log())
        radius = squared.sqrt()
        real = self.loc + self.scale * radius * torch.cos(2 * math.pi * b)
        number = (counts or _count_quantile)(self.log_size.exp().expand_as(c), self.log_mean.exp().expand_as(c), c)
        if self.last is not None:
            number = number.minimum(self.last.to(number))
        below = (g.unsqueeze(-1) > self.probs.cumsum(-1)).sum(-1)
        last = (self.logits > 0.5 * ABSENT_LOGIT).sum(-1) - 1  # rounding must not reach a level that there is not
        return self._in_row_order(real, number.to(real.dtype), torch.minimum(below, last).to(real.dtype))


def _counts(size: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    return torch.poisson(torch.distributions.Gamma(size, size / mean).sample())


def _count_quantile(size: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    if not u.numel():
        return u
    r, mu, numbers = (t.detach().double().cpu().numpy() for t in (size, mean, u))
    return torch.from_numpy(stats.nbinom.ppf(numbers, r, r / (r + mu))).to(u.device)


def _ended_mean(size: Tensor, mean: Tensor, last: Tensor) -> Tensor:
    r"""The expectation of the smaller of a count and the last one.

    .. math:: \mathbb{E} \min(n, l) = \mathbb{E} \, n \; P_{r + 1}(n < l) + l \, P_r(n > l) ,

    since a negative binomial of size r, weighed by n, is one of size r + 1 that begins at 1.
    """
    r, mu, end = (t.detach().double().cpu().numpy() for t in torch.broadcast_tensors(size, mean, last))
    p = r / (r + mu)
    finite = np.where(np.isfinite(end), end, 1.0)
    ended = mu * special.betainc(r + 1, finite, p) + finite * special.betaincc(r, finite + 1, p)
    return torch.from_numpy(np.where(np.isfinite(end), ended, mu)).to(mean)


def cut_points(raw: Tensor) -> Tensor:
    """Makes ordered cut-points (*, L - 1) of free parameters: the first one, and what gives the gaps after it."""
    gaps = 1e-3 + F.softplus(raw[..., 1:])
    return torch.cat([raw[..., :1], raw[..., :1] + gaps.cumsum(-1)], -1)


def marginal_cuts(codes: Tensor, levels: int) -> Tensor:
    """The free parameters (O, L - 1) of the cut-points that fit each ordinal column (N, O) by itself."""
    n = (~torch.isnan(codes)).sum(0)
    k = torch.arange(max(1, levels - 1), device=codes.device)
    below = (codes.unsqueeze(-1) <= k).sum(0) + 0.5 * (k + 1)
    cuts = (below / (n + 0.5 * levels + 0.5).unsqueeze(-1)).clamp(0.01, 0.99).logit()
    gaps = cuts.diff(dim=-1).clamp(min=0.05)
    return torch.cat([cuts[:, :1], gaps + torch.log(-torch.expm1(-gaps))], -1)  # softplus gives the gaps


def level_logits(
    binary: Tensor, ordinal: Tensor, cuts: Tensor | None, nominal: Tensor | None, depths: Sequence[int]
) -> Tensor:
    r"""Logits of the levels of columns, those that a column does not have at :data:`ABSENT_LOGIT`.

    Arguments:
        binary: Logits of level 1 of the binary columns, with shape :math:`(*, B)`.
        ordinal: The scores :math:`\eta` of the ordinal columns, with shape :math:`(*, O)`.
        cuts: Their cut-points, with shape :math:`(O, L - 1)`.
        nominal: Logits of the levels of the nominal columns, with shape :math:`(*, M, L)`.
        depths: The numbers of levels of all these columns; L is the largest, and 2 at least.

    Returns:
        Logits, with shape :math:`(*, B + O + M, L)`.
    """
    depth = torch.tensor(depths, dtype=torch.long, device=binary.device).unsqueeze(-1)
    levels = max([2, *depths])
    absent = torch.arange(levels, device=binary.device) >= depth  # (G, L)
    parts = [F.pad(torch.stack([torch.zeros_like(binary), binary], -1), (0, levels - 2))]
    if cuts is not None:
        mine = absent[binary.shape[-1] :][: ordinal.shape[-1]]
        cuts = cuts.masked_fill(mine[:, 1:], -ABSENT_LOGIT)  # the last level has no upper cut-point
        upper, lower = F.pad(cuts, (0, 1), value=-ABSENT_LOGIT), F.pad(cuts, (1, 0), value=ABSENT_LOGIT)
        # log of logit^-1(upper - eta) - logit^-1(lower - eta), in a form that loses no digits
        inner = torch.log(-torch.expm1((lower - upper).masked_fill(mine, -1.0)))
        eta = ordinal.unsqueeze(-1)
        parts.append(F.logsigmoid(upper - eta) + F.logsigmoid(eta - lower) + inner)
    if nominal is not None:
        parts.append(nominal)
    return torch.cat(parts, -2).masked_fill(absent, ABSENT_LOGIT)
