r"""Censored observations as a distribution: a detection limit, a study that ended, a visit that came too late.

Of a variable :math:`X` with distribution function :math:`F` and density :math:`f` only :math:`\max(l, \min(X, h))` is
seen, or that it lies in :math:`(a, b]`. What was seen has the likelihood

.. math::
    p(y) = \begin{cases}
        F(l) & y = l \quad \text{(left-censored)} \\
        1 - F(h) & y = h \quad \text{(right-censored)} \\
        F(b) - F(a) & a \leq y \leq b \quad \text{(interval-censored)} \\
        f(y) & \text{otherwise,}
    \end{cases}

which sums and integrates to one, so it has an evidence, is imputed and generates: no ``pyro.factor`` is needed.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.utils import broadcast_all

from pyro_gen._internals import standard_gamma_slope, without_validation

__all__ = ["Censored", "log_cdf", "log_survival"]


class Censored(dist.TorchDistribution):
    r"""What is seen of a variable through limits and intervals.

    The limits are those of each observation: for survival times with an indicator ``event``,
    ``high=torch.where(event, torch.inf, t)`` says that where there was none, the subject was alive at t.

    References:
        | Estimation of Relationships for Limited Dependent Variables (Tobin, 1958)
        | https://www.jstor.org/stable/1907382

    Arguments:
        base: The distribution of the variable, of single numbers, with batch shape :math:`(*)`.
        low: Values at or below it are seen as ``low``, with shape :math:`(*)`; minus infinity for no limit.
        high: Values at or above it are seen as ``high``, with shape :math:`(*)`; infinity for no limit.
        interval: ``(a, b)``: values in :math:`(a, b]` are seen as ``b``, each with shape :math:`(*)`; NaN for none.

    Raises:
        ValueError: The base is of vectors, or has no distribution function that is known here.

    Example:
        >>> t, event = torch.tensor([2.0, 5.0]), torch.tensor([True, False])
        >>> d = Censored(dist.Exponential(torch.tensor(0.1)), high=torch.where(event, torch.inf, t))
        >>> d.log_prob(t).tolist()  # log 0.1 - 0.1 * 2, and -0.1 * 5
        [-2.5025851726531982, -0.5]
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        base: Any,
        low: Tensor | float = -math.inf,
        high: Tensor | float = math.inf,
        interval: tuple[Tensor | float, Tensor | float] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if len(base.event_shape):
            raise ValueError(
                f"Censored({type(base).__name__}): the base has events of shape {tuple(base.event_shape)}; give one of "
                "single numbers, and use Censored(...).to_event."
            )
        like = _parameter(base)
        given = (low, high, *((math.nan, math.nan) if interval is None else interval))
        bounds = [torch.as_tensor(b, dtype=like.dtype, device=like.device) for b in given]
        shape = torch.broadcast_shapes(base.batch_shape, *(b.shape for b in bounds))
        self.low, self.high, self.start, self.end = (b.expand(shape) for b in bounds)
        self.base_dist = without_validation(base.expand(shape))  # it is asked at points of its support alone
        super().__init__(shape, validate_args=validate_args)
        self._points = _points_in(base.support, like)
        try:
            log_cdf(self.base_dist, self._points[0].expand(shape))
        except (NotImplementedError, AttributeError) as error:
            raise ValueError(
                f"Censored({type(base).__name__}): its distribution function is not known here. Normal, LogNormal, "
                "Logistic, Exponential, Weibull, Gamma and Poisson have one, as has what defines cdf."
            ) from error

    has_rsample = False

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Censored":
        shape = torch.Size(batch_shape)
        return Censored(
            self.base_dist.expand(shape),
            self.low.expand(shape),
            self.high.expand(shape),
            (self.start.expand(shape), self.end.expand(shape)),
            validate_args=False,
        )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        at_low, at_high = value <= self.low, value >= self.high
        inside = (value >= self.start) & (value <= self.end)
        # A branch that is not taken sees a harmless point: its NaN would reach the gradient of the others.
        point, other = self._points
        seen = torch.where(at_low | at_high | inside, point.to(value), value)
        below = log_cdf(self.base_dist, torch.where(at_low & self.low.isfinite(), self.low, point))
        # Of counts the limit itself is among what is seen as the limit.
        step = 1 if self.base_dist.support.is_discrete else 0
        above = log_survival(self.base_dist, torch.where(at_high & self.high.isfinite(), self.high - step, point))
        between = _log_between(
            self.base_dist, torch.where(inside, self.start, point), torch.where(inside, self.end, other), point
        )
        log_prob = torch.where(inside, between, self.base_dist.log_prob(seen))
        log_prob = torch.where(at_low, below, torch.where(at_high, above, log_prob))
        outside = (value < self.low) | (value > self.high)
        return log_prob.masked_fill(outside, -math.inf)

    @property
    def mean(self) -> Tensor:
        r"""The mean of what is seen: of a normal variable without intervals, the one that is known in closed form.

        With :math:`h(z) = z \Phi(z) + \varphi(z)` it is
        :math:`\mu + \sigma \, h((l - \mu) / \sigma) - \sigma \, h((\mu - h) / \sigma)`.
        """
        d = self.base_dist
        if not isinstance(d, torch.distributions.Normal) or not bool(self.start.isnan().all()):
            raise NotImplementedError

        def excess(z: Tensor) -> Tensor:  # E max(0, z - N(0, 1)); 0 where there is no limit
            z = z.clamp(min=-30)
            return z * _log_ndtr(z).exp() + torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)

        mean: Tensor = d.loc + d.scale * (excess((self.low - d.loc) / d.scale) - excess((d.loc - self.high) / d.scale))
        return mean

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            x: Tensor = self.base_dist.sample(torch.Size(sample_shape))
            x = torch.where((x > self.start) & (x <= self.end), self.end.to(x), x)
            return torch.maximum(torch.minimum(x, self.high.to(x)), self.low.to(x))


