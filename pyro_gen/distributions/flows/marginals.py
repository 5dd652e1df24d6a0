r"""Each entry by itself made normal: the layer of a flow that is next to the data.

Entry :math:`x_d` with the distribution function :math:`F_d` becomes :math:`\Phi^{-1}(F_d(x_d))`, by a monotone spline
through the quantiles of the data at :math:`z = -2.5, -2.25, \dots, 2.5`; beyond these it goes on to the least and the
greatest number of all the data at :math:`z = \mp 4`, and then straight. A flow that starts with it starts as the
density of independent entries, whatever their shape: of levels with uniform noise, say.

References:
    | Gaussianization (Chen & Gopinath, 2000)
    | https://papers.nips.cc/paper/1856-gaussianization
"""

import torch
from torch import Tensor

from pyro_gen.distributions.flows.bijection import Bijection
from pyro_gen.distributions.monotone_spline import MonotoneSpline

__all__ = ["NormalMarginals"]

INNER = torch.arange(-2.5, 2.51, 0.25, dtype=torch.float64)  # z of the quantiles
END = 4.0  # z of the least and the greatest number
CLOSEST = 1e-4  # of two knots, as a share of the range of all numbers


class NormalMarginals(Bijection):
    """Makes each entry normal by a spline through its quantiles; not trained.

    Arguments:
        event_shape: The shape of one datum.

    Example:
        >>> x = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0)) ** 2
        >>> u = NormalMarginals((1,)).start(x)
        >>> abs(u.mean().item()) < 0.05, abs(u.std().item() - 1) < 0.05
        (True, True)
    """

    x: Tensor
    z: Tensor

    def __init__(self, event_shape: torch.Size | tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        z = torch.cat([torch.tensor([-END]), INNER.to(torch.get_default_dtype()), torch.tensor([END])])
        self.register_buffer("z", z.repeat(self.event_shape.numel(), 1))
        self.register_buffer("x", self.z.clone())

    def _spline(self) -> MonotoneSpline:
        return MonotoneSpline(self.x, self.z)

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._spline().inverse(u.flatten(u.dim() - len(self.event_shape)))
        log_slope = self._spline()(x)[1]
        return x.view_as(u), -log_slope.sum(-1)

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, log_slope = self._spline()(x.flatten(x.dim() - len(self.event_shape)))
        return u.view_as(x), -log_slope.sum(-1)

    def start(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        flat = x.flatten(1).double()
        probabilities = torch.special.ndtr(INNER).to(flat.device)
        inner = torch.quantile(flat, probabilities, dim=0).T  # (D, K)
        gap = CLOSEST * (flat.max() - flat.min()).clamp(min=CLOSEST)
        inner = inner + gap * torch.arange(inner.shape[1]).to(inner)  # where numbers are tied
        low = torch.minimum(flat.min(), inner[:, :1] - gap)
        high = torch.maximum(flat.max(), inner[:, -1:] + gap)
        self.x.copy_(torch.cat([low.expand(len(inner), 1), inner, high.expand(len(inner), 1)], 1))
        return self.inverse(x)[0]
