"""``pyro-gen zoo``: recipes, and the figures that they must reproduce."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from pyro_gen import zoo
from pyro_gen.cli.console import Shell, print_json
from pyro_gen.cli.options import DataRoot, Device, Json, Progress, Seed, check_device
from pyro_gen.cli.outputs import check_output

app = Shell(help="Programs with their recipes and the figures these must reproduce.", no_args_is_help=True)


Name = Annotated[str, typer.Argument(metavar="NAME", help="An entry, see pyro-gen zoo list.")]


@app.command("list")
def list_entries(as_json: Json = False) -> None:
    """List the entries, with the time they took where there is a stored result."""
    entries = [zoo.load(name) for name in zoo.names()]
    if as_json:
        print_json([_described(entry) for entry in entries])
        return
    name = Column("entry", no_wrap=True)  # what the other commands are to be given, whole
    table, results = Table(name, "what", "must reproduce", "takes"), zoo.stored()
    for e in entries:
        time = f"about {zoo.clock(60 * e.minutes)}{' on a GPU' if e.gpu else ''}"
        if e.name in results:
            time = f"{zoo.clock(results[e.name]['seconds'])} ({results[e.name]['device']})"
        table.add_row(e.name, e.title, f"{e.figure} ({e.figure.method})", time)
    Console().print(table)


def _described(entry: zoo.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "model": entry.model,
        "options": entry.options,
        "data": entry.data,
        "transform": list(entry.transform),
        "training": entry.training,
        "figure": str(entry.figure),
        "method": entry.figure.method,
        "source": entry.figure.source,
        "minutes": entry.minutes,
        "gpu": entry.gpu,
    }


@app.command("show")
def show_entry(name: Name, as_json: Json = False) -> None:
    """Show the recipe of an entry and its stored result."""
    entry, result = zoo.load(name), zoo.stored().get(name)
    if as_json:
        print_json(_described(entry) | {"result": result})
        return
    print(entry.text.strip())
    if result is not None:
        print(f"\n# stored result\n{json.dumps(result, indent=2)}")


@app.command("reproduce")
def reproduce_entry(
    name: Name,
    seed: Seed = 0,
    data_root: DataRoot = None,
    device: Annotated[Device | None, typer.Option(help="By default a GPU if there is one.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Written after each epoch; a run that finds it goes on from there.")
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the result for the tables of the documentation.")
    ] = False,
    progress: Progress = True,
    as_json: Json = False,
) -> int:
    """Train an entry, measure it, and say whether its figure holds (exit code 1 if not)."""
    check_output(checkpoint, "--checkpoint", overwrite=True)  # what is no checkpoint is refused by fit
    kept: dict[str, Any] = {} if checkpoint is None else {"checkpoint": checkpoint, "resume": True}
    check_device(device)
    found = zoo.reproduce(name, seed=seed, data_root=data_root, device=device, progress=progress, **kept)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found)
    if store:  # last: where it cannot be kept, the result of a long run has been printed
        print(f"stored in {zoo.store(found)}", file=sys.stderr)
    return 0 if found.holds else 1


@app.command("table")
def print_table(
    write: Annotated[
        list[Path] | None, typer.Option(help="A Markdown page to put the tables into, between their marks; repeatable.")
    ] = None,
) -> None:
    """Print the table of the stored results as Markdown."""
    if not write:
        print(zoo.table())
    for page in write or ():
        print(f"{page}: {'updated' if zoo.write_tables(page) else 'up to date'}")
