r"""Glow: a flow of images, by convolutions that can be inverted, at several scales.

From an image x of C channels to noise, one *step* of flow is

.. math::
    \text{activation norm:}\quad & y_{cij} = (x_{cij} - m_c) / s_c \\
    \text{1 x 1 convolution:}\quad & z_{:ij} = W y_{:ij}, \qquad W = P \, L \, (U + \operatorname{diag} d) \\
    \text{affine coupling:}\quad & u_A = z_A, \qquad u_B = e^{-a(z_A)} \odot \big(z_B - m(z_A)\big)

with :math:`A, B` the halves of the channels and a, m a convolutional network. W is a rotation at first, written by its
LU decomposition with a fixed permutation P, so that :math:`\log |\det W| = \sum_c \log |d_c|` at each of the H W
places. The activation norm starts with the mean and the standard deviation of its channels (:meth:`Glow.initialise`).

One *scale* is a squeeze, which makes four channels of each 2 x 2 block, so many steps, and a split: half of the
channels are done, normal with mean and scale that a network tells from the other half, which goes on to the next scale.
Height and width that are not both even are not squeezed.

References:
    | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018)
    | https://arxiv.org/abs/1807.03039
    | Density Estimation Using Real NVP (Dinh et al., 2017), for the scales
    | https://arxiv.org/abs/1605.08803
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Bijection
from pyro_gen.models.flows.parts.convolutional import Coupling, Step
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["Glow"]


class _Scales(Bijection):
    """The bijection of images, from noise by scales."""

    def __init__(
        self, event_shape: torch.Size, scales: int, steps: int, hidden: int, features: int, dropout: float
    ) -> None:
        super().__init__()
        self.event_shape, self.features = event_shape, features
        shape: tuple[int, ...] = tuple(event_shape) if len(event_shape) == 3 else (1, *event_shape)
        self.shape, self.steps, self.splits = shape, nn.ModuleList(), nn.ModuleList()
        self.shapes: list[tuple[int, int, int]] = []
        self.squeezed: list[bool] = []
        for scale in range(scales):
            c, height, width = shape
            self.squeezed.append(height % 2 == 0 and width % 2 == 0)
            if self.squeezed[-1]:
                c, height, width = 4 * c, height // 2, width // 2
            if c < 2:
                raise ValueError(
                    f"Glow of images of shape {tuple(event_shape)}: scale {scale + 1} has one channel of {height} x "
                    f"{width}, which cannot be squeezed; give an even height and width, channels, or fewer scales."
                )
            self.shapes.append((c, height, width))
            self.steps.append(nn.ModuleList(Step(c, hidden, features, dropout) for _ in range(steps)))
            if scale < scales - 1:
                self.splits.append(Coupling(c - c // 2, c // 2, hidden, features, dropout))
                shape = (c - c // 2, height, width)

    def _encode(self, x: Tensor, h: Tensor | None, starting: bool = False) -> tuple[Tensor, Tensor]:
        """Flat rows of data (N, *) as noise (N, *), and the log-determinant."""
        x, done, log_det = x.reshape(-1, *self.shape), [], x.new_zeros(())
        for scale in range(len(self.shapes)):
            x = _squeeze(x) if self.squeezed[scale] else x
            steps: Any = self.steps[scale]
            for step in steps:
                if starting:
                    step.start(x)
                x, more = step.encode(x, h)
                log_det = log_det + more
            if scale < len(self.splits):
                x, b = x.split((x.shape[1] - x.shape[1] // 2, x.shape[1] // 2), 1)
                shift, log_scale = self.splits[scale](x, h)
                done.append(((b - shift) * (-log_scale).exp()).flatten(1))
                log_det = log_det - log_scale.sum((1, 2, 3))
        return torch.cat([*done, x.flatten(1)], 1), log_det

    def _decode(self, u: Tensor, h: Tensor | None) -> Tensor:
        sizes = [c // 2 * height * width for c, height, width in self.shapes[:-1]]
        done = u.flatten(1).split((*sizes, u[0].numel() - sum(sizes)), 1)
        x: Tensor = done[-1]
        for scale in reversed(range(len(self.shapes))):
            c, height, width = self.shapes[scale]
            if scale < len(self.splits):
                shift, log_scale = self.splits[scale](x, h)
                b = done[scale].reshape(-1, c // 2, height, width) * log_scale.exp() + shift
                x = torch.cat([x, b], 1)
            x = x.reshape(-1, c, height, width)
            steps: Any = self.steps[scale]
            for step in reversed(steps):
                x = step.decode(x, h)
            x = _unsqueeze(x) if self.squeezed[scale] else x
        return x

    def _rows(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        h = None if h is None else h.expand(*batch, -1).reshape(-1, h.shape[-1])
        return x.reshape(-1, *self.event_shape), h, batch

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, of_rows, _ = self._rows(u, h)
        x = self._decode(rows, of_rows).reshape(u.shape)
        return x, self.inverse(x, h)[1]

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, h, batch = self._rows(x, h)
        u, log_det = self._encode(rows, h)
        return u.reshape(x.shape), -log_det.expand(len(rows)).reshape(batch)

    def start(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._encode(x, h, starting=True)[0].reshape(x.shape)


def _squeeze(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, 4 C, H / 2, W / 2)."""
    n, c, height, width = x.shape
    x = x.reshape(n, c, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, 4 * c, height // 2, width // 2)


def _unsqueeze(x: Tensor) -> Tensor:
    n, c, height, width = x.shape
    x = x.reshape(n, c // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // 4, 2 * height, 2 * width)


@model(
    "Glow",
    paper="Kingma & Dhariwal (2018)",
    small={
        "two scales": lambda: (Glow((4, 4), 2, 2, 6), normal_rows(9, 4, 4)),
        "context": lambda: (Glow((2, 1, 1), 1, 2, 6, context=2), normal_rows(9, 2, 1, 1), normal_rows(9, 2)),
    },
)
class Glow(FlowProgram):
    r"""Creates a flow of images.

    Arguments:
        event_shape: The shape of one image, (H, W) or (C, H, W).
        scales: The number of scales.
        steps: The number of steps of flow at each.
        hidden: The channels of the hidden layers of the networks.
        context: The number of entries of what the density is conditional on.
        dropout: The share of hidden channels' entries dropped in training.
        marginals: What the layer next to the data gives each pixel, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: The shape is not one of an image, the image has too few pixels for so many scales, or sizes are
            out of range.

    Example:
        >>> Glow((8, 8), scales=2, steps=2).model(torch.full((5, 8, 8), torch.nan)).shape  # five draws
        torch.Size([5, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        scales: int = 2,
        steps: int = 4,
        hidden: int = 64,
        context: int = 0,
        dropout: float = 0.0,
        marginals: str = "normal",
    ) -> None:
        shape = event_of(self, event_shape)
        check_sizes(self, scales=scales, steps=steps, hidden=hidden)
        check_sizes(self, 0, context=context)
        if len(shape) not in (2, 3):
            raise ValueError(f"Glow: images have shape (H, W) or (C, H, W), not {tuple(shape)}.")
        super().__init__(shape, _Scales(shape, scales, steps, hidden, context, dropout), marginals)
