"""``pyro-gen predict``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from pyro_gen._files import atomic
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import (
    aligned,
    check_context,
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
    Decimal,
    Json,
    Moved,
    Overwrite,
    Part,
    Progress,
    Seed,
    Trust,
    program_options,
)
from pyro_gen.cli.outputs import check_output
from pyro_gen.inference.progress import progress_bar
from pyro_gen.saving import load_program
from pyro_gen.targets import build, file_and_name

LEVELS = (0.05, 0.5, 0.95)  # quantiles in the table


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=f"{TARGET} Or a file written by pyro-gen fit.")],
    posterior: Annotated[
        str,
        typer.Option(help="A .nc file or .zarr folder of pyro-gen posterior, or guide: that of a trained program."),
    ] = "guide",
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="How many rows; by default as many as --context or --data.")
    ] = None,
    context: ContextFiles = None,
    data: Annotated[
        str | None, typer.Option(help="What is known of the new data: a file, as for fit, empty where it is predicted.")
    ] = None,
    draws: Annotated[int | None, typer.Option(min=2, help="Draws of the new data (1000).")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .csv file, mean, standard deviation and quantiles of each number; or a .npy file, all draws. By "
            "default TARGET_predictions.csv."
        ),
    ] = None,
    overwrite: Overwrite = False,
    decimal: Decimal = None,
    moved: Moved = None,
    trust: Trust = False,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Predict new data by draws of the posterior predictive distribution, on the scale of the data."""
    from pyro_gen.inference.predict import predict

    path = out or Path(f"{stem_of(target)}_predictions.csv")
    if path.suffix not in (".csv", ".npy"):
        raise ValueError(f"--out {path}: the name of the predictions' file ends in .csv or .npy.")
    read_too = (data, target, file_and_name(target)[0], posterior, *(context or ()))
    check_output(path, "--out", inputs=read_too, overwrite=overwrite, named=out is not None)
    saved, transform, columns = None, None, None
    if target.endswith(".pt"):
        if options:
            raise ValueError(f"{target} has its own arguments: leave --set out.")
        saved = load_program(target, moved, trust)
        program, transform, columns = saved.program, saved.transform, saved.description["columns"]
    elif posterior == "guide":
        raise ValueError(f"{target} is not trained: name draws of its posterior by --posterior FILE.nc.")
    elif moved is not None:
        raise ValueError("--target is for a file written by pyro-gen fit.")
    draws_of = read_posterior(posterior)
    x: Any = n
    if data is not None:
        read = read_data(data, Part.test, None, False, decimal, to_train=False)
        read = read if saved is None else aligned(saved, read)
        if n is not None and n != len(read.x):
            raise ValueError(f"--n {n}: the data have {len(read.x)} rows; leave it out.")
        x, columns = through(transform, read.x, seed), columns or read.columns
    parts = read_context(context, x if isinstance(x, int | None) else len(x), decimal, saved)
    if x is None and not parts:
        raise ValueError("say how many rows to predict, by --n, or for which --context.")
    if saved is None:
        shape = None if data is None else x.shape[1:]
        program = build(target, shape, program_options(options or []), seed=seed)
        check_context(program, target, len(parts))
    with progress_bar("predict", progress):
        drawn = predict(program, x, *tensors_of(parts), posterior=draws_of, draws=draws, seed=seed)
    # Draws do not tell whether posterior --transform made them.
    scale = "the data's" if saved is not None else "what the posterior was given, after its --transform if it had one"
    if transform is not None:
        try:
            drawn = transform.inverse(drawn.double())
        except TypeError:  # binarisation cannot be undone
            scale = f"after {transform}"
    if path.suffix == ".npy":
        import numpy as np

        with atomic(path) as partial:
            np.save(partial, drawn.numpy())
    else:
        _write_table(path, drawn, columns)
    if as_json:
        shape = list(drawn.shape)
        print_json({"predictions": str(path.resolve()), "shape": shape, "scale": scale, "seed": seed})
        return
    print(f"{drawn.shape[1]} rows predicted by {len(drawn)} draws, scale: {scale}. Saved: {path.resolve()}")


def _write_table(path: Path, drawn: Tensor, columns: Sequence[str] | None) -> None:
    import pandas as pd
    import torch

    from pyro_gen.imputation.files import write_table

    flat = drawn.double().flatten(2) if drawn.dim() > 2 else drawn.double().unsqueeze(-1)
    names = list(columns or ([f"x{i}" for i in range(flat.shape[2])] if flat.shape[2] > 1 else ["x"]))
    bands = torch.stack([flat.quantile(level, 0) for level in LEVELS])
    table: dict[str, Any] = {}
    for i, name in enumerate(names):
        table[name] = flat[:, :, i].mean(0).numpy()
        table[f"{name} sd"] = flat[:, :, i].std(0).numpy()
        for level, band in zip(LEVELS, bands, strict=True):
            table[f"{name} {level:.0%}"] = band[:, i].numpy()
    write_table(pd.DataFrame(table), path)
