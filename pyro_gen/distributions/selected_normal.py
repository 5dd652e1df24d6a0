r"""A normal variable that was selected by a logistic function of its value, in closed form.

.. math:: p(x) \propto \mathcal{N}(x; \mu, \sigma^2) \, \operatorname{logit}^{-1}(\alpha + \beta x)

The logistic function is a mixture of normal distribution functions,
:math:`\operatorname{logit}^{-1}(t) = \sum_k p_k \Phi(s_k t)` to eight digits, so with
:math:`\gamma_k^2 = 1 + s_k^2 \beta^2 \sigma^2` the probability of being selected is

.. math::
    \int \operatorname{logit}^{-1}(\alpha + \beta x) \, \mathcal{N}(x; \mu, \sigma^2) \, dx
    = \sum_k p_k \, \Phi\big(s_k (\alpha + \beta \mu) / \gamma_k\big) ,

and what was selected follows a mixture of skew normal distributions, with a density, a mean and draws in closed form.

References:
    | Normal scale mixture approximations to the logistic distribution (Monahan & Stefanski, 1989), in
      Handbook of the Logistic Distribution
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

__all__ = ["SelectedNormal"]

# p_k and s_k of Monahan & Stefanski (1989), eight terms.
_SHARES = (
    0.003246343272134,
    0.051517477033972,
    0.195077912673858,
    0.315569823632818,
    0.274149576158423,
    0.131076880695470,
    0.027912418727972,
    0.001449567805354,
)
_SLOPES = (
    1.365340806296348,
    1.059523971016916,
    0.830791313765644,
    0.650732166639391,
    0.508135425366489,
    0.396313345166341,
    0.308904252267995,
    0.238212616409306,
)


class SelectedNormal(dist.TorchDistribution):
    r"""A normal variable that was selected by a logistic function of its value.

    .. math:: p(x) \propto \mathcal{N}(x; \mu, \sigma^2) \, \operatorname{logit}^{-1}(\alpha + \beta x)

    With :math:`\alpha = \beta = 0` it is the normal distribution.

    Arguments:
        loc: The location :math:`\mu`.
        scale: The scale :math:`\sigma`.
        intercept: The logit :math:`\alpha` at 0.
        slope: The slope :math:`\beta` of the logit.
        log_selected: The log-probability of being selected, where it is known already.

    Example:
        >>> zero, one = torch.zeros(()), torch.ones(())
        >>> d = SelectedNormal(zero, one, zero, 100 * one)  # hardly anything below 0: a half normal
        >>> round(d.mean.item(), 3), round((2 / math.pi) ** 0.5, 3)
        (0.798, 0.798)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    uniforms_per_entry = 3
    numbers_per_entry = len(_SHARES)  # that it computes with

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        intercept: Tensor,
        slope: Tensor,
        log_selected: Tensor | None = None,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.loc, self.scale, self.intercept, self.slope = loc, scale, intercept, slope
        self._log_selected = log_selected
        shape = torch.broadcast_shapes(loc.shape, scale.shape, intercept.shape, slope.shape)
        super().__init__(shape if batch_shape is None else batch_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "SelectedNormal":
        parts = self.loc, self.scale, self.intercept, self.slope, self._log_selected
        return SelectedNormal(*parts, batch_shape=torch.Size(batch_shape))

    def _mixture(self, sign: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        r"""The arguments :math:`u_k`, the terms :math:`p_k \Phi(u_k)`, and :math:`s_k \beta / \gamma_k`."""
        slopes, shares = torch.tensor(_SLOPES).to(self.loc), torch.tensor(_SHARES).to(self.loc)
        tilt = sign * slopes * self.slope.unsqueeze(-1)
        gamma = (1 + (tilt * self.scale.unsqueeze(-1)).square()).sqrt()
        u = (sign * slopes * self.intercept.unsqueeze(-1) + tilt * self.loc.unsqueeze(-1)) / gamma
        return u, shares * _normal_cdf(u) + torch.finfo(u.dtype).tiny, tilt / gamma

    def log_selected(self, sign: float = 1.0) -> Tensor:
        """The log-probability of being selected, or of not being selected with ``sign=-1.0``."""
        return self._mixture(sign)[1].sum(-1).log()

    def log_prob(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        normal = -0.5 * y.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        log_selected = self.log_selected() if self._log_selected is None else self._log_selected
        return normal + F.logsigmoid(self.intercept + self.slope * value) - log_selected

    @property
    def mean(self) -> Tensor:
        """The expectation, with the batch shape (by Stein's lemma)."""
        u, terms, tilt = self._mixture()
        density = torch.tensor(_SHARES).to(u) * (-0.5 * u.square()).exp() / math.sqrt(2 * math.pi)
        ratio = (tilt * density).sum(-1) / terms.sum(-1)
        return (self.loc + self.scale.square() * ratio).expand(self.batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size((*sample_shape, *self.batch_shape, self.uniforms_per_entry))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.from_uniforms(u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps))

    def from_uniforms(self, u: Tensor) -> Tensor:
        """Turns uniform numbers in (0, 1), with shape (*, 3), into draws with shape (*).

        Of component k: a normal variable that is positive in the sum of slope times x and a standard normal variable.
        """
        choice, first, second = u.unbind(-1)
        arguments, terms, tilt = self._mixture()
        below = (terms / terms.sum(-1, keepdim=True)).cumsum(-1)
        k = (choice.unsqueeze(-1) > below).sum(-1, keepdim=True).clamp(max=len(_SHARES) - 1)
        shape = torch.Size((*k.shape[:-1], len(_SHARES)))
        least = -30.0 if u.dtype == torch.float64 else -10.0
        limit = arguments.expand(shape).gather(-1, k).squeeze(-1).clamp(min=least)
        correlation = (tilt * self.scale.unsqueeze(-1)).expand(shape).gather(-1, k).squeeze(-1)
        truncated = -torch.special.ndtri(first * _normal_cdf(limit))  # above -limit
        free = (1 - correlation.square()).clamp(min=0.0).sqrt() * torch.special.ndtri(second)
        draws: Tensor = self.loc + self.scale * (correlation * truncated + free)
        return draws


def _normal_cdf(u: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-math.sqrt(0.5) * u)  # torch.special.ndtr has no digits left in the lower tail
