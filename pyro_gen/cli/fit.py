"""``pyro-gen fit``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from pyro_gen import zoo
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import (
    check_context,
    read_context,
    read_data,
    stem_of,
    tensors_of,
    through,
    warn_of_scales,
)
from pyro_gen.cli.options import (
    TARGET,
    ContextFiles,
    DataRoot,
    Decimal,
    Device,
    DropEmpty,
    GuideName,
    Json,
    ObjectiveName,
    Overwrite,
    Part,
    Progress,
    Seed,
    check_device,
    needs_particles,
    program_options,
    takes_particles,
)
from pyro_gen.cli.outputs import check_distinct, check_output
from pyro_gen.data import DataSet
from pyro_gen.inference.guides import GUIDES, guide_of, with_guide
from pyro_gen.inference.objectives import Objective
from pyro_gen.inference.svi import fit as train
from pyro_gen.program import Program
from pyro_gen.registry import DATA_SETS, MODELS
from pyro_gen.saving import save_program
from pyro_gen.targets import build, file_and_name, make_transform
from pyro_gen.traces import structure


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET)],
    data: Annotated[
        str | None,
        typer.Option(help=f"A data set ({', '.join(DATA_SETS)}), or a .csv, .tsv, .parquet, .npy or .pt file."),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(help="What the data goes through first: standardize, binarize=8, ...; repeatable."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An argument of the program, latent=8 say; repeatable.")
    ] = None,
    context: ContextFiles = None,
    guide: Annotated[
        GuideName | None,
        typer.Option(help="A guide for global latent variables, in the place of the program's own."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file of the trained program; by default TARGET.pt.")] = None,
    overwrite: Overwrite = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes through the data (100, or the recipe's).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per step (128, or the recipe's).")] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate (0.001, or the recipe's).")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="The greatest norm of the gradient.")] = None,
    validation: Annotated[float | None, typer.Option(help="The share of the data to hold out.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better one.")] = None,
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(case_sensitive=False, help="What is maximised; by default the program's own objective."),
    ] = None,
    particles: Annotated[int | None, typer.Option(min=1, help="Draws per datum of the objective.")] = None,
    kl_warmup: Annotated[
        int | None, typer.Option(help="Epochs over which the weight of the KL term rises to 1 (0, or the recipe's).")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Written after each epoch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")] = False,
    device: Annotated[
        Device | None, typer.Option(help="By default the CPU; for an entry of the zoo a GPU if there is one.")
    ] = None,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Train a program and save it as one file, for sample and evaluate."""
    check_device(device)
    chosen = {
        **{"epochs": epochs, "batch_size": batch_size, "lr": lr, "schedule": schedule, "clip_norm": clip_norm},
        **{"patience": patience, "kl_warmup": kl_warmup, "checkpoint": checkpoint},
        **{"objective": _objective(objective, particles)},
    }
    arguments: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    arguments["resume"] = resume
    path = out or Path(f"{stem_of(target)}.pt")
    read_too = (data, file_and_name(target)[0], *(context or ()))
    check_output(path, "--out", inputs=read_too, overwrite=overwrite)
    check_output(checkpoint, "--checkpoint", overwrite=True)  # what is no checkpoint is refused by fit
    check_distinct({"--out": path, "--checkpoint": checkpoint})
    entry = zoo.load(target) if target in zoo.names() else None
    if entry is not None and (data or transform or options or context or guide or validation is not None):
        raise ValueError(
            f"{target} is an entry of the zoo, with data and program of its own: for other ones name its model, "
            f"{entry.model}, instead."
        )
    if entry is not None:
        prepared = zoo.prepare(entry, data_root)
        result = zoo.train(entry, prepared, seed=seed, device=device, progress=progress, **arguments)
        of_context: list[Any] = [(None, part.shape[1:]) for part in prepared.context]
        name, given, columns, source = entry.model, entry.options, prepared.columns, entry.data
        kept = prepared.transform
    else:
        _refuse_tabular(target, data)
        if data is None:
            raise ValueError(f"say what to train {target} on, by --data.")
        name, given = target, program_options(options or [])
        read = read_data(data, Part.train, data_root, drop_empty, decimal)
        parts = read_context(context, len(read.x), decimal)
        of_context = [(part.columns, part.x.shape[1:]) for part in parts]
        rows, held_rows = torch.arange(len(read.x)), None
        if validation is not None:
            rows, held_rows = DataSet(read.name, rows, rows[:0]).split(validation, seed)
        x = read.x[rows]
        kept = make_transform(transform or [], x, read.levels, read.columns)
        columns, source = read.columns, read.name
        program = build(name, x.shape[1:], given, seed=seed)
        check_context(program, target, len(parts))
        redraw = kept if kept is not None and kept.draws else None
        conditions = tensors_of(parts)

        def data_of(rows: Tensor) -> Any:
            seen = read.x[rows] if redraw is not None else through(kept, read.x[rows], seed)
            return (seen, *(c[rows] for c in conditions)) if conditions else seen

        if guide is not None:
            few = [c[rows[:2]] for c in conditions]
            program = _guided(program, target, str(guide), through(kept, x[:2], seed), few)
        held_out = None if held_rows is None else data_of(held_rows)
        arguments |= {"validation": held_out, "transform": redraw, "accelerator": device}
        warn_of_scales(through(kept, x, seed), columns)
        result = train(program, data_of(rows), seed=seed, progress=progress, **arguments)
    described: dict[str, Any] = {"options": given, "transform": kept, "columns": columns, "data": source}
    save_program(
        path, result.program, name, **described, context=of_context, guide=None if guide is None else str(guide)
    )
    last = result.history[-1]
    if as_json:
        print_json(
            {
                "weights": str(path.resolve()),
                "train_loss": last["train_loss"],
                "validation_loss": last.get("validation_loss"),
                "best_epoch": result.best_epoch,
                "unit": "nats per datum",
                "epochs": len(result.history),
                "steps": result.steps,
                "seconds": result.seconds,
                "mode": result.mode,
                "stopped": result.stopped,
                "seed": seed,
                "versions": zoo.versions(),
            }
        )
        return
    print(result)
    print(f"Saved: {path.resolve()}")


