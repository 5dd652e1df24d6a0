"""Pictures of structure, drawn by matplotlib without a screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_gen.structure.series import SeriesData

__all__ = ["clusters_figure", "communities_figure", "factors_figure", "regimes_figure"]

DRAWN_NODES, NAMED_NODES = 400, 80  # the most of a network whose nodes are drawn, and have their names
SHOWN = 4  # the first columns and series, of many


def clusters_figure(
    together: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], numbers: Mapping[int, float]
) -> "Figure":
    """The co-assignment matrix under its dendrogram, the clusters as a strip, and the posterior of their number.

    Arguments:
        together: Probabilities with shape (N, N).
        labels: The representative partition, with shape (N,).
        numbers: The posterior of the number of clusters.
    """
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    grid: Any = figure.add_gridspec(3, 2, width_ratios=[2, 1.1], height_ratios=[1, 0.12, 3.4])
    tree = linkage(squareform(1 - together, checks=False), "average")
    top, strip, matrix = (figure.add_subplot(grid[i, 0]) for i in range(3))
    order = dendrogram(tree, ax=top, no_labels=True, color_threshold=0, above_threshold_color="0.4")["leaves"]
    top.set_axis_off()
    top.set_title("Probability that two rows are together")
    strip.imshow(labels[order][None], aspect="auto", cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
    strip.set_axis_off()
    image = matrix.imshow(together[np.ix_(order, order)], vmin=0, vmax=1, cmap="Blues", aspect="auto")
    matrix.set_xlabel("rows, as in the tree")
    matrix.set_yticks([])
    matrix.set_xticks([])
    figure.colorbar(image, ax=matrix, location="left", shrink=0.8)
    _number_bars(figure.add_subplot(grid[:, 1]), numbers, "clusters")
    return figure


def communities_figure(graph: nx.Graph, numbers: Mapping[int, float]) -> "Figure":
    """A network with its groups, beside the posterior of their number; a large one by its adjacency matrix.

    Arguments:
        graph: Nodes have attributes ``group``, and ``probability``, which is how strong their colour is.
        numbers: The posterior of the number of groups.
    """
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    group = np.array([graph.nodes[v]["group"] for v in graph])
    sure = np.array([graph.nodes[v]["probability"] for v in graph])
    left.set_axis_off()
    if len(graph) > DRAWN_NODES:
        order = np.argsort(group, kind="stable")
        left.spy(nx.to_scipy_sparse_array(graph)[order][:, order], markersize=0.5, color="0.3")
        for end in np.cumsum(np.bincount(group))[:-1]:
            left.axhline(end - 0.5, color="C3", lw=0.8)
            left.axvline(end - 0.5, color="C3", lw=0.8)
        left.set_title("Edges, nodes ordered by group")
    else:
        place = nx.spring_layout(graph, seed=0, weight=None, k=2.2 / np.sqrt(len(graph)))
        at = np.array([place[v] for v in graph])
        degree = np.array([graph.degree[v] for v in graph])
        nx.draw_networkx_edges(graph, place, ax=left, edge_color="0.75", width=0.8)
        sizes = 60 + 25 * degree
        left.scatter(*at.T, s=sizes, color="white", zorder=2)
        left.scatter(
            *at.T, s=sizes, c=[f"C{k % 10}" for k in group], alpha=0.2 + 0.8 * sure, zorder=3, edgecolors="0.3"
        )
        if len(graph) <= NAMED_NODES:
            for v, (x, y) in zip(graph, at, strict=True):
                left.annotate(str(v), (x, y), ha="center", va="center", fontsize=7, zorder=4)
        left.set_title("Groups of nodes: strong colours are sure")
    _number_bars(right, numbers, "groups")
    return figure


def factors_figure(
    columns: list[str],
    loadings: npt.NDArray[np.float64],
    interval: npt.NDArray[np.float64],
    numbers: Mapping[int, float],
) -> "Figure":
    """Loadings with their intervals, a panel a factor, and the posterior of the number of factors.

    Arguments:
        columns: The names of D columns.
        loadings: Means with shape (D, K).
        interval: Lower and upper ends, with shape (2, D, K).
        numbers: The posterior of the number of factors.
    """
    from matplotlib.figure import Figure  # takes a second to import

    d, k = loadings.shape
    figure = Figure(figsize=(3.2 + 1.9 * k, 1.6 + 0.24 * d), layout="constrained")
    *panels, right = figure.subplots(1, k + 1, width_ratios=[1.0] * k + [1.3], squeeze=False)[0]
    places = np.arange(d)[::-1]
    for j, panel in enumerate(panels):
        mean = loadings[:, j]
        error = np.abs(interval[:, :, j] - mean)
        sure = (interval[0, :, j] > 0) | (interval[1, :, j] < 0)
        panel.axvline(0, color="0.8", lw=1)
        for which, color in ((sure, "C0"), (~sure, "0.65")):
            panel.errorbar(mean[which], places[which], xerr=error[:, which], fmt="o", ms=4, color=color, lw=1.2)
        panel.set(title=f"factor {j}", yticks=places, yticklabels=columns if j == 0 else [], ylim=(-0.7, d - 0.3))
        panel.set_xlabel("loading")
        panel.spines[["top", "right"]].set_visible(False)
    _number_bars(right, numbers, "factors")
    return figure


def _number_bars(axes: Any, numbers: Mapping[int, float], what: str) -> None:
    counts = range(min(1, *numbers), max(numbers) + 2)
    axes.bar(list(counts), [numbers.get(k, 0.0) for k in counts], color="C0")
    axes.set(xlabel=f"number of {what}", ylabel="posterior probability", ylim=(0, 1), xticks=list(counts))
    axes.spines[["top", "right"]].set_visible(False)


def regimes_figure(
    series: "SeriesData",
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64] | None,
    change: npt.NDArray[np.float64],
) -> "Figure":
    """Series with the means of their regimes, over the probabilities of states or of a change; the first four of many.

    Arguments:
        series: The S steps.
        labels: The regime of each, with shape (S,).
        probabilities: Of the states, with shape (S, K), or nothing for those of changes.
        change: The probability of a change before each step, with shape (S,).
    """
    from matplotlib.figure import Figure  # takes a second to import

    parts = [series.split(a) for a in (series.values, labels, change if probabilities is None else probabilities)]
    shown, columns = min(len(series.lengths), SHOWN), min(len(series.columns), SHOWN)
    figure = Figure(figsize=(8.5, shown * (1.3 + 1.7 * columns)), layout="constrained")
    ratios = [*([2.0] * columns), 1.0]
    rows = figure.subplots(shown * (columns + 1), 1, squeeze=False, height_ratios=ratios * shown)[:, 0]
    for i, (values, regime, p) in enumerate(zip(*(part[:shown] for part in parts), strict=True)):
        times: Any = series.times[i]
        times = times.to_timestamp() if hasattr(times, "to_timestamp") else times
        at = np.asarray(times) if times.dtype.kind in "iufM" else np.arange(len(times))
        *above, below = rows[i * (columns + 1) : (i + 1) * (columns + 1)]
        ends = np.flatnonzero(np.diff(regime)) + 1
        runs = list(zip([0, *ends], [*ends, len(regime)], strict=True))
        for d, axes in enumerate(above):
            axes.plot(at, values[:, d], color="0.6", marker=".", ms=3, lw=0.8)
            for s, t in runs:
                if not np.isnan(values[s:t, d]).all():
                    level = np.nanmean(values[regime == regime[s], d] if probabilities is not None else values[s:t, d])
                    axes.plot(at[[s, t - 1]], [level, level], color=f"C{regime[s] % 10}", lw=2.5)
            axes.set(ylabel=series.columns[d] if len(series.columns) > 1 else None, xlim=(at[0], at[-1]))
            axes.tick_params(labelbottom=False)
        if series.several:
            above[0].set_title(f"series {i}")
        if probabilities is None:
            below.vlines(at, 0, p, color="C3")
        else:
            below.stackplot(at, p.T, colors=[f"C{k % 10}" for k in range(p.shape[1])], labels=range(p.shape[1]))
        below.set(xlim=(at[0], at[-1]), ylim=(0, 1), ylabel="P(change)" if probabilities is None else "P(state)")
    return figure
