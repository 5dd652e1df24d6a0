"""``pyro-gen structure factors``: factors of the columns of a table, with their uncertainty."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import read_data
from pyro_gen.cli.options import DataRoot, Decimal, DropEmpty, Json, Overwrite, Part, Seed
from pyro_gen.cli.outputs import check_results


def command(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set, or a file, as for fit; empty is not seen.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    max_factors: Annotated[
        int | None, typer.Option(min=1, help="The most factors that are tried; 8, or as many as can be determined.")
    ] = None,
    draws: Annotated[int, typer.Option(min=4, help="Draws of loadings that each of four chains keeps.")] = 250,
    out: Annotated[Path | None, typer.Option(help="A .csv file: factors of each row, with deviations.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: loadings and number.")] = None,
    report: Annotated[Path | None, typer.Option(help="An .html page: the answer in words, pictures, tables.")] = None,
    overwrite: Overwrite = False,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find factors of columns: how many there are, and which columns load on each, each with its probability."""
    check_results(data, out, plot, report, overwrite)
    read = read_data(data, part, data_root, drop_empty, decimal, to_train=False)

    import pandas as pd

    from pyro_gen.imputation.files import write_table
    from pyro_gen.pictures import write
    from pyro_gen.structure.factors import find_factors
    from pyro_gen.structure.report import factors_page

    values = read.x.flatten(1).double().numpy()
    table = pd.DataFrame(values, columns=list(read.columns or map(str, range(values.shape[1]))))
    found = find_factors(table, max_factors=max_factors, draws=draws, seed=seed)
    names = list(found.get_feature_names_out())
    if out is not None:
        mean, deviation = found.scores(table)
        scores = {name: mean[:, k] for k, name in enumerate(names)}
        write_table(pd.DataFrame(scores | {f"sd of {name}": deviation[:, k] for k, name in enumerate(names)}), out)
    if plot is not None:
        write(found.plot(), plot)
    if report is not None:
        factors_page(found, table, report, data=read.name)
    files: dict[str, Any] = {"out": out, "plot": plot, "report": report}
    if as_json:
        print_json(
            {
                "data": read.name,
                "number_probabilities": found.number_probabilities_,
                "number_errors": found.number_errors_,
                "log_evidences": {k: e.mean() for k, e in found.evidences_.items()},
                "number": found.n_factors_,
                "loadings": found.table().to_dict("records"),
                "r_hat": found.r_hat_,
                "seed": seed,
                **{name: str(path.resolve()) for name, path in files.items() if path is not None},
            }
        )
        return
    print(found.summary())
    for path in files.values():
        if path is not None:
            print(f"Saved: {path.resolve()}")
