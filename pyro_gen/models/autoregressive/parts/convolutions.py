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
        return F.conv2d(F.pad(x, self.pad), self.weight * self.mask, self.bias)
