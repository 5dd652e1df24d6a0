"""``pyro-gen structure communities``: the groups of a network's nodes, with their uncertainty."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_gen.cli.inputs import read_data
from pyro_gen.cli.options import DataRoot, Decimal, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results

if TYPE_CHECKING:
    import pandas as pd


class Method(StrEnum):
    """How groups are found."""

    auto = "auto"
    merge_split = "merge-split"
    belief_propagation = "belief-propagation"


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file with an edge in each row, its ends in the first two columns; or with a matrix, nodes as first "
            "column and header; a matrix as .npy or .pt; or karate, davis, les_miserables. Empty is not observed.",
        ),
    ],
    weight: Annotated[str | None, typer.Option(help="The column with the number of edges of a row.")] = None,
    bipartite: Annotated[
        bool, typer.Option(help="Nodes are of two kinds: first and second ends, or rows and columns.")
    ] = False,
    method: Annotated[Method, typer.Option(help="merge-split is for hundreds of nodes, the other for more.")] = (
        Method.auto
    ),
    max_groups: Annotated[int, typer.Option(min=2, help="The most groups that are tried.")] = 12,
    draws: Annotated[int, typer.Option(min=4, help="Partitions that each chain draws.")] = 100,
    out: Annotated[Path | None, typer.Option(help="A .csv file: the group of each node, with probabilities.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: the network and its groups.")] = None,
    report: Report = None,
    overwrite: Overwrite = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find groups of nodes: how many there are, who is together, and which pairs not observed have an edge."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)
    name, given = _read(data, decimal, data_root)

    from pyro_gen.structure.communities import find_communities
    from pyro_gen.structure.report import communities_page

    found = find_communities(
        given,
        max_groups=max_groups,
        draws=draws,
        method=method.value,
        weight=weight,
        bipartite=bipartite,
        seed=seed,
    )
    results.write(found, found.table, lambda path: communities_page(found, path, data=name))
    figures: dict[str, Any] = {
        "data": name,
        "number_probabilities": found.number_probabilities_,
        "number": found.n_groups_,
        "sizes": [int((found.labels_ == k).sum()) for k in range(found.n_groups_)],
        "description_length": found.description_length_,
        "description_length_of_one_group": found.description_length_of_one_group_,
        "method": found.method_,
        "links": found.links_.to_dict("records"),
        "r_hat": found.r_hat_,
        "seed": seed,
    }
    results.tell(figures, found.summary(), as_json)


def _read(data: str, decimal: str | None, data_root: Path | None) -> tuple[str, Any]:
    """The name of the data, and a graph, an edge list or a matrix."""
    import networkx as nx
    import pandas as pd

    from pyro_gen.imputation.files import read_file

    if Path(data).suffix in (".gml", ".graphml"):
        reader = nx.read_gml if Path(data).suffix == ".gml" else nx.read_graphml
        try:
            return data, reader(data)
        except (nx.NetworkXError, OSError, SyntaxError, UnicodeDecodeError) as error:
            raise ValueError(f"{data}: not read as a graph ({str(error).splitlines()[0]}).") from error
    if Path(data).suffix in ("", ".pt", ".npy"):
        read = read_data(data, Part.train, data_root, False, decimal, to_train=False)
        x = read.x.double().numpy()
        matrix = x[0] if x.ndim == 3 and len(x) == 1 else x
        if matrix.ndim != 2:
            raise ValueError(f"{data}: a network is one matrix, and this has the shape {x.shape}.")
        if read.columns is None:
            return read.name, matrix
        rows = read.columns if len(matrix) == len(read.columns) else range(len(matrix))
        return read.name, pd.DataFrame(matrix, list(rows), list(read.columns))
    return data, _with_names(read_file(data, decimal=decimal).frame)


def _with_names(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A matrix whose first column names its rows, with these as its index; an edge list as it is."""
    first = frame.iloc[:, 0].astype(str)
    square = list(first) == [str(c) for c in frame.columns[1:]]
    if square or (
        frame.shape[1] > 3 and first.is_unique and frame.iloc[:, 1:].dtypes.map(lambda t: t.kind in "if").all()
    ):
        return frame.iloc[:, 1:].set_axis(first, axis=0).rename(columns=str)
    return frame
