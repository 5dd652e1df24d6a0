"""A page that a person can read about the structure that was found."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from pyro_gen._files import MARK, write_text
from pyro_gen.imputation.report.pictures import picture
from pyro_gen.structure.clusters import Clusters
from pyro_gen.structure.factors import Factors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_gen.structure.communities import Communities
    from pyro_gen.structure.graph import Graph
    from pyro_gen.structure.regimes import Regimes

__all__ = ["clusters_page", "communities_page", "factors_page", "graph_page", "regimes_page", "write_page"]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{{ mark }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in lines %}<p>{{ line }}</p>
{% endfor %}{% for figure in figures %}<img alt="{{ figure[0] }}" src="data:image/svg+xml;base64,{{ figure[1].data }}">
{% endfor %}{% for caption, table in tables %}<h2>{{ caption }}</h2>
{{ table }}
{% endfor %}</body>
</html>
"""


def write_page(
    path: str | Path,
    title: str,
    lines: list[str],
    figures: list[tuple[str, "Figure"]],
    tables: list[tuple[str, pd.DataFrame]],
) -> None:
    """Writes a page: sentences, pictures and tables with what they show in words; all names are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    with pd.option_context("display.max_colwidth", None):  # else pandas cuts long cells
        html = [(caption, Markup(t.to_html(border=0, escape=True))) for caption, t in tables]
    drawn = [(what, picture(figure)) for what, figure in figures]
    page = environment.from_string(PAGE).render(mark=MARK, title=title, lines=lines, figures=drawn, tables=html)
    write_text(Path(path), page)


def clusters_page(found: Clusters, table: pd.DataFrame, path: str | Path, data: str = "the table") -> None:
    """Writes the page of clusters.

    Arguments:
        found: The fitted estimator.
        table: The rows that it was fitted to.
        path: The .html file.
        data: What the data are called.
    """
    doubtful = pd.DataFrame(
        {"cluster": found.labels_, "together with its cluster": found.membership()}, index=table.index
    )
    numbers = table.select_dtypes("number")
    means = numbers.groupby(found.labels_).mean().T.map("{:.4g}".format)
    for name in table.columns.difference(numbers.columns, sort=False):
        means.loc[name] = [_most_common(table[name][found.labels_ == k]) for k in range(found.n_clusters_)]
    means.columns = pd.Index([f"cluster {k}, {int((found.labels_ == k).sum())} rows" for k in range(found.n_clusters_)])
    write_page(
        path,
        f"Clusters of {data}",
        found.summary().splitlines(),
        [("Co-assignment probabilities under their dendrogram, and the number of clusters", found.plot())],
        [
            ("Means of the columns, the most common of categories", means),
            ("The ten rows that belong least surely", doubtful.sort_values(doubtful.columns[1]).head(10).round(2)),
        ],
    )


def communities_page(found: "Communities", path: str | Path, data: str = "the network") -> None:
    """Writes the page of communities.

    Arguments:
        found: The fitted estimator.
        path: The .html file.
        data: What the network is called.
    """
    nodes = found.table().set_index("node")
    of_own = pd.Series(found.group_probabilities_.max(1), nodes.index, name="probability of its group")
    members = {
        f"group {k}": {"nodes": int((found.labels_ == k).sum()), "names": ", ".join(map(str, names[:15]))}
        for k in range(found.n_groups_)
        for names in [list(nodes.index[found.labels_ == k])]
    }
    doubtful = pd.concat([nodes["group"], of_own], axis=1).sort_values("probability of its group").head(10).round(2)
    tables = [
        ("Groups, with up to fifteen of their nodes", pd.DataFrame(members).T),
        ("The ten nodes that belong least surely", doubtful),
    ]
    if len(found.links_):
        likely = found.links_.nlargest(15, "probability").round(3)
        tables.append(("Pairs not observed that most likely have an edge", likely.set_index("source")))
    write_page(
        path,
        f"Communities of {data}",
        found.summary().splitlines(),
        [("The network with its groups, and the posterior of their number", found.plot())],
        tables,
    )


def regimes_page(found: "Regimes", path: str | Path, data: str = "the series") -> None:
    """Writes the page of regimes.

    Arguments:
        found: The fitted estimator.
        path: The .html file.
        data: What the series are called.
    """
    tables = [("Regimes", found.regimes_.map(_short).T if found.kind == "states" else found.regimes_.map(_short))]
    if found.kind == "states":
        rows = {
            k: {
                "probability": f"{p:.3f}",
                "its standard error": f"{found.number_errors_[k]:.3f}",
                "log-evidence, nats": f"{found.log_evidences_[k][0]:.2f}",
                "standard error, nats": f"{found.log_evidences_[k][1]:.2f}",
            }
            for k, p in found.number_probabilities_.items()
        }
        tables.append(("Number of states", pd.DataFrame(rows).T.rename_axis("states")))
    steps = found.steps()
    likely = steps.nlargest(10, "probability of a change").map(_short)
    tables.append(("The ten steps that most likely have a change before them", likely))
    write_page(
        path,
        f"Regimes of {data}",
        found.summary().splitlines(),
        [("The series with the means of their regimes, over the probabilities of regimes or of changes", found.plot())],
        tables,
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def factors_page(found: Factors, table: pd.DataFrame, path: str | Path, data: str = "the table") -> None:
    """Writes the page of factors.

    Arguments:
        found: The fitted estimator.
        table: The rows that it was fitted to.
        path: The .html file.
        data: What the data are called.
    """
    names = list(found.get_feature_names_out())
    loadings = pd.DataFrame(index=table.columns)
    for k, name in enumerate(names):
        low, high = found.loadings_interval_[:, :, k]
        loadings[name] = [
            f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in zip(found.loadings_[:, k], low, high, strict=True)
        ]
    own = zip(found.uniquenesses_, *found.uniquenesses_interval_, strict=True)
    loadings["own variance"] = [f"{m:.2f} [{a:.2f}, {b:.2f}]" for m, a, b in own]
    evidences = pd.DataFrame(
        {
            "log-evidence, nats": {k: f"{e.mean():.2f}" for k, e in found.evidences_.items()},
            "error": {k: f"{e.mean_standard_error():.2f}" for k, e in found.evidences_.items()},
            "probability": {k: f"{p:.3f}" for k, p in found.number_probabilities_.items()},
        }
    )
    write_page(
        path,
        f"Factors of {data}",
        found.summary().splitlines(),
        [("Loadings with 90% intervals, and the number of factors", found.plot())],
        [("Loadings of standardised columns, with 90% intervals", loadings), ("Numbers of factors", evidences)],
    )


def graph_page(found: "Graph", path: str | Path, data: str = "the table") -> None:
    """Writes the page of a graph of columns.

    Arguments:
        found: The fitted estimator.
        path: The .html file.
        data: What the data are called.
    """
    edges = found.table()
    direction = ", from rows to columns" if found.draws_.directed else ""
    write_page(
        path,
        f"Graph of {data}",
        found.summary().splitlines(),
        [("The representative graph, edges as wide as they are probable, and all probabilities", found.plot())],
        [
            ("Pairs of columns by the probability of an edge", edges.map(_short)),
            (f"Probabilities of edges{direction}", found.probabilities_.map("{:.2f}".format)),
        ],
    )


def _most_common(column: "pd.Series[Any]") -> str:
    shares = column.value_counts(normalize=True)
    return f"{shares.index[0]} ({shares.iloc[0]:.0%})" if len(shares) else ""
