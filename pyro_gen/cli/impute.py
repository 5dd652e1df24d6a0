"""``pyro-gen impute``."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyro_gen import zoo
from pyro_gen._errors import Words, meant
from pyro_gen.cli.console import print_json
from pyro_gen.cli.errors import in_options
from pyro_gen.cli.inputs import listed
from pyro_gen.cli.options import Decimal, Json, Overwrite, Progress, Seed, Single
from pyro_gen.cli.outputs import check_distinct, check_output
from pyro_gen.cli.workers import dask_client
from pyro_gen.data.column import DISCRETE, KINDS, Column

if TYPE_CHECKING:
    import pandas as pd

    from pyro_gen.imputation.imputer import Imputer

# What this command says of arguments of the readers of tables and of Schema.infer.
WORDS: Words = {
    "ignore": lambda names: f" ({' '.join(f'--ignore {shlex.quote(name)}' for name in names)})",
    "overrides": lambda kinds: " ".join(f"--type {shlex.quote(f'{name}={kind}')}" for name, kind in kinds.items()),
    "schema": lambda columns: f"Say it in a file for --schema: {json.dumps(columns)}",
}


def command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A table with holes: a .csv, .tsv or .parquet file; or a folder of .parquet files."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet or .csv file, by default DATA_imputed.parquet: the completed tables one below the other, "
            "with their number in the column .imp and that of the row in .id. For a folder a folder, which goes on "
            "with what it lacks if it was begun before."
        ),
    ] = None,
    overwrite: Overwrite = False,
    draws: Annotated[int, typer.Option(min=1, help="How many completed tables.")] = 20,
    single: Annotated[
        Single | None, typer.Option(help="Write one table in their place: to look at, not to analyse.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="A .html page on what was missing and imputed. Learns again, to see whether to trust it."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto weighs all programs that suit the columns; or the name of one, or several: a,b.")
    ] = "auto",
    kinds: Annotated[
        list[str] | None,
        typer.Option("--type", help="What a column is, where the guess is wrong: age=count; repeatable."),
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="A .json file: kinds by column, or the schema that --json prints.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="A column (names, dates) to hand on, as the last, neither used nor imputed; repeatable."),
    ] = None,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out columns without any observed value.")
    ] = False,
    time_limit: Annotated[float | None, typer.Option(help="Seconds to learn for at most, about.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text file: cp1250, say; by default guessed.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of columns in a text file; by default guessed.")] = None,
    decimal: Decimal = None,
    marks: Annotated[
        list[str] | None, typer.Option("--missing", help="What stands for missing: -999, unknown; repeatable.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that impute the files of a folder; more than one need Dask.")
    ] = 1,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Fill the holes of a table many times, by draws that differ as much as there is doubt: multiple imputation."""
    from pyro_gen.imputation import files
    from pyro_gen.imputation.imputer import Imputer
    from pyro_gen.imputation.report import over_impute
    from pyro_gen.imputation.report import report as write_report

    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"--time-limit {time_limit:g}: give a positive number of seconds.")
    methods, overrides = _methods(method), _kinds(kinds or [], schema)
    if not data.exists():
        raise ValueError(f"{data}: no such file or folder.")
    if data.is_dir():
        for option, given in {
            "--single": single,
            "--report": report,
            "--drop-empty": drop_empty,
            "--encoding": encoding,
            "--separator": separator,
            "--decimal": decimal,
            "--missing": marks,
        }.items():
            if given:
                raise ValueError(f"{option}: is for a file, and {data} is a folder; leave it out.")
        imputer = Imputer(
            methods, draws=draws, schema=overrides, random_state=seed, time_limit=time_limit, progress=progress
        )
        folder = out or Path(f"{data.resolve().name}_imputed")
        _impute_folder(data, folder, imputer, ignore or [], workers, progress, as_json)
        return
    if workers > 1:
        raise ValueError(f"--workers {workers}: is for a folder of files, and {data} is none; leave it out.")
    path = out or Path(f"{data.stem}_imputed.parquet")
    for file, option, endings in ((path, "--out", (".parquet", ".csv")), (report, "--report", (".html",))):
        if file is not None and file.suffix not in endings:
            raise ValueError(f"{option} {file}: the name of this file ends in {' or '.join(endings)}.")
        check_output(
            file, option, inputs=(data, schema), overwrite=overwrite, named=file is not path or out is not None
        )
    check_distinct({"--out": path, "--report": report})
    numeric = [
        name for name, kind in overrides.items() if (kind if isinstance(kind, str) else kind.kind) not in DISCRETE
    ]
    how: dict[str, Any] = {"encoding": encoding, "separator": separator, "decimal": decimal, "missing": marks or []}
    table = files.read_file(data, numbers=numeric, **how)
    frame = table.frame
    aside = list(dict.fromkeys(ignore or []))
    _check_columns("--ignore", aside, frame)
    _check_columns("--type" if schema is None else "--type or --schema", overrides, frame)
    with in_options(WORDS, f"{data}: "):
        used, known = files.usable(table, overrides, ignore=aside, drop_empty=drop_empty)
    missing, written = used.isna().to_numpy(), files.as_written(table)
    if table.cells is not None:  # dates that are handed on stay as they are
        frame = frame.assign(**{c: table.cells[c].where(frame[c].notna()) for c in aside if c in table.dates})
    for note in table.notes:
        print(f"note: {note}", file=sys.stderr)
    dropped = [name for name in frame.columns if name not in used.columns and name not in aside]
    if dropped:
        print(f"note: left out, without any observed value: {listed(dropped)}.", file=sys.stderr)
    told: dict[str, Any] = {
        "imputed": str(path.resolve()),
        "report": None,
        "rows": len(used),
        "columns": used.shape[1],
        "missing": int(missing.sum()),
        "dropped": dropped,
        "ignored": aside,
        "notes": list(table.notes),
        "seed": seed,
        "versions": zoo.versions(),
    }
    if known is None:
        kept = frame.drop(columns=dropped)
        files.write_table(written(kept) if path.suffix == ".csv" else kept, path)
        if as_json:
            print_json(told | {"draws": 0})
            return
        print(f"No value is missing: nothing to do. Saved as it was: {path.resolve()}")
        return
    # With a report it learns twice.
    limits = (time_limit, None) if report is None or time_limit is None else (0.6 * time_limit, 0.4 * time_limit)
    imputer = Imputer(methods, draws=draws, schema=known, random_state=seed, time_limit=limits[0], progress=progress)
    imputer.fit(used)
    with _busy("drawing and writing", progress):
        completed = imputer.impute(used)
        # The rows of each table are those of the file.
        whole = completed.derive(**{name: lambda _, name=name: frame[name] for name in aside})
        if single is not None:
            one = getattr(whole, single.value)()
            files.write_table(written(one) if path.suffix == ".csv" else one, path)
        elif path.suffix == ".csv":
            whole.to_csv(path, written=written)
        else:
            whole.to_parquet(path)
    if report is not None:
        found = over_impute(imputer.set_params(time_limit=limits[1]), used, seed=seed)
        completed.info = {**completed.info, "calibration": found}
        if not found:
            why = "no cell of a column of numbers or ordered levels was hidden"
            print(f"note: {why}: the report does not say how far to trust the draws.", file=sys.stderr)
        page = write_report(completed, report, title=f"Imputation of {data.name}", progress=progress)
        told["report"] = str(page)
    info = completed.info
    if as_json:
        scores = {name: score for name, score in info["scores"].items()}
        coverage = {name: found["coverage95"] for name, found in info.get("calibration", {}).items()}
        told |= {
            "draws": draws,
            "single": single and single.value,
            "method": info["method"],
            "weights": info["weights"],
        }
        told |= {"scores": scores, "coverage95": coverage, "seconds": info["seconds"], "warnings": info["warnings"]}
        print_json(told | {"schema": known.to_dict()})
        return
    _print_imputation(told, info, draws)


