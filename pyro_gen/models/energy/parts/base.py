r"""The law that an energy is added to: independent entries, with the margins of the data.

.. math:: p_0(x) = \prod_d p_0(x_d), \qquad
    p_0(x_d) = \mathcal{N}(m_d, s_d^2) \quad \text{or} \quad \operatorname{Bernoulli}(m_d)

A network sees the data less their mean, Gaussian ones in units of :math:`s` too, so that what it is given has the size
of one whatever the units of the data are.
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["IndependentBase"]


class IndependentBase(nn.Module):
    """A standard law of independent entries, until it is fitted; it is not trained.

    Arguments:
        kind: ``"normal"`` for real numbers, ``"bernoulli"`` for entries that are 0 or 1.
        event_shape: The shape of one datum.

    Raises:
        ValueError: There is no such law.
    """

    loc: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, kind: str, event_shape: Sequence[int]) -> None:
        super().__init__()
        if kind not in ("normal", "bernoulli"):
            raise ValueError(f'base={kind!r}: choose "normal" for real numbers, or "bernoulli" for entries 0 or 1.')
        self.kind = kind
        self.register_buffer("loc", torch.full(tuple(event_shape), 0.5 if kind == "bernoulli" else 0.0))
        self.register_buffer("scale", torch.ones(tuple(event_shape)))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, x: Tensor) -> None:
        """Takes the margins of data with shape :math:`(N, *event)`, NaN where not seen, the first time only.

        Raises:
            ValueError: The base is of binary entries, and some are neither 0 nor 1.
        """
        if self.fitted:
            return
        if self.kind == "bernoulli" and bool(((x != 0) & (x != 1) & ~x.isnan()).any()):
            raise ValueError('base="bernoulli" is for entries 0 or 1: binarize the data, or give base="normal".')
        with torch.no_grad():
            if self.kind == "bernoulli":
                self.loc.copy_((x.nansum(0) + 0.5) / ((~x.isnan()).sum(0) + 1))  # never 0 or 1
            else:
                mean = x.nanmean(0)
                variance = (x - mean).square().nanmean(0)
                self.loc.copy_(mean.nan_to_num())
                self.scale.copy_(torch.where(variance > 0, variance.sqrt(), 1.0))
            self.fitted.fill_(True)

    def law(self) -> Any:
        """The law of a datum, with the event shape :math:`event`."""
        entries = dist.Bernoulli(self.loc) if self.kind == "bernoulli" else dist.Normal(self.loc, self.scale)
        return entries.to_event(self.loc.dim())

    def centre(self, x: Tensor) -> Tensor:
        """Data as a network sees them, with the same shape."""
        return (x - self.loc) / self.scale
