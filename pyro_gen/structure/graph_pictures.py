"""The picture of a graph of columns, drawn by matplotlib without a screen."""

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["graph_figure"]

SHOWN = 0.1  # the least probability of an edge that is drawn
NAMED = 40  # the most columns whose names stand beside the matrix
LONGEST = 14  # letters of a name


def graph_figure(
    names: list[str], probabilities: npt.NDArray[np.float64], pattern: npt.NDArray[np.bool_], directed: bool
) -> "Figure":
    """A graph whose edges are as wide as they are probable, beside the matrix of probabilities.

    Edges of the pattern are dark, with an arrow where they have one direction; others from .1 on grey and dashed.

    Arguments:
        names: Those of D columns.
        probabilities: Of edges, with shape (D, D).
        pattern: The representative graph, both ways where an edge has no direction, with shape (D, D).
        directed: Whether edges have directions.
    """
    from matplotlib.figure import Figure  # takes a second to import

    joined = np.minimum(probabilities + probabilities.T if directed else probabilities, 1.0)
    either = pattern | pattern.T
    short = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
    angle = np.empty(len(names))
    angle[_neighbours_together(joined)] = 2 * np.pi * np.arange(len(names)) / len(names)
    place = dict(enumerate(np.stack([np.sin(angle), np.cos(angle)], 1)))
    nodes = nx.DiGraph()
    nodes.add_nodes_from(place)
    for i, j in np.argwhere(np.triu(either | (joined >= SHOWN), 1)):
        both = not directed or pattern[i, j] == pattern[j, i]
        ends: tuple[Any, Any] = (i, j) if both or pattern[i, j] else (j, i)
        nx.draw_networkx_edges(
            nodes,
            place,
            [ends],
            ax=left,
            width=0.3 + 2.7 * joined[i, j],
            edge_color="0.25" if either[i, j] else "0.7",
            style="solid" if either[i, j] else "dashed",
            arrowstyle="-" if both else "-|>",
            arrowsize=14,
            node_size=220,
        )
    nx.draw_networkx_nodes(nodes, place, ax=left, node_size=160, node_color="C0", edgecolors="white")
    for name, (x, y) in zip(short, place.values(), strict=True):
        side = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
        left.text(1.09 * x, 1.09 * y, name, ha=side, va="center" if abs(y) < 0.95 else "bottom" if y > 0 else "top")
    left.set(xlim=(-1.75, 1.75), ylim=(-1.3, 1.3), aspect="equal")
    left.set_axis_off()
    left.set_title("Representative graph; dashed: other edges")
    image = right.imshow(probabilities, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    right.set_title("Probability of an edge" + (" from row to column" if directed else ""))
    if len(names) <= NAMED:
        right.set_xticks(range(len(names)), short, rotation=90, fontsize=8)
        right.set_yticks(range(len(names)), short, fontsize=8)
    figure.colorbar(image, ax=right, shrink=0.8)
    return figure


def _neighbours_together(joined: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """An order in which nodes stand near those that they are joined with: by the second vector of the Laplacian."""
    weights = joined + 1e-3  # one part
    np.fill_diagonal(weights, 0.0)
    return np.asarray(np.linalg.eigh(np.diag(weights.sum(0)) - weights)[1][:, 1].argsort(kind="stable"))