def _impute_folder(
    data: Path, out: Path, imputer: "Imputer", ignore: Sequence[str], workers: int, progress: bool, as_json: bool
) -> None:
    from pyro_gen.imputation.partitions import impute_partitions, imputer_of

    with dask_client(workers) if workers > 1 else nullcontext() as client, in_options(WORDS):
        written = impute_partitions(data, out, imputer, ignore=ignore, client=client, progress=progress)
    info: Mapping[str, Any] = imputer_of(out).info_
    if as_json:
        told = {"imputed": [str(path.resolve()) for path in written], "draws": imputer.draws}
        print_json(told | {key: info[key] for key in ("method", "weights", "seconds", "warnings", "seed", "versions")})
        return
    for text in info["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"{len(written)} file{'' if len(written) == 1 else 's'} imputed, {imputer.draws} times each.")
    print(f"Saved: {out.resolve()}")


def _methods(text: str) -> str | list[str]:
    from pyro_gen.models.tabular import METHODS

    names = [name.strip() for name in text.split(",")]
    if names == ["auto"]:
        return "auto"
    if unknown := [name for name in names if name not in METHODS]:
        close = meant(unknown[0], METHODS)
        raise ValueError(f"--method {unknown[0]}{close}: give auto, or some of {', '.join(METHODS)}, joined by commas.")
    return names[0] if len(names) == 1 else names


def _kinds(pairs: Sequence[str], schema: Path | None) -> dict[str, str | Column]:
    """What columns are, from a file and from options, which go first."""
    found: dict[str, str | Column] = {} if schema is None else _read_schema(schema)
    for pair in pairs:
        name, sign, kind = pair.rpartition("=")
        if not sign or not name:
            raise ValueError(f"--type {pair}: give a column and its kind as column=kind.")
        if kind not in KINDS:
            raise ValueError(f"--type {pair}: the kinds are {', '.join(KINDS)}.")
        found[name] = kind
    return found


def _read_schema(path: Path) -> dict[str, str | Column]:
    if not path.is_file():
        raise ValueError(f"--schema {path}: no such file.")
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(given, dict) and isinstance(given.get("columns"), list):  # a schema as --json prints it
            given = {column["name"]: column for column in given["columns"]}
        return {
            name: kind if isinstance(kind, str) else Column(**{"name": name, **kind}) for name, kind in given.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        own = isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)
        reason = str(error).rstrip(".") if own else f"not a schema ({error})"
        raise ValueError(
            f'--schema {path}: {reason}. Give kinds by column: {{"age": "count", "share": {{"kind": "bounded", '
            '"lower": 0, "upper": 1}, "grade": {"kind": "ordinal", "levels": ["low", "high"]}}.'
        ) from error


def _check_columns(option: str, names: Iterable[str], frame: "pd.DataFrame") -> None:
    for name in names:
        if name not in frame.columns:
            raise ValueError(
                f"{option} {name}: the table has no such column; its columns are {listed(list(frame.columns))}."
            )


@contextmanager
def _busy(text: str, show: bool) -> Iterator[None]:
    """Shows on standard error that something is done whose length is not known."""
    if not show:
        yield
        return
    with Console(stderr=True).status(text):
        yield


def _print_imputation(told: dict[str, Any], info: Mapping[str, Any], draws: int) -> None:
    cells = told["rows"] * told["columns"]
    print(
        f"{told['missing']:,} of {cells:,} cells ({told['missing'] / cells:.1%}) imputed, {draws} "
        f"time{'' if draws == 1 else 's'}; learning took {zoo.clock(info['seconds'])}."
    )
    if info["scores"]:
        table = Table("program", box=box.SIMPLE_HEAD, pad_edge=False)
        for head in ("weight", "nats per hidden cell"):
            table.add_column(head, justify="right", no_wrap=True)
        for name, score in sorted(info["scores"].items(), key=lambda item: -item[1]):
            table.add_row(Text(name), f"{info['weights'].get(name, 0.0):.2f}", f"{score:.3f}")
        Console().print(table)
    for text in info["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"Saved: {told['imputed']}")
    if told["report"] is not None:
        print(f"Report: {told['report']}")
