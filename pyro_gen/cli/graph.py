"""``pyro-gen structure graph``: which columns of a table depend on which, each edge with its probability."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_gen.cli.inputs import read_mixed
from pyro_gen.cli.options import DataRoot, Decimal, DropEmpty, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results

if TYPE_CHECKING:
    import pandas as pd


class Kind(StrEnum):
    """What kind of graph."""

    bayesian_network = "bayesian-network"
    gaussian = "gaussian"
    ising = "ising"


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set, or a file, as for fit; empty is not seen.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    kind: Annotated[
        Kind, typer.Option(help="Directed, of numbers and categories; or undirected, of numbers or of two values.")
    ] = Kind.bayesian_network,
    forbid: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="No edge from column A to B; again for more.")
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="An edge from column A to B; again for more.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="The column that names what was set by intervention in a row, empty if nothing.")
    ] = None,
    max_parents: Annotated[
        int | None, typer.Option(min=1, help="The most parents of a column in a Bayesian network, four by default.")
    ] = None,
    draws: Annotated[int, typer.Option(min=4, help="Graphs that each of four chains draws.")] = 500,
    out: Annotated[Path | None, typer.Option(help="A .csv file: pairs of columns by the probability of an edge.")] = (
        None
    ),
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: the graph and its probabilities.")] = (
        None
    ),
    report: Report = None,
    overwrite: Overwrite = False,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find which columns depend on which: the probability of each edge, and the graphs that are nearest to all."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)

    from pyro_gen.structure.graph import find_graph
    from pyro_gen.structure.report import graph_page

    name, table = read_mixed(data, part, data_root, drop_empty, decimal)
    table, acted = _without(table, targets)
    found = find_graph(
        table,
        kind=kind.value.replace("-", " "),
        forbidden=_pairs("--forbid", forbid),
        required=_pairs("--require", require),
        targets=acted,
        max_parents=max_parents,
        draws=draws,
        seed=seed,
    )
    results.write(found, found.table, lambda path: graph_page(found, path, data=name))
    figures: dict[str, Any] = {
        "data": name,
        "kind": kind.value,
        "edges": found.table().to_dict("records"),
        "expected_distance": found.expected_distance_,
        "expected_distance_of_best": found.expected_distance_of_best_,
        "log_evidence": found.log_evidence_,
        "r_hat": found.r_hat_,
        "seed": seed,
    }
    results.tell(figures, found.summary(), as_json)


def _pairs(option: str, given: list[str] | None) -> list[tuple[str, ...]]:
    pairs = [tuple(name.strip() for name in words.split(",")) for words in given or []]
    for pair, words in zip(pairs, given or [], strict=True):
        if len(pair) != 2:
            raise ValueError(f"{option} {words}: give two columns with a comma between them.")
    return pairs


def _without(table: "pd.DataFrame", targets: str | None) -> "tuple[pd.DataFrame, pd.Series[Any] | None]":
    """A table without the column that says what was set, and that column."""
    if targets is None:
        return table, None
    if targets not in table:
        raise ValueError(
            f"--targets {targets}: there is no such column, they are {', '.join(map(str, table.columns))}."
        )
    return table.drop(columns=targets), table[targets]