def log_cdf(d: Any, x: Tensor) -> Tensor:
    """The logarithm of the probability of values up to ``x``, with the digits of its tails where they are known."""
    return _log_tail(d, x, upper=False)


def log_survival(d: Any, x: Tensor) -> Tensor:
    """The logarithm of the probability of values above ``x``, with the digits of its tails where they are known."""
    return _log_tail(d, x, upper=True)


def _log_tail(d: Any, x: Tensor, upper: bool) -> Tensor:
    sign = -1 if upper else 1
    if isinstance(d, torch.distributions.Normal):
        return _log_ndtr(sign * (x - d.loc) / d.scale)
    if isinstance(d, dist.Logistic):
        return torch.nn.functional.logsigmoid(sign * (x - d.loc) / d.scale)
    if isinstance(d, torch.distributions.Laplace):
        z = sign * (x - d.loc) / d.scale
        return torch.where(z < 0, z.clamp(max=0) - math.log(2), torch.log1p(-0.5 * torch.exp(-z.clamp(min=0))))
    if isinstance(d, torch.distributions.Exponential):
        hazard = d.rate * x.clamp(min=0)
        return -hazard if upper else _log1mexp(hazard)
    if isinstance(d, torch.distributions.Weibull):
        hazard = (x.clamp(min=0) / d.scale) ** d.concentration
        return -hazard if upper else _log1mexp(hazard)
    if isinstance(d, torch.distributions.Poisson):
        count = x.floor().clamp(min=-0.5) + 1
        regularised = torch.special.gammainc if upper else torch.special.gammaincc
        return torch.log(regularised(count, d.rate.expand(count.shape)))
    if d.support.is_discrete:
        return _log_tail_by_summing(d, x, upper)
    if isinstance(d, torch.distributions.TransformedDistribution):
        for transform in reversed(d.transforms):
            x = transform.inv(x)
            upper = upper ^ bool(transform.sign < 0)
        return _log_tail(d.base_dist, x, upper)
    if isinstance(d, torch.distributions.Gamma):
        a, y = broadcast_all(d.concentration, d.rate * x)
        # Torch knows no derivative by the concentration: at a given probability y moves with it by this much.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # it has no rule for vmap
            slope = standard_gamma_slope(a.detach(), y.detach())
        y = y - slope * (a - a.detach())
        regularised = torch.special.gammaincc if upper else torch.special.gammainc
        return torch.log(regularised(a.detach(), y))
    below: Tensor = d.cdf(x)
    return torch.log1p(-below) if upper else below.log()


def _log_tail_by_summing(d: Any, x: Tensor, upper: bool) -> Tensor:
    first = float(torch.as_tensor(getattr(d.support, "lower_bound", 0)).min())
    levels = torch.arange(first, max(first, float(x.max())) + 1, dtype=x.dtype, device=x.device)
    levels = levels.reshape(-1, *(1,) * x.dim())
    top = getattr(d.support, "upper_bound", math.inf)  # the levels of others in the batch may be beyond it
    reached = (levels <= x) & (levels <= top)
    terms = torch.where(reached, d.log_prob(torch.where(reached, levels, first)), -1e30)
    below = torch.logsumexp(terms, 0)
    return _log1mexp(-below) if upper else below


def _log_between(d: Any, a: Tensor, b: Tensor, point: Tensor) -> Tensor:
    """log(F(b) - F(a)), by the smaller of the two tails; a may be minus infinity, b infinity."""
    open_low, open_high = a == -math.inf, b == math.inf
    a, b = torch.where(open_low, point, a), torch.where(open_high, point, b)
    up_to_a, up_to_b, above_a, above_b = log_cdf(d, a), log_cdf(d, b), log_survival(d, a), log_survival(d, b)
    left = up_to_b < above_a
    more = torch.where(left, up_to_b, above_a)
    less = torch.where(left, up_to_a, above_b)
    closed = more + _log1mexp(torch.where(open_low | open_high, 1.0, more - less))
    return torch.where(open_low, torch.where(open_high, 0.0, up_to_b), torch.where(open_high, above_a, closed))


def _log1mexp(a: Tensor) -> Tensor:
    """log(1 - exp(-a)) for a > 0."""
    a = a.clamp(min=torch.finfo(a.dtype).tiny)
    near = a < math.log(2)
    small, large = torch.where(near, a, 1.0), torch.where(near, 1.0, a)
    return torch.where(near, torch.log(-torch.expm1(-small)), torch.log1p(-torch.exp(-large)))


def _log_ndtr(z: Tensor) -> Tensor:
    """The logarithm of the standard normal distribution function; torch's has no rule for vmap."""
    left = z < -1
    low, high = torch.where(left, z, -1.0), torch.where(left, -1.0, z)
    tail = torch.log(torch.special.erfcx(-low / math.sqrt(2)) / 2) - low.square() / 2
    return torch.where(left, tail, torch.log1p(-torch.erfc(high / math.sqrt(2)) / 2))


def _parameter(d: Any) -> Tensor:
    """A parameter of a distribution, for its dtype and its device."""
    tensors = [v for v in vars(d).values() if isinstance(v, Tensor) and v.is_floating_point()]
    if tensors:
        return tensors[0]
    return _parameter(d.base_dist) if hasattr(d, "base_dist") else torch.zeros(())


def _points_in(support: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two points inside a support, the greater one last."""
    if support.is_discrete:
        first = torch.as_tensor(getattr(support, "lower_bound", 0)).to(like)
        return first, first + 1
    first, last = (transform_to(support)(torch.full_like(like, u)) for u in (0.0, 1.0))
    return first, last
