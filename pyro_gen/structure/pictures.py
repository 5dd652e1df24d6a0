"""Pictures of structure, drawn by matplotlib without a screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["clusters_figure"]


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
    bars = figure.add_subplot(grid[:, 1])
    counts = range(1, max(numbers) + 2)
    bars.bar(list(counts), [numbers.get(k, 0.0) for k in counts], color="C0")
    bars.set(xlabel="number of clusters", ylabel="posterior probability", ylim=(0, 1), xticks=list(counts))
    bars.spines[["top", "right"]].set_visible(False)
    return figure
