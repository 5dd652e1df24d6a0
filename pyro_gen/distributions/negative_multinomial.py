r"""The negative multinomial distribution: counts of V kinds whose total is not given.

.. math::
    \xi \sim \operatorname{Gamma}(a, b), \qquad x_v \mid \xi \sim \operatorname{Poisson}(\xi \, p_v), \qquad
    \textstyle\sum_v p_v = 1 .

Given the total :math:`n = \sum_v x_v` the counts are multinomial, and the total is negative binomial with mean
:math:`a / b`. With :math:`\xi` integrated out, the counts of the kinds that were seen, of which
:math:`P = \sum_{v \in o} p_v`, have

.. math::
    \log p(x_o) = \log \frac{\Gamma(a + n_o)}{\Gamma(a) \prod_{v \in o} x_v!} + a \log b
    - (a + n_o) \log (b + P) + \sum_{v \in o} x_v \log p_v ,

and those that were not are drawn from :math:`\xi \mid x_o \sim \operatorname{Gamma}(a + n_o, b + P)` and the Poisson
law given it: a long document is long in the words that nobody counted, too.

References:
    | Negative Multinomial Distribution (Sibuya, Yoshimura & Shimizu, 1964)
    | https://doi.org/10.1007/BF02868583
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

__all__ = ["NegativeMultinomial"]


class NegativeMultinomial(TorchDistribution):
    r"""Creates the law of counts with a Gamma-Poisson total.

    Arguments:
        concentration: :math:`a`, positive, with the batch shape or one that broadcasts to it.
        rate: :math:`b`, positive, likewise.
        probs: The probabilities :math:`p` of kinds, with shape :math:`(*, V)`, sum 1.
        seen: Which counts are seen, with shape :math:`(*, V)`; ``None`` for all. Others do not matter.

    Example:
        >>> d = NegativeMultinomial(torch.tensor(2.0), torch.tensor(1.0), torch.tensor([0.5, 0.5]))
        >>> round(d.log_prob(torch.tensor([1.0, 1.0])).exp().item(), 5)  # 3!/(1! 1!) (1/2)^2 (1/4)^2
        0.09375
    """

    arg_constraints = {  # noqa: RUF012 -- as torch has it
        "concentration": constraints.positive,
        "rate": constraints.positive,
        "probs": constraints.simplex,
    }
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self,
        concentration: Tensor,
        rate: Tensor,
        probs: Tensor,
        seen: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        shape = torch.broadcast_shapes(concentration.shape, rate.shape, probs.shape[:-1])
        self.concentration, self.rate = concentration.expand(shape), rate.expand(shape)
        self.probs = probs.expand(*shape, -1)
        self.seen = seen
        super().__init__(shape, probs.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NegativeMultinomial":
        shape = torch.Size(batch_shape)
        parts = self.concentration.expand(shape), self.rate.expand(shape), self.probs.expand(*shape, -1)
        return NegativeMultinomial(*parts, self.seen, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The expected counts, with the shape of ``probs``."""
        return (self.concentration / self.rate).unsqueeze(-1) * self.probs

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration, self.rate
        value = value.to(self.probs)
        log_p = self.probs.clamp(min=torch.finfo(self.probs.dtype).tiny).log()
        words, total, share = value * log_p - torch.lgamma(value + 1), value, self.probs
        if self.seen is not None:
            words, total, share = (t.where(self.seen, 0.0) for t in (words, total, share))
        n = total.sum(-1)
        gammas = torch.lgamma(a + n) - torch.lgamma(a)
        found: Tensor = gammas + a * b.log() - (a + n) * (b + share.sum(-1)).log() + words.sum(-1)
        return found

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        total = torch.distributions.Gamma(self.concentration.expand(shape), self.rate.expand(shape)).sample()
        return torch.poisson(total.unsqueeze(-1) * self.probs)

    def marginalise(self, value: Tensor) -> tuple["NegativeMultinomial", Tensor, Callable[[], Tensor]]:
        """Splits the law at the missing counts, NaN in ``value``, as :func:`pyro_gen.observe` asks for."""
        seen, filled = ~torch.isnan(value), value.nan_to_num()

        def draw() -> Tensor:
            n = filled.sum(-1)
            share = self.probs.where(seen, 0.0).sum(-1)
            total = torch.distributions.Gamma(self.concentration + n, self.rate + share).sample()
            return torch.poisson(total.unsqueeze(-1) * self.probs)

        parts = self.concentration, self.rate, self.probs, seen
        return NegativeMultinomial(*parts, validate_args=False), filled, draw