def _guided(program: Program, target: str, name: str, x: Tensor, context: Sequence[Tensor]) -> Program:
    """The program with a guide by name, where that guide can serve other rows than those of the training."""
    made = with_guide(program, GUIDES[name]()).initialise(x, *context)
    local = set(structure(made, x, *context).local)
    if mine := [site for site in guide_of(made).names if site in local]:
        raise ValueError(
            f"--guide {name}: '{mine[0]}' of {target} is a latent variable of each datum, for which such a guide has "
            "parameters row by row: write a guide that reads the data, in the program."
        )
    return with_guide(program, GUIDES[name]())


def _refuse_tabular(target: str, data: str | None) -> None:
    """Programs for tables with holes learn by their own samplers, not by fit."""
    if target in MODELS and MODELS[target].command == "impute":
        from pyro_gen.models.tabular import METHODS

        method = next(name for name, cls in METHODS.items() if cls is MODELS[target].cls)
        raise ValueError(
            f"{target} is not trained by fit: type pyro-gen impute {data or 'TABLE.csv'} --method {method}, which "
            "learns it and fills the holes of the table."
        )


def _objective(name: ObjectiveName | None, particles: int | None) -> Objective | None:
    if name is None:
        if particles is not None:
            raise ValueError(f"--particles {particles}: say of which objective, by --objective.")
        return None
    if particles is None and needs_particles(name):
        raise ValueError(f"--objective {name}: say how many draws per datum, by --particles.")
    if takes_particles(name):
        return zoo.make_objective({"name": str(name), "num_particles": particles or 1})
    if particles is not None:
        raise ValueError(f"--particles {particles}: {name} has no number of draws.")
    return zoo.make_objective({"name": str(name)})
