"""``pyro-gen compare``."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pyro_gen import zoo
from pyro_gen.cli.inputs import (
    Data,
    Opened,
    aligned,
    opened,
    read_context,
    read_data,
    read_posterior,
    stem_of,
    tensors_of,
    through,
)
from pyro_gen.cli.options import (
    TARGET,
    ContextFiles,
    DataRoot,
    Decimal,
    DropEmpty,
    Evidence,
    Json,
    Overwrite,
    Part,
    Progress,
    Seed,
    Trust,
)
from pyro_gen.cli.outputs import Results
from pyro_gen.targets import make_transform

DRAWS = (".nc", ".zarr")


def command(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]TARGET...",
            help=f"{TARGET} Or a file written by pyro-gen fit; or draws of pyro-gen posterior, .nc or .zarr.",
        ),
    ],
    data: Annotated[str, typer.Option(help="A data set (of which the training data is taken), or a file, as for fit.")],
    context: ContextFiles = None,
    posterior: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: draws of pyro-gen posterior for a target; others are drawn. Repeatable."),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Other data, that no model has seen: a file, or test, of a named data set.")
    ] = None,
    held_out_context: Annotated[
        list[str] | None, typer.Option(help="What the model conditions on with --held-out, as --context.")
    ] = None,
    method: Annotated[Evidence, typer.Option(help="How evidences are estimated.")] = "smc",
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit, for all that is not trained.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .csv file for the table.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file.")] = None,
    overwrite: Overwrite = False,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Compare models of the same data: evidence, leave-one-out and held-out density, stacking weights."""
    from pyro_gen.evaluation.comparison import compare

    results = Results(out, plot)
    results.check((data, held_out, *targets, *(context or ())), overwrite)
    named = _named(targets)
    draws = dict(_pair(word, "--posterior") for word in posterior or ())
    if unknown := [name for name in draws if name not in named]:
        raise ValueError(
            f"--posterior {unknown[0]}=...: there is no target of that name; there are {', '.join(named)}."
        )
    if held_out_context and held_out is None:
        raise ValueError("--held-out-context goes with --held-out, which is not given.")

    def read(to_train: bool) -> Data:
        return read_data(data, Part.train, data_root, drop_empty, decimal, to_train)

    entries: dict[str, Any] = {}
    whole: tuple[Any, ...] | None = None
    new: tuple[Any, ...] | None = None
    first = ""
    for name, target in named.items():
        if target.endswith(DRAWS):
            entries[name] = read_posterior(target)
            continue
        found = opened(target, read, context, decimal, transform, options, None, trust, seed)
        entries[name] = (found.program, read_posterior(draws[name])) if name in draws else found.program
        if whole is not None and not torch.equal(found.x.nan_to_num(), whole[0].nan_to_num()):
            raise ValueError(
                f"{name} and {first} are models of different data, by their transforms: densities on different scales "
                "do not compare."
            )
        if whole is None:
            first, whole = name, (found.x, *found.context)
            if held_out is not None:
                new = _held_out(held_out, found, held_out_context, transform, data_root, drop_empty, decimal, seed)
    if whole is None:
        found_data = read(True)
        whole = (through(None, found_data.x, seed), *tensors_of(read_context(context, len(found_data.x), decimal)))
        new = whole if held_out is not None else None  # draws alone say why they do not score it
    result = compare(entries, *whole, held_out=new, method=str(method), seed=seed, progress=progress)
    results.write(result, lambda: result.to_pandas().rename_axis("model").reset_index())
    figures = {"models": result.to_dict(), "seed": seed, "versions": zoo.versions()}
    results.tell(figures, str(result), as_json)


def _pair(word: str, option: str) -> tuple[str, str]:
    name, sign, rest = word.partition("=")
    if not sign or not name or not rest:
        raise ValueError(f"{option} {word}: give NAME=FILE.")
    return name, rest


def _named(targets: list[str]) -> dict[str, str]:
    """Targets by the names that they are given, or those of their files."""
    named: dict[str, str] = {}
    for word in targets:
        name, target = _pair(word, "") if "=" in word else (stem_of(word).removesuffix("_posterior.nc"), word)
        if name in named:
            raise ValueError(f"two targets are called {name}: name them, {name}=FILE and another=FILE.")
        named[name] = target
    return named


def _held_out(
    name: str,
    found: Opened,
    files: list[str] | None,
    transform: list[str] | None,
    data_root: Path | None,
    drop_empty: bool,
    decimal: str | None,
    seed: int,
) -> tuple[Any, ...]:
    """Other data as the programs see them, with what they condition on."""
    of_test = name == "test"
    part = Part.test if of_test else Part.train
    data = read_data(found.data.name if of_test else name, part, data_root, drop_empty, decimal, to_train=False)
    if found.saved is not None:
        data, applied = aligned(found.saved, data), found.saved.transform
    else:
        if data.columns != found.data.columns:
            raise ValueError(f"--held-out {data.name}: its columns are not those of {found.data.name}, in their order.")
        applied = make_transform(transform or [], found.data.x, found.data.levels, found.data.columns)
    parts = read_context(files, len(data.x), decimal, found.saved)
    return (through(applied, data.x, seed), *tensors_of(parts))
