"""Pictures of images, tables and posteriors, drawn by matplotlib without a screen."""

import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_gen._files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "image_grid", "image_rows", "is_image", "posterior_pictures", "write"]

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


# ----------------------------------------------------------------------------------------------------------------------
# Posteriors

TRACED, PAIRED, LISTED = 6, 5, 40  # parameters in a picture of traces and ranks, of pairs, of intervals
CHAINS, DRAWS = 8, 2000  # chains whose traces can be told apart; points that do not hide each other


def posterior_pictures(idata: Any, folder: str | Path, seed: int = 0) -> list[Path]:
    """Draws a posterior by ArviZ: ``trace.png``, ``rank.png``, ``pair.png``, ``forest.png``.

    A picture has as many parameters as fit, the first ones; traces and ranks show eight chains that stand for all. What
    has log-weights is resampled first and has no chains to show, so there are intervals and pairs alone. One parameter
    has no pairs.

    Arguments:
        idata: As of :func:`pyro_gen.posterior`.
        folder: Where to write, made where it is not there.
        seed: Seeds which draws are shown as pairs.

    Returns:
        The files.
    """
    import arviz as az
    import matplotlib.pyplot as plt
    import xarray as xr

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    scalars = _scalars(idata, rng)
    chains, count = scalars.sizes["chain"], scalars.sizes["chain"] * scalars.sizes["draw"]
    weighted = "log_weight" in idata.sample_stats
    names = list(scalars)
    some = scalars[names[:TRACED]].isel(chain=np.linspace(0, chains - 1, min(chains, CHAINS)).astype(int))
    picked = rng.choice(count, min(count, DRAWS), replace=False)
    flat = {n: (("chain", "draw"), v.values.reshape(1, -1)[:, picked]) for n, v in scalars[names[:PAIRED]].items()}
    pairs: dict[str, Any] = {"posterior": xr.Dataset(flat)}
    diverging = None if weighted else idata.sample_stats.get("diverging")
    if diverging is not None and diverging.ndim == 2:
        values = diverging.transpose("chain", "draw").values.reshape(1, -1)[:, picked]
        pairs["sample_stats"] = xr.Dataset({"diverging": (("chain", "draw"), values)})
    height = 0.6 + 0.3 * min(len(names), LISTED)
    drawings: dict[str, Any] = {
        "forest": lambda: az.plot_forest(scalars[names[:LISTED]], combined=True, hdi_prob=0.9, figsize=(7, height)),
    }
    if len(names) > 1:
        drawings["pair"] = lambda: az.plot_pair(
            az.InferenceData(**pairs),
            divergences="sample_stats" in pairs,
            marginals=True,
            figsize=(9, 9),
            textsize=10,
            scatter_kwargs={"alpha": 0.3, "color": INK},
        )
    if not weighted:
        size = (10, 1.6 * len(some))
        drawings["trace"] = lambda: az.plot_trace(some, figsize=size)
        drawings["rank"] = lambda: az.plot_rank(some, figsize=(10, 1 + 2.8 * math.ceil(len(some) / 3)))
    written = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"arviz\.")  # of names in matplotlib that are going away
        for name, draw in drawings.items():
            draw()
            figure = plt.gcf()
            if name in ("trace", "rank"):
                figure.tight_layout()
            path = folder / f"{name}.png"
            written.append(save_figure(figure, path, dpi=110, bbox_inches="tight"))
            plt.close(figure)
    return written


def _scalars(idata: Any, rng: np.random.Generator) -> Any:
    """The parameters of a posterior as variables of their own, named as in its summary; no more than can be shown."""
    import xarray as xr

    out: dict[str, Any] = {}
    for name, variable in idata.posterior.items():
        values = variable.transpose("chain", "draw", ...)
        if "log_weight" in idata.sample_stats:
            values = _resampled(values, idata.sample_stats["log_weight"], rng)
        events = [values.coords[d].values if d in values.coords else range(values.sizes[d]) for d in values.dims[2:]]
        for at in itertools.product(*(range(len(labels)) for labels in events)):
            if len(out) == LISTED:
                break
            label = ", ".join(str(labels[i]) for labels, i in zip(events, at, strict=True))
            out[f"{name}[{label}]" if at else str(name)] = (("chain", "draw"), values.values[(..., *at)])
    return xr.Dataset(out)


def _resampled(values: Any, log_weights: Any, rng: np.random.Generator) -> Any:
    """Draws of equal weight, as one chain."""
    import xarray as xr

    joined = values.stack(all=("chain", "draw")).transpose("all", ...)
    weights = np.exp(log_weights.stack(all=("chain", "draw")).transpose("all", ...).values)
    index = np.stack(
        [rng.choice(len(w), DRAWS, p=w / w.sum()) for w in weights.reshape(len(weights), -1).T], 1
    ).reshape(DRAWS, *weights.shape[1:])
    if index.ndim == 1:
        picked = joined.values[index]
    else:  # a weight per datum
        axis = joined.dims.index("data")
        moved = np.moveaxis(joined.values, axis, 1)
        picked = np.moveaxis(moved[index, np.arange(index.shape[1])], 1, axis)
    coords = {d: values.coords[d].values for d in values.dims[2:] if d in values.coords}
    return xr.DataArray(picked[None], dims=("chain", "draw", *values.dims[2:]), coords=coords)


def write(figure: "Figure", path: str | Path) -> Path:
    """Writes a picture; the name's ending says the format."""
    return save_figure(figure, path, dpi=160)
