"""``pyro-gen sample``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from pyro_gen._files import atomic
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import read_context, tensors_of
from pyro_gen.cli.options import ContextFiles, Json, Moved, Overwrite, Saved, Seed, Trust
from pyro_gen.cli.outputs import check_output
from pyro_gen.saving import load_program
from pyro_gen.targets import file_and_name


def command(
    weights: Saved,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="How many data to draw (24, or as many as --context has).")
    ] = None,
    context: ContextFiles = None,
    out: Annotated[
        Path | None, typer.Option(help="A .csv, .npy or .pt file, or for images a .png, .pdf or .svg picture.")
    ] = None,
    overwrite: Overwrite = False,
    target: Moved = None,
    trust: Trust = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw data from a trained program: a picture of images, a table of rows, on the scale of the data it was given."""
    from pyro_gen import pictures
    from pyro_gen.inference.predictive import sample

    read_too = (weights, None if target is None else file_and_name(target)[0])
    check_output(out, "--out", inputs=read_too, overwrite=overwrite)
    saved = load_program(weights, target, trust)
    parts = read_context(context, n, None, saved)
    n = n or (len(parts[0].x) if parts else 24)
    drawn = sample(saved.program, n, context=tensors_of(parts), seed=seed)
    scale = "the data's"
    if saved.transform is not None:
        try:
            drawn = saved.transform.inverse(drawn.double())
        except TypeError:  # binarisation cannot be undone
            scale = f"after {saved.transform}"
    picture = pictures.is_image(drawn.shape[1:])
    path = out or Path(f"{weights.stem}_samples.{'png' if picture else 'csv'}")
    check_output(path, "--out", inputs=read_too, overwrite=overwrite, named=out is not None)
    match path.suffix:
        case ".csv":
            _write_csv(path, drawn, saved.description["columns"])
        case ".npy":
            import numpy as np

            with atomic(path) as partial:
                np.save(partial, drawn.numpy())
        case ".pt":
            with atomic(path) as partial, partial.open("wb") as file:
                torch.save(drawn, file)
        case ".png" | ".pdf" | ".svg" if picture:
            pictures.write(pictures.image_grid(drawn, f"{n} samples of {weights.name}"), path)
        case _:
            kinds = ".csv, .npy, .pt, .png, .pdf or .svg" if picture else ".csv, .npy or .pt (no picture: no images)"
            raise ValueError(f"{path}: the name of the samples' file ends in {kinds}.")
    if as_json:
        print_json({"samples": str(path.resolve()), "shape": list(drawn.shape), "scale": scale, "seed": seed})
        return
    print(f"{n} samples of shape {tuple(drawn.shape[1:])}, scale: {scale}. Saved: {path.resolve()}")


def _write_csv(path: Path, x: Tensor, columns: Sequence[str] | None) -> None:
    import pandas as pd

    from pyro_gen.imputation.files import write_table

    flat = x.flatten(1)
    write_table(pd.DataFrame(flat.numpy(), columns=pd.Index(columns or [f"x{i}" for i in range(flat.shape[1])])), path)
