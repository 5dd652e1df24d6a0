"""``pyro-gen evidence``."""

from typing import Annotated, Any

import typer

from pyro_gen import zoo
from pyro_gen.cli.console import print_json
from pyro_gen.cli.inputs import Data, opened, read_data
from pyro_gen.cli.options import (
    TARGET,
    ContextFiles,
    DataRoot,
    Decimal,
    DropEmpty,
    Evidence,
    Json,
    Moved,
    Part,
    Progress,
    Seed,
    Trust,
)
from pyro_gen.inference.progress import progress_bar


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=f"{TARGET} Or a file written by pyro-gen fit.")],
    data: Annotated[str, typer.Option(help="A data set (of which the training data is taken), or a file, as for fit.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    method: Annotated[Evidence, typer.Option(help="How; importance takes the guide of a trained program.")] = "smc",
    context: ContextFiles = None,
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    moved: Moved = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Estimate the evidence of a data set: log p(data), all latent variables of a program integrated out."""
    from pyro_gen.inference.likelihood.evidence import log_evidence

    def read(to_train: bool) -> Data:
        return read_data(data, part, data_root, drop_empty, decimal, to_train)

    found = opened(target, read, context, decimal, transform, options, moved, trust, seed)
    with progress_bar(f"log-evidence ({method})", progress) as report:
        result = log_evidence(found.program, found.x, *found.context, method=str(method), seed=seed, progress=report)
    if as_json:
        more: dict[str, Any] = {"data_set": found.data.name, "seed": seed, "versions": zoo.versions()}
        print_json(result.to_dict() | more)
        return
    print(result)
