"""``pyro-gen evaluate``."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import Data, aligned, read_context, read_data, read_posterior, tensors_of
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
from pyro_gen.registry import DATA_SETS
from pyro_gen.saving import SavedProgram, load_program
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
    samples: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Judge so many samples instead, at most as many as the other part of a named data set has, beside the "
            "data: Frechet and kernel distance, precision, recall, "
            "density, coverage, a classifier's accuracy; by features of a classifier for digits, else the values.",
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
    """Estimate the log-likelihood of data under a trained program, or judge its samples."""
    from pyro_gen.inference.likelihood.api import log_likelihood

    saved = load_program(weights, target, trust)
    read = aligned(saved, read_data(data, part, data_root, drop_empty, decimal, to_train=False))
    if empty := int(read.x.isnan().reshape(len(read.x), -1).all(1).sum()):
        print(
            f"note: {empty} of {len(read.x)} rows without any observed value count as log-likelihood 0; --drop-empty "
            "leaves them out.",
            file=sys.stderr,
        )
    parts = read_context(context, len(read.x), decimal, saved)
    if samples is not None:
        if parts:
            raise ValueError("evaluate --samples is of programs without context: leave --context out.")
        of_likelihood: dict[str, Any] = {"chains": chains, "num-particles": num_particles, "temperatures": temperatures}
        of_likelihood |= {"posterior": posterior, "method": None if method == "auto" else method}
        if unused := [name for name, value in of_likelihood.items() if value is not None]:
            raise ValueError(f"evaluate --samples judges samples, and --{unused[0]} is of likelihoods: leave one out.")
        other = None
        if data in DATA_SETS:  # its other part, in the place of the samples
            rest = Part.test if part is Part.train else Part.train
            other = aligned(saved, read_data(data, rest, data_root, drop_empty, decimal)).x
            samples = min(samples, len(other))  # figures of different numbers do not compare
        _judge(saved, read, other, samples, seed, as_json)
        return
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


def _judge(saved: SavedProgram, read: Data, other: Tensor | None, samples: int, seed: int, as_json: bool) -> None:
    from pyro_gen.evaluation.samples import FEATURES, sample_quality
    from pyro_gen.inference.predictive import sample

    def features(x: Tensor) -> Tensor:
        return FEATURES["digits" if read.name == "digits" else "values"](x, saved.transform)

    def as_modelled(x: Tensor) -> Tensor:
        return features(x if saved.transform is None else transform_with_ladj(saved.transform, x, seed)[0])

    drawn = features(sample(saved.program, samples, seed=seed, progress=False))
    if other is not None:
        with seeded(seed):
            other = as_modelled(other[torch.randperm(len(other))[:samples]])
    found = sample_quality(drawn, as_modelled(read.x), other, seed=seed)
    if as_json:
        print_json({"data_set": read.name, "samples": samples, "seed": seed} | asdict(found))
    else:
        print(found)
