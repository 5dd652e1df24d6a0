"""``pyro-gen structure``: the structure of a table, with its uncertainty."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_gen.cli import communities, factors, graph, regimes, topics
from pyro_gen.cli.console import Shell
from pyro_gen.cli.inputs import read_mixed
from pyro_gen.cli.options import DataRoot, Decimal, DropEmpty, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results

app = Shell(
    help="Find structure in data: clusters, factors, graphs of columns, regimes of series, topics of documents, "
    "communities of networks.",
    no_args_is_help=True,
)


app.command("communities")(communities.command)
app.command("factors")(factors.command)
app.command("graph")(graph.command)
app.command("regimes")(regimes.command)
app.command("topics")(topics.command)


@app.command("clusters")
def clusters(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set, or a file, as for fit; empty is not seen.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    max_clusters: Annotated[int, typer.Option(min=1, help="The most clusters that are tried.")] = 10,
    draws: Annotated[int, typer.Option(min=4, help="Partitions that each of four chains draws.")] = 100,
    out: Annotated[Path | None, typer.Option(help="A .csv file: the cluster of each row, with probabilities.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: co-assignment and number.")] = None,
    report: Report = None,
    overwrite: Overwrite = False,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find clusters of rows: how many there are, and who is together, each with its probability."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)

    import pandas as pd

    from pyro_gen.structure.clusters import find_clusters
    from pyro_gen.structure.report import clusters_page

    name, table = read_mixed(data, part, data_root, drop_empty, decimal)
    found = find_clusters(table, max_clusters=max_clusters, draws=draws, seed=seed)

    def labels() -> pd.DataFrame:
        probabilities = {f"probability {k}": p for k, p in enumerate(found.predict_proba(table).T)}
        return pd.DataFrame({"cluster": found.labels_, **probabilities})

    results.write(found, labels, lambda path: clusters_page(found, table, path, data=name))
    figures: dict[str, Any] = {
        "data": name,
        "number_probabilities": found.number_probabilities_,
        "number": found.n_clusters_,
        "sizes": [int((found.labels_ == k).sum()) for k in range(found.n_clusters_)],
        "prior_sensitivity": found.prior_sensitivity_,
        "expected_loss": found.expected_loss_,
        "r_hat": found.r_hat_,
        "seed": seed,
    }
    results.tell(figures, found.summary(), as_json)
