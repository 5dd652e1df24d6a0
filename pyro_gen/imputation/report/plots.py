"""Pictures of what is missing and of what was imputed: observed in blue, imputed in red.

Each function takes arrays and returns a figure of matplotlib that belongs to no window. Figures are as wide as a phone
where their content lets them be.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "co_missingness",
    "density",
    "level_shares",
    "missing_map",
    "missing_patterns",
    "pit_histogram",
    "running_means",
]

OBSERVED, IMPUTED = "#2166ac", "#b2182b"
PALE_OBSERVED, PALE_IMPUTED = "#c6dbef", "#f4c3bd"
INK, TEXT, LINE, PAPER = "#1b1f24", "#3a4048", "#d5d9de", "#ffffff"
WIDTH = 3.5  # inches: 336 pixels, a phone's width less its margins

Array = npt.NDArray[Any]


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure((width, height), facecolor=PAPER, layout="constrained")
    axes: Any = figure.subplots()
    axes.tick_params(labelsize=8, colors=TEXT, length=3, color=LINE)
    for side, spine in axes.spines.items():
        spine.set(color=LINE, linewidth=0.8, visible=side in ("left", "bottom"))
    return figure, axes


def _short(text: object, length: int = 16) -> str:
    # A dollar sign would start a formula.
    shown = " ".join(level_name(text).split())
    if len(shown) > length:  # names of a table often differ at their ends
        shown = shown[: (length - 1) // 2] + "…" + shown[-(length // 2) :]
    return shown.replace("$", r"\$")


def level_name(level: object) -> str:
    """A level in words: 4 for 4.0, as which a column with holes has it."""
    return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)


# ----------------------------------------------------------------------------------------------------------------------
# What is missing


def missing_patterns(missing: Array, names: Sequence[object], *, most: int = 12) -> "Figure":
    """Draws which columns are missing together: a row for each of the most frequent patterns.

    Arguments:
        missing: Where nothing was observed, with shape (N, D); only columns with a hole are worth showing.
        names: The D columns.
        most: The greatest number of patterns.

    Example:
        >>> import numpy as np
        >>> figure = missing_patterns(np.array([[True, False], [False, False], [False, False]]), ["a", "b"])
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['2 rows (67%)', '1 row (33%)']
    """
    from matplotlib.colors import ListedColormap

    counts = pattern_counts(missing)[:most]
    grid = np.array([pattern for pattern, _ in counts])
    width = max(2.6, 0.3 * len(names)) + 1.1
    figure, axes = _figure(width, 0.9 + 0.26 * len(counts))
    axes.pcolormesh(grid, cmap=ListedColormap([PALE_OBSERVED, IMPUTED]), vmin=0, vmax=1, edgecolors=PAPER, linewidth=2)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.yaxis.tick_right()
    axes.set_xticks(np.arange(len(names)) + 0.5, [_short(name) for name in names], rotation=60, ha="left")
    shares = [f"{count / len(missing):.0%}" for _, count in counts]
    rows = [
        f"{count:,} row{'' if count == 1 else 's'} ({'<1%' if share == '0%' else share})"
        for (_, count), share in zip(counts, shares, strict=True)
    ]
    axes.set_yticks(np.arange(len(counts)) + 0.5, rows)
    _bare(axes)
    return figure


def pattern_counts(missing: Array) -> list[tuple[tuple[bool, ...], int]]:
    """The patterns of holes in rows, (N, D), and how many rows have each, from the most frequent on."""
    packed = np.packbits(missing, axis=1)
    found = Counter(map(bytes, packed))
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    unpacked = np.unpackbits(np.array([list(key) for key, _ in ordered], dtype=np.uint8), axis=1)
    patterns = unpacked[:, : missing.shape[1]].astype(bool)
    return [(tuple(pattern.tolist()), count) for pattern, (_, count) in zip(patterns, ordered, strict=True)]


def missing_map(missing: Array, names: Sequence[object], *, most: int = 200) -> "Figure":
    """Draws where in the table the holes are: rows downwards in the order of the table, columns to the right.

    Arguments:
        missing: Where nothing was observed, with shape (N, D).
        names: The D columns.
        most: Rows are averaged over neighbours to no more than so many.
    """
    from matplotlib.colors import LinearSegmentedColormap

    edges = np.linspace(0, len(missing), min(most, len(missing)) + 1).round().astype(int)
    shares = np.add.reduceat(missing, edges[:-1], axis=0, dtype=float) / np.diff(edges)[:, None]
    figure, axes = _figure(max(2.6, 0.3 * len(names)) + 0.9, 3.6)
    colours = LinearSegmentedColormap.from_list("holes", [PALE_OBSERVED, IMPUTED])
    # An image is stored as pixels, where a mesh would be as many rectangles as the table has cells.
    axes.imshow(
        shares, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=_extent(missing.shape)
    )
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(names)) + 0.5, [_short(name) for name in names], rotation=60, ha="left")
    axes.set_ylabel("row", fontsize=8, color=TEXT)
    axes.yaxis.set_major_locator(_whole_numbers())
    _bare(axes)
    return figure


def _extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    return (0.0, float(shape[1]), float(shape[0]), 0.0)


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=True)


def co_missingness(missing: Array, names: Sequence[object]) -> "Figure":
    """Draws how often the column on the left is missing where the one above is.

    Arguments:
        missing: Where nothing was observed, with shape (N, D); each column has a hole.
        names: The D columns.
    """
    from matplotlib.colors import LinearSegmentedColormap

    shares = together(missing)
    size = max(2.2, (0.32 if len(names) <= 15 else 0.22) * len(names))
    figure, axes = _figure(size + 1.3, size + 0.9)
    colours = LinearSegmentedColormap.from_list("holes", [PAPER, IMPUTED])
    axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors=LINE, linewidth=0.5)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    centres = np.arange(len(names)) + 0.5
    axes.set_xticks(centres, [_short(name) for name in names], rotation=60, ha="left")
    axes.set_yticks(centres, [_short(name) for name in names])
    if len(names) <= 15:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                colour = PAPER if share > 0.55 else TEXT
                axes.text(j + 0.5, i + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    _bare(axes)
    return figure


def together(missing: Array) -> npt.NDArray[np.float64]:
    """The share of rows where column i is missing among those where column j is, with shape (D, D)."""
    holes = missing.astype(np.float64)
    return np.asarray((holes.T @ holes) / np.maximum(holes.sum(0), 1.0))


def _bare(axes: Any) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


# ----------------------------------------------------------------------------------------------------------------------
# What was imputed


def density(
    observed: Array, imputed: Array, *, integer: bool = False, positive: bool = False, label: object = ""
) -> "Figure":
    """Draws the distribution of a numeric column: observed entries as bars, imputed ones as a line.

    The line is the mean over draws of the share in each bin, whiskers hold 95% of the draws. Bins, not kernels, so that
    nothing is shown beyond a bound and heaps stay heaps.

    Arguments:
        observed: The observed entries, with shape (n).
        imputed: The draws of the missing ones, with shape (m, k).
        integer: Bins hold whole numbers. Where none is negative, they span more than three orders of magnitude and half
            of them are in the first twentieth, the axis is linear to 1 and logarithmic from there.
        positive: The axis is logarithmic where the entries span more than three orders of magnitude.
        label: Stands below the axis.
    """
    edges = _edges(observed, imputed, integer, positive)
    figure, axes = _figure(WIDTH, 2.1)
    shares = np.stack([_share(draw, edges) for draw in imputed])
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    axes.stairs(_share(observed, edges), edges, fill=True, color=PALE_OBSERVED)
    axes.stairs(_share(observed, edges), edges, color=OBSERVED, linewidth=1.2, label="observed")
    wide, long = positive and _is_wide(observed), integer and _is_long(observed)
    moved = 1.5 if long else 0.0
    centres = (edges[:-1] + edges[1:]) / 2
    if wide or long:
        centres = np.sqrt((edges[:-1] + moved) * (edges[1:] + moved)) - moved
    axes.vlines(centres, low, high, color=IMPUTED, linewidth=1, alpha=0.6)
    axes.stairs(shares.mean(0), edges, color=IMPUTED, linewidth=1.6, label="imputed")
    if wide:
        axes.set_xscale("log")
    if long:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(_plain_number())
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(_short(label, 40), fontsize=8, color=TEXT)
    return figure


def _is_wide(observed: Array) -> bool:
    return bool(observed.min() > 0 and observed.max() > 1000 * observed.min())


def _is_long(observed: Array) -> bool:
    most, least = observed.max(), observed.min()
    return bool(least >= 0 and most > 1000 * (least + 1) and most > 20 * (np.median(observed) + 1))


def _plain_number() -> Any:
    from matplotlib.ticker import StrMethodFormatter

    return StrMethodFormatter("{x:,.0f}")


def _edges(observed: Array, imputed: Array, integer: bool, positive: bool) -> Array:
    """The edges of bins for the observed entries and all but the most extreme imputed ones."""
    tails = np.quantile(imputed, [0.005, 0.995])
    low, high = min(observed.min(), tails[0]), max(observed.max(), tails[1])
    if positive and _is_wide(observed):
        return np.geomspace(max(low, observed.min() / 10), high, int(np.clip(2 * len(observed) ** (1 / 3), 8, 30)) + 1)
    if integer and _is_long(observed):
        bins = int(np.clip(2 * len(observed) ** (1 / 3), 8, 30))
        return np.unique(np.geomspace(max(low, 0.0) + 1, np.ceil(high) + 2, bins + 1).round()) - 1.5
    spread = float(np.subtract(*np.quantile(observed, [0.75, 0.25])))
    width = 2 * spread / len(observed) ** (1 / 3)  # Freedman and Diaconis
    count = int(np.clip(np.ceil((high - low) / width), 8, 40)) if width > 0 else 20
    if integer:
        step = max(1, int(np.ceil((np.ceil(high) - np.floor(low)) / 40 if high - low <= 40 else (high - low) / count)))
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + step, step)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, count + 1)


def _share(values: Array, edges: Array) -> Array:
    """The share of all values that lies in each bin."""
    return np.histogram(values, edges)[0] / len(values)


def level_shares(observed: Array, imputed: Array, levels: Sequence[object], *, most: int = 12) -> "Figure":
    """Draws the shares of the levels of a column: of the observed entries, and of the imputed ones with 95% of draws.

    Arguments:
        observed: The codes of the observed entries, with shape (n).
        imputed: Those of the missing ones, with shape (m, k).
        levels: The L levels.
        most: The greatest number of levels; the rarest are left out.
    """
    seen = np.bincount(observed.astype(int), minlength=len(levels)) / len(observed)
    drawn = np.stack([np.bincount(draw.astype(int), minlength=len(levels)) / len(draw) for draw in imputed])
    shown = np.arange(len(levels))
    if len(levels) > most:
        shown = np.sort(np.argsort(-(seen + drawn.mean(0)), kind="stable")[:most])
    seen, drawn = seen[shown], drawn[:, shown]
    centre = drawn.mean(0)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    figure, axes = _figure(WIDTH, 0.55 + 0.36 * len(shown))
    at = np.arange(len(shown))
    axes.barh(at - 0.19, seen, 0.36, color=PALE_OBSERVED, edgecolor=OBSERVED, linewidth=1.2, label="observed")
    axes.barh(at + 0.19, centre, 0.36, color=PALE_IMPUTED, edgecolor=IMPUTED, linewidth=1.2, label="imputed")
    # Of a few draws the mean may lie outside of the quantiles.
    reach = np.maximum(np.stack([centre - low, high - centre]), 0.0)
    axes.errorbar(centre, at + 0.19, xerr=reach, fmt="none", ecolor=INK, elinewidth=1)
    axes.set_yticks(at, [_short(levels[int(i)], 14) for i in shown])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(_percent())
    axes.set_xlim(0)
    return figure


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=0)


def pit_histogram(values: Array, *, bins: int = 10) -> "Figure":
    """Draws where hidden observed entries fell in their predictive distributions: flat if these are calibrated.

    Arguments:
        values: Probability integral transforms in [0, 1], with shape (n).
        bins: The number of bins; the band holds 95% of what chance gives each.
    """
    from scipy.stats import binom

    figure, axes = _figure(WIDTH, 1.7)
    edges = np.linspace(0, 1, bins + 1)
    low, high = binom.ppf([0.025, 0.975], len(values), 1 / bins) / len(values)
    axes.stairs(_share(values, edges), edges, fill=True, color=PALE_IMPUTED)
    axes.stairs(_share(values, edges), edges, color=IMPUTED, linewidth=1.2)
    axes.axhspan(low, high, color=INK, alpha=0.1, linewidth=0)
    axes.axhline(1 / bins, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


def running_means(means: Array) -> "Figure":
    """Draws the mean of an estimate over the first draws, with twice its simulation error on both sides.

    Arguments:
        means: The estimate in each draw, with shape (m).
    """
    count = np.arange(1, len(means) + 1)
    running = np.cumsum(means) / count
    error = 2 * means.std(ddof=1) / np.sqrt(count)
    figure, axes = _figure(WIDTH, 1.7)
    axes.fill_between(count, running - error, running + error, color=PALE_IMPUTED, linewidth=0)
    axes.plot(count, running, color=IMPUTED, linewidth=1.6)
    axes.set_xlim(1, len(means))
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.set_xlabel("draws", fontsize=8, color=TEXT)
    return figure
