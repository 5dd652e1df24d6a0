r"""Shapes drawn by this program: binary images of which all factors of variation are known, each combination once.

A square, a disc or a cross of radius 2, 3 or 4, at one of 8 by 8 places of an image of 16 by 16 pixels: a small sister
of the sprites on which representations are judged by whether each of their dimensions is one factor.

References:
    | beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017), sprites
    | https://openreview.net/forum?id=Sy2fzU9gl
"""

import torch
from torch import Tensor

__all__ = ["FACTORS", "draw_shapes"]

#: The factors and the number of their values.
FACTORS = {"shape": 3, "size": 3, "row": 8, "column": 8}


def draw_shapes() -> tuple[Tensor, Tensor]:
    """Draws all images.

    Returns:
        The images, 0.0 or 1.0 with shape (576, 16, 16), and their factors, whole numbers from 0 with shape (576, 4).

    Example:
        >>> images, factors = draw_shapes()
        >>> factors[0].tolist(), images[0].sum().item()  # the smallest square: 5 by 5
        ([0, 0, 0, 0], 25.0)
    """
    factors = torch.cartesian_prod(*(torch.arange(n) for n in FACTORS.values()))  # (576, 4)
    shape, size, row, column = (f.view(-1, 1, 1) for f in factors.unbind(1))
    pixel = torch.arange(16)
    down, right = (pixel.view(1, -1, 1) - row - 4).abs(), (pixel.view(1, 1, -1) - column - 4).abs()
    radius = size + 2
    square = torch.maximum(down, right) <= radius
    disc = down**2 + right**2 <= radius**2 + 1
    cross = square & (torch.minimum(down, right) == 0)
    images = torch.where(shape == 0, square, torch.where(shape == 1, disc, cross))
    return images.to(torch.get_default_dtype()), factors
