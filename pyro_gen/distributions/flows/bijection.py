r"""Bijections of noise and data, and the densities that they give: what all normalizing flows are made of.

A bijection :math:`T` maps standard normal noise :math:`u` to :math:`x = T(u)`, given a context :math:`h`. Then

.. math::
    \log p(x \mid h) = \log \mathcal{N}\big(T^{-1}(x); 0, I\big)
        - \log \left| \det \frac{\partial T}{\partial u} \right|_{u = T^{-1}(x)} .

One that is cheap from noise to data (inverse autoregressive) draws fast and knows the density of its draws, which is
what a guide needs. Its :class:`Inverse` is cheap from data to noise (masked autoregressive), which is what density
estimation needs. Both are the same map, read from either end.

References:
    | Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021)
    | https://jmlr.org/papers/v22/19-1028.html
"""

import itertools
import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._internals import version_of

__all__ = ["Bijection", "Chain", "FlowDistribution", "Inverse", "Rescaling"]


class Bijection(nn.Module):
    """A bijection from noise to data, given a context; subclasses write :meth:`forward` and :meth:`inverse`.

    Attributes:
        event_shape: The shape of one datum, which is that of its noise.
        features: The size of the context, 0 for none.
    """

    event_shape: torch.Size
    features: int = 0

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Maps noise to data.

        Arguments:
            u: Noise, with shape :math:`(*, event)`.
            h: Context, with shape :math:`(*, F)`.

        Returns:
            :math:`T(u)` with shape :math:`(*, event)`, and :math:`\log |\det \partial T / \partial u|` with shape
            :math:`(*)`.
        """
        raise NotImplementedError

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Maps data to noise; the log-determinant is that of the forward map there, :math:`\log |\det \partial T|`."""
        raise NotImplementedError

    def start(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """Sets what depends on data, from complete rows x of shape (N, *event), and returns their noise."""
        return self.inverse(x, h)[0]


class Chain(Bijection):
    """Several bijections, one after the other from noise to data.

    Arguments:
        parts: The bijections, that next to the noise first.

    Raises:
        ValueError: There is none, or their events differ in size.
    """

    def __init__(self, *parts: Bijection) -> None:
        super().__init__()
        if not parts or len({p.event_shape.numel() for p in parts}) > 1:
            raise ValueError(
                f"Chain of bijections of events {[tuple(p.event_shape) for p in parts]}: give at least one, all with "
                "the same number of entries."
            )
        self.parts = nn.ModuleList(parts)
        self.event_shape, self.features = parts[-1].event_shape, max(p.features for p in parts)

    def _path(self, back: bool = False) -> list[Bijection]:
        parts: list[Any] = list(self.parts)
        return parts[::-1] if back else parts

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, log_det = _batch(u, self.event_shape), u.new_zeros(())
        for part in self._path():
            u, more = part(u.reshape(*batch, *part.event_shape), h)
            batch, log_det = _batch(u, part.event_shape), log_det + more
        return u, log_det

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, log_det = _batch(x, self.event_shape), x.new_zeros(())
        for part in self._path(back=True):
            x, more = part.inverse(x.reshape(*batch, *part.event_shape), h)
            batch, log_det = _batch(x, part.event_shape), log_det + more
        return x.reshape(*batch, *self.event_shape), log_det

    def start(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        for part in self._path(back=True):
            x = part.start(x.reshape(-1, *part.event_shape), h)
        return x.reshape(-1, *self.event_shape)


class Inverse(Bijection):
    """A bijection read from the other end: noise is what was data.

    Arguments:
        inner: The bijection.

    Example:
        >>> from pyro_gen.distributions.flows import Transport
        >>> maf = Inverse(Transport(3, kind="affine"))  # one pass from data to noise
        >>> FlowDistribution(maf, None, torch.Size([5])).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner
        self.event_shape, self.features = inner.event_shape, inner.features

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.inner.inverse(u, h)
        return x, -log_det

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, log_det = self.inner(x, h)
        return u, -log_det


class Rescaling(Bijection):
    r"""Gives noise the mean and the standard deviation of each entry of the data; not trained.

    Arguments:
        event_shape: The shape of one datum.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, event_shape: torch.Size | tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.register_buffer("loc", torch.zeros(self.event_shape))
        self.register_buffer("scale", torch.ones(self.event_shape))

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.loc + self.scale * u, self.scale.log().sum()

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.loc) / self.scale, self.scale.log().sum()

    def start(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        deviation = x.std(0, correction=0)
        self.loc.copy_(x.mean(0))
        self.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        return self.inverse(x)[0]


class FlowDistribution(TorchDistribution):
    """The distribution of T(u) for standard normal u, given a context.

    The log-density of its own last draw is known from the drawing. It is kept with the draw, and forgotten when a
    parameter or a buffer has changed since.

    Arguments:
        transport: The bijection T.
        h: The context, with shape :math:`(*B, F)`, or ``None``.
        batch_shape: The batch shape B.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # torch's name and type
    has_rsample = True

    def __init__(self, transport: Bijection, h: Tensor | None, batch_shape: torch.Size) -> None:
        self.transport, self.h = transport, h
        self._drawn: tuple[Tensor, Tensor, tuple[int, ...]] | None = None
        super().__init__(batch_shape, transport.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        events = len(self.event_shape)
        return constraints.real_vector if events == 1 else constraints.independent(constraints.real, events)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        h = None if self.h is None else self.h.expand(*batch_shape, self.h.shape[-1])
        return FlowDistribution(self.transport, h, torch.Size(batch_shape))

    def _versions(self) -> tuple[int, ...]:
        return tuple(map(version_of, itertools.chain(self.transport.parameters(), self.transport.buffers())))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        like = next(itertools.chain(self.transport.parameters(), self.transport.buffers()))
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        u = torch.randn(shape, dtype=like.dtype, device=like.device)
        z, log_det = self.transport(u, self.h)
        self._drawn = (z, self._of_noise(u) - log_det, self._versions())
        return z  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is not None and value is self._drawn[0] and self._versions() == self._drawn[2]:
            return self._drawn[1]
        u, log_det = self.transport.inverse(value, self.h)
        return self._of_noise(u) - log_det

    def _of_noise(self, u: Tensor) -> Tensor:
        each = -0.5 * (u.square() + math.log(2 * math.pi))
        return each.sum(tuple(range(-len(self.event_shape), 0)))


def _batch(x: Tensor, event_shape: torch.Size) -> torch.Size:
    return x.shape[: x.dim() - len(event_shape)]
