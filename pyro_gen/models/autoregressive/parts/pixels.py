"""Images whose pixels follow each other in reading order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes
from pyro_gen.models.autoregressive.parts.entries import EntryProgram

__all__ = ["PixelOutput", "PixelProgram"]


class PixelProgram(EntryProgram):
    """A program of the pixels of an image of shape (H, W), whose network has masked convolutions.

    Arguments:
        event_shape: The shape of one image, :math:`(H, W)`.
        channels: The number of channels of the convolutions.
        kernel: Their height and width, an odd number.
        likelihood: The name of a likelihood head in :data:`pyro_gen.heads.HEADS`.
        context: The number C of features that the model is conditioned on.
        head_options: Passed to the likelihood head.

    Attributes:
        numbers: How many numbers the head is given of a pixel.

    Raises:
        ValueError: The data are no images, the kernel is even, sizes are out of range, or there is no such likelihood.
    """

    order: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int,
        kernel: int,
        likelihood: str,
        context: int = 0,
        **head_options: Any,
    ) -> None:
        super().__init__(event_shape, likelihood, context, **head_options)
        if len(self.event_shape) != 2 or kernel % 2 == 0:
            raise ValueError(
                f"{type(self).__name__}({tuple(self.event_shape)}, kernel={kernel}): give the height and width of an "
                "image, and an odd kernel."
            )
        check_sizes(self, channels=channels, kernel=kernel)
        self.numbers = self.likelihood.features.numel() // self.entries
        self.register_buffer("order", torch.arange(self.entries).unsqueeze(0), persistent=False)

    def images(self, values: Tensor) -> Tensor:
        """Values with shape (*, D) as the convolutions see them, (B, inputs, H, W)."""
        return self.encode(values).movedim(-1, -2).reshape(-1, self.inputs, *self.event_shape)


class PixelOutput(nn.Module):
    """What a head is given of each pixel, by two layers of single pixels.

    Arguments:
        channels: The number of channels of its input.
        numbers: The number of those that it gives.
        dropout: The share of input channels dropped in training.
    """

    def __init__(self, channels: int, numbers: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden, self.last = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, numbers, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Features of shape (B, channels, H, W) to (B, numbers, H, W)."""
        return self.last(self.hidden(self.dropout(h.relu())).relu())  # type: ignore[no-any-return]
