"""Masked convolutions: what a place of an image is given comes from places before it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MaskedConv"]


class MaskedConv(nn.Module):
    """A convolution that sees, around each place, those before it.

    Arguments:
        before: The number of channels that it sees.
        after: The number that it gives.
        kernel: The height and width of what it would see without a mask, an odd number.
        sees: ``"above"`` for the rows above, ``"left"`` for what is left of the place in its row, ``"before"`` for
            both, the places before it in reading order.
        own: Whether it sees the place itself, too; of ``"above"`` its whole row.

    Example:
        >>> conv = MaskedConv(1, 1, 3, "left", own=False)
        >>> conv(torch.rand(2, 1, 4, 4)).shape
        torch.Size([2, 1, 4, 4])
    """

    mask: Tensor

    def __init__(self, before: int, after: int, kernel: int, sees: str, own: bool) -> None:
        super().__init__()
        r = kernel // 2
        mask = torch.zeros(kernel, kernel)
        if sees != "left":
            mask[: r + int(own and sees == "above")] = 1
        if sees != "above":
            mask[r, : r + int(own)] = 1
        # What it sees of the kernel lies in a box: the rest is not computed. A pad below zero cuts off.
        rows, columns = (mask.any(d).nonzero()[:, 0] for d in (1, 0))
        self.top, self.left = r - int(rows[0]), r - int(columns[0])
        self.pad = (self.left, int(columns[-1]) - r, self.top, int(rows[-1]) - r)
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self.register_buffer("mask", box, persistent=False)
        conv = nn.Conv2d(before, after, (box.shape[0], box.shape[1]))
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Any:
        """Images with shape (B, before, H, W) to (B, after, H, W)."""
        return self.of_window(F.pad(x, self.pad))

    def of_window(self, window: Tensor) -> Any:
        """The convolution where it lies inside of a window (B, before, *, *)."""
        return F.conv2d(window, self.weight * self.mask, self.bias)

    def room(self, rows: int, shape: Any) -> Tensor:
        """Zeros for so many images of a shape (H, W) that are not known yet, and what lies around them."""
        left, right, top, bottom = (max(0, p) for p in self.pad)
        size = (shape[0] + top + bottom, shape[1] + left + right)
        return self.weight.new_zeros(rows, self.weight.shape[1], *size)

    def put(self, room: Tensor, part: Tensor, i: int, j: int = 0) -> None:
        """Writes a part of images, with its upper left corner at (i, j), into what :meth:`room` gave."""
        i, j = i + self.top, j + self.left
        room[:, :, i : i + part.shape[2], j : j + part.shape[3]] = part

    def at_row(self, room: Tensor, i: int) -> Any:
        """What it gives in row i, with shape (B, after, 1, W)."""
        return self.of_window(room[:, :, i : i + self.weight.shape[2]])

    def at(self, room: Tensor, i: int, j: int) -> Any:
        """What it gives at one place, with shape (B, after, 1, 1)."""
        return self.of_window(room[:, :, i : i + self.weight.shape[2], j : j + self.weight.shape[3]])
