"""``pyro-gen structure factors``: factors of the columns of a table, with their uncertainty."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_gen.cli.inputs import read_data
from pyro_gen.cli.options import DataRoot, Decimal, DropEmpty, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set, or a file, as for fit; empty is not seen.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    max_factors: Annotated[
        int | None, typer.Option(min=1, help="The most factors that are tried; 8, or as many as can be determined.")
    ] = None,
    draws: Annotated[int, typer.Option(min=4, help="Draws of loadings that each of four chains keeps.")] = 250,
    out: Annotated[Path | None, typer.Option(help="A .csv file: factors of each row, with deviations.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: loadings and number.")] = None,
    report: Report = None,
    overwrite: Overwrite = False,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find factors of columns: how many there are, and which columns load on each, each with its probability."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)
    read = read_data(data, part, data_root, drop_empty, decimal, to_train=False)

    import pandas as pd

    from pyro_gen.structure.factors import find_factors
    from pyro_gen.structure.report import factors_page

    values = read.x.flatten(1).double().numpy()
    table = pd.DataFrame(values, columns=list(read.columns or map(str, range(values.shape[1]))))
    found = find_factors(table, max_factors=max_factors, draws=draws, seed=seed)

    def scores() -> pd.DataFrame:
        names = list(found.get_feature_names_out())
        mean, deviation = found.scores(table)
        columns = {name: mean[:, k] for k, name in enumerate(names)}
        return pd.DataFrame(columns | {f"sd of {name}": deviation[:, k] for k, name in enumerate(names)})

    results.write(found, scores, lambda path: factors_page(found, table, path, data=read.name))
    figures: dict[str, Any] = {
        "data": read.name,
        "number_probabilities": found.number_probabilities_,
        "number_errors": found.number_errors_,
        "log_evidences": {k: e.mean() for k, e in found.evidences_.items()},
        "number": found.n_factors_,
        "loadings": found.table().to_dict("records"),
        "r_hat": found.r_hat_,
        "seed": seed,
    }
    results.tell(figures, found.summary(), as_json)
