"""A picture and a page of topics."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyro_gen.structure.report import write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_gen.structure.topics import Topics

__all__ = ["topics_figure", "topics_page"]


def topics_figure(topics: Sequence[tuple[float, pd.DataFrame]]) -> "Figure":
    """The first words of topics with their probabilities and intervals, a panel a topic.

    Arguments:
        topics: Of each topic its prevalence, and a table of words with ``probability``, ``low`` and ``high``.
    """
    from matplotlib.figure import Figure  # takes a second to import

    columns = min(len(topics), 4)
    rows = -(-len(topics) // columns)
    words = max(len(table) for _, table in topics)
    figure = Figure(figsize=(2.8 * columns, (0.8 + 0.2 * words) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(topics) :]:
        axes.set_axis_off()
    for k, (axes, (prevalence, table)) in enumerate(zip(panels, topics, strict=False)):
        at = np.arange(len(table))
        error = np.abs(table[["low", "high"]].to_numpy().T - table["probability"].to_numpy())
        axes.barh(at, table["probability"], xerr=error, color="C0", alpha=0.7, ecolor="0.3")
        axes.set_yticks(at, [word.replace("$", r"\$") for word in table["word"]], fontsize=8)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_title(f"topic {k}: {prevalence:.1%} of tokens", fontsize=9)
        axes.tick_params("x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("probability of the word, with 90% intervals", fontsize=9)
    return figure


def topics_page(found: "Topics", path: str | Path, data: str = "the documents") -> None:
    """Writes the page of topics.

    Arguments:
        found: The fitted estimator.
        path: The .html file.
        data: What the documents are called.
    """
    topics = found.table()
    topics["prevalence"] = topics["prevalence"].map("{:.1%}".format)
    main = found.shares_.argmax(1)
    at = np.arange(len(main))
    low, high = found.share_intervals_[:, at, main]
    typical = pd.DataFrame(
        {"topic": main, "share": found.shares_[at, main], "low": low, "high": high}, index=list(found.documents_)
    )
    typical = typical.sort_values("share", ascending=False).groupby("topic").head(2).sort_values("topic", kind="stable")
    tables = [
        ("Topics, the most frequent first", topics.round(2)),
        ("The documents that are most of each topic, with 90% intervals of its share", typical.round(2)),
    ]
    if found.n_topics is None:
        chances = found.number_probabilities_
        tried = {"perplexity": found.perplexities_, "best in bootstrap samples": chances}
        tables.append(("Numbers of topics that were tried", pd.DataFrame(tried).round(2)))
    lines = [
        *found.summary().splitlines(),
        "NPMI lies between -1 and 1: how often the ten first words of a topic are in the same documents, against "
        "chance; UMass, in nats, is the higher the more often they meet. Stability is how alike a topic is in all "
        "chains, 1 at most.",
    ]
    write_page(path, f"Topics of {data}", lines, [("Words of the most frequent topics", found.plot())], tables)
