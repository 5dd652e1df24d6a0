"""Pictures of images and tables, drawn by matplotlib without a screen."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "image_grid", "image_rows", "is_image", "write"]

INK, DRAWN, PAPER, TEXT = "#1b1f24", "#b3421f", "#ffffff", "#3a4048"


class Row(NamedTuple):
    """A row of images with its label.

    Attributes:
        label: Stands left of the row.
        images: Grey values from 0 (paper) to 1 (ink), with shape (N, H, W); NaN is shown as a hole.
        drawn: Where a pixel was drawn by the program given the others, with the shape of ``images``: in another ink.
        gap: Space above the row, in heights of an image.
    """

    label: str
    images: Tensor
    drawn: Tensor | None = None
    gap: float = 0.22


def is_image(shape: Sequence[int]) -> bool:
    """Whether data of this shape is shown as images: (H, W) or (1, H, W)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)


def image_rows(rows: Sequence[Row], title: str = "", note: str = "") -> "Figure":
    """Draws rows of images of the same size, each with a label.

    Arguments:
        rows: The rows.
        title: Stands above.
        note: Stands below, small.
    """
    from matplotlib.figure import Figure  # takes a second to import

    columns = max(len(row.images) for row in rows)
    left = 1.62 if any(row.label for row in rows) else 0.15  # inches, as the others
    size, head, foot = 0.56, 0.5 if title else 0.1, 0.38 if note else 0.1
    height = head + foot + sum(size * (1.08 + row.gap) for row in rows)
    # Wide enough for the text, of which a letter takes 0.75 of its size (in points, 1/72 inch) or less.
    text = 0.75 * max(12 * len(title), 8 * len(note)) / 72
    width = max(left + size * 1.08 * columns, 0.15 + text) + 0.15
    figure = Figure((width, height), facecolor=PAPER)
    if title:
        figure.text(0.15 / width, 1 - 0.26 / height, title, color=INK, fontsize=12, weight="bold", va="center")
    if note:
        figure.text(0.15 / width, 0.2 / height, note, color=TEXT, fontsize=8, va="center")
    y = height - head
    for row in rows:
        y -= size * (1.08 + row.gap)
        label_at = (left - 0.14) / width, (y + size / 2) / height
        figure.text(*label_at, row.label, color=TEXT, fontsize=9, ha="right", va="center", linespacing=1.25)
        for i, picture in enumerate(_coloured(row)):
            box = ((left + i * size * 1.08) / width, y / height, size / width, size / height)
            axes: Any = figure.add_axes(box)
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="#d5d9de", linewidth=0.6)
    return figure


def _coloured(row: Row) -> np.ndarray[Any, Any]:
    """Images (N, H, W) as colours (N, H, W, 3)."""
    ink = torch.tensor([_rgb(INK)]).expand(*row.images.shape, 3)
    if row.drawn is not None:
        ink = torch.where(row.drawn.unsqueeze(-1), torch.tensor(_rgb(DRAWN)), ink)
    strength = row.images.detach().cpu().float().unsqueeze(-1)
    paper = torch.tensor(_rgb(PAPER))
    colours = paper + strength.nan_to_num(0.0).clamp(0, 1) * (ink - paper)
    hole = torch.tensor(_rgb("#e9ecef"))
    return torch.where(strength.isnan(), hole, colours).numpy()


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def image_grid(images: Tensor, title: str = "") -> "Figure":
    """Draws images with shape (N, H, W) or (N, 1, H, W) in rows of up to 12, on a common grey scale from 0 up."""
    images = images.reshape(len(images), *images.shape[-2:])
    scaled = images / images.nan_to_num(0.0).max().clamp(min=1e-12)
    return image_rows([Row("", part, gap=0.0) for part in scaled.split(12)], title)


def write(figure: "Figure", path: str | Path) -> Path:
    """Writes a picture; the name's ending says the format."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    return path.resolve()
