"""``pyro-gen structure regimes``: the regimes of series, with their uncertainty."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_gen.cli.errors import in_options
from pyro_gen.cli.inputs import WORDS, listed, read_data
from pyro_gen.cli.options import DataRoot, Decimal, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results

if TYPE_CHECKING:
    import pandas as pd

    from pyro_gen.structure.regimes import Regimes


class Kind(StrEnum):
    """Of regimes."""

    states = "states"
    changes = "changes"


class Emission(StrEnum):
    """What states emit."""

    normal = "normal"
    student_t = "student-t"
    poisson = "poisson"
    categorical = "categorical"


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file with a row for each step and a column for each variable, an array of steps, (T, D), or of "
            "series, (N, T, D), or a data set whose data are series; empty is not seen.",
        ),
    ],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    kind: Annotated[Kind, typer.Option(help="States, which come back, or changes, between which none does.")] = (
        Kind.states
    ),
    emission: Annotated[Emission, typer.Option(help="Of states: student-t bears outliers, poisson is of counts.")] = (
        Emission.normal
    ),
    index: Annotated[str | None, typer.Option(help="The column of times; by default the one of dates.")] = None,
    series: Annotated[str | None, typer.Option(help="A column that says which series a row is of.")] = None,
    max_states: Annotated[int, typer.Option(min=1, help="The most states that are tried.")] = 6,
    probability: Annotated[float, typer.Option(help="Of changes: the prior probability of one at a step.")] = 0.02,
    draws: Annotated[int, typer.Option(min=4, help="What each of four chains draws.")] = 100,
    out: Annotated[Path | None, typer.Option(help="A .csv file: the regime of each step, with probabilities.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: regimes over the series.")] = None,
    report: Report = None,
    overwrite: Overwrite = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the regimes of series: how many there are, and which one each step is in, with their probabilities."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)
    name, given = _read(data, part, data_root, decimal, index, series)

    from pyro_gen.structure.regimes import find_regimes
    from pyro_gen.structure.report import regimes_page

    found = find_regimes(
        given if len(given) > 1 else given[0],
        "states" if kind is Kind.states else "change points",
        emission=emission.value.replace("-", "_"),
        max_states=max_states,
        probability=probability,
        draws=draws,
        seed=seed,
    )
    results.write(found, found.steps, lambda path: regimes_page(found, path, data=name))
    results.tell({"data": name, **_figures(found), "seed": seed}, found.summary(), as_json)


def _figures(found: "Regimes") -> dict[str, Any]:
    regimes = found.regimes_.reset_index()
    words = {c: str for c in ("from", "to") if c in regimes}
    figures: dict[str, Any] = {
        "kind": found.kind,
        "number": found.n_regimes_,
        "number_probabilities": found.number_probabilities_,
        "log_evidence": found.log_evidence_,
        "regimes": regimes.astype(words).to_dict("records"),
        "r_hat": found.r_hat_,
    }
    if found.kind == "states":
        figures["number_errors"] = found.number_errors_
        figures["log_evidences"] = {k: v for k, (v, _) in found.log_evidences_.items()}
    return figures


def _read(
    data: str, part: Part, data_root: Path | None, decimal: str | None, index: str | None, series: str | None
) -> tuple[str, list["pd.DataFrame"]]:
    """The name of the data, and a frame for each series."""
    import pandas as pd

    from pyro_gen.imputation.files import read_file

    if Path(data).suffix in ("", ".pt", ".npy"):
        if index is not None or series is not None:
            raise ValueError("--index and --series name columns, which a data set or an array has not: leave them out.")
        read = read_data(data, part, data_root, False, decimal, to_train=False)
        x = read.x.double().numpy()
        if Path(data).suffix and x.ndim < 3:
            x = x[None]  # steps of one series
        return read.name, [pd.DataFrame(one.reshape(len(one), -1)) for one in x]
    table = read_file(data, decimal=decimal)
    frame = table.frame
    if unknown := [c for c in (index, series) if c is not None and c not in frame]:
        raise ValueError(f"{data}: there is no column {unknown[0]!r}, the columns are {listed(list(frame.columns))}.")
    if index is None:
        dates = [str(c) for c in frame if frame[c].dtype.kind == "M" and c != series]
        index = dates[0] if len(dates) == 1 else None
    for column in frame.columns.difference([c for c in (index, series) if c is not None]):
        if column in table.problems:
            with in_options(WORDS, f"{data}: "):
                raise table.problems[column]
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise ValueError(
                f"{data}: column {column!r} holds no numbers: leave it out, or name it by --index if it is the time, "
                "by --series if it says which series a row is of."
            )
    if index is not None:
        frame = frame.set_index(index)
    if series is None:
        return data, [frame]
    return data, [one.drop(columns=series) for _, one in frame.groupby(series, sort=False)]
