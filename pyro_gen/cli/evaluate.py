"""``pyro-gen evaluate``."""

import sys
from typing import Annotated, Any

import torch
import typer

from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import aligned, read_context, read_data, read_posterior, tensors_of
from pyro_gen.cli.options import (
    ContextFiles,
    DataRoot,
    Decimal,
    DropEmpty,
    Json,
    Method,
    Moved,
    Part,
    Progress,
    Saved,
    Seed,
    Trust,
)
from pyro_gen.inference.progress import progress_bar
from pyro_gen.saving import load_program
from pyro_gen.targets import transform_with_ladj


def command(
    weights: Saved,
    data: Annotated[str, typer.Option(help="A data set (of which the test data is taken), or a file, as for fit.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.test,
    method: Annotated[Method, typer.Option(help="auto: exact where that applies, else ais.")] = "auto",
    num_particles: Annotated[int | None, typer.Option(min=1, help="Draws of the guide, for elbo and iwae.")] = None,
    chains: Annotated[int | None, typer.Option(min=1, help="Chains per datum (16), or islands of smc (4).")] = None,
    temperatures: Annotated[int | None, typer.Option(min=1, help="Temperatures, for ais and bdmc.")] = None,
    context: ContextFiles = None,
    posterior: Annotated[
        str | None,
        typer.Option(
            help="For global latent variables: a .nc file or .zarr folder of pyro-gen posterior, or guide: the log "
            "predictive density of data that it did not see."
        ),
    ] = None,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    target: Moved = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Estimate the log-likelihood of data under a trained program."""
    from pyro_gen.inference.likelihood.door import log_likelihood

    saved = load_program(weights, target, trust)
    read = aligned(saved, read_data(data, part, data_root, drop_empty, decimal, to_train=False))
    if empty := int(read.x.isnan().reshape(len(read.x), -1).all(1).sum()):
        print(
            f"note: {empty} of {len(read.x)} rows without any observed value count as log-likelihood 0; --drop-empty "
            "leaves them out.",
            file=sys.stderr,
        )
    parts = read_context(context, len(read.x), decimal, saved)
    draws = None if posterior is None else read_posterior(posterior)
    several = "islands" if method == "smc" else "chains"
    chosen = {"num_particles": num_particles, several: chains, "temperatures": temperatures}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    x, jacobian = (read.x, None) if saved.transform is None else transform_with_ladj(saved.transform, read.x, seed)
    with progress_bar(f"log-likelihood ({method})", progress) as report:
        x = x.to(torch.get_default_dtype())
        given = {"posterior": draws, "seed": seed, "progress": report, **options}
        found = log_likelihood(saved.program, x, *tensors_of(parts), method=str(method), **given)
    result = found.to_dict() | {"data_set": read.name, "seed": seed, "transform": saved.description["transform"]}
    note = ""
    if saved.transform is not None:
        note = f"of the data after {saved.transform}"
        if jacobian is not None:
            result["mean_on_the_scale_of_the_data"] = found.mean() + float(jacobian.mean())
            result["bits_per_dim"] = found.bits_per_dim(jacobian)
            note += f"; {result['mean_on_the_scale_of_the_data']:.3f} on the scale of the data"
    if as_json:
        print_json(result)
        return
    print(found)
    if note:
        print(note)
