"""``pyro-gen posterior``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from pyro_gen import zoo
from pyro_gen.cli.console import print_json, print_table
from pyro_gen.cli.inputs import Data, opened, read_data, stem_of
from pyro_gen.cli.options import (
    TARGET,
    ContextFiles,
    DataRoot,
    Decimal,
    DropEmpty,
    Json,
    Moved,
    Overwrite,
    Part,
    Progress,
    Sampling,
    Seed,
    Start,
    Trust,
)
from pyro_gen.cli.outputs import check_output
from pyro_gen.targets import file_and_name

SHOWN = 40  # parameters in the table


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=f"{TARGET} Or a file written by pyro-gen fit.")],
    data: Annotated[str, typer.Option(help="A data set (of which the training data is taken), or a file, as for fit.")],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    method: Annotated[
        Sampling, typer.Option(help="auto: hmc. guide: weighted draws of a trained program's guide.")
    ] = "auto",
    chains: Annotated[int | None, typer.Option(min=1, help="Chains (64 to 512), or islands of smc (8).")] = None,
    draws: Annotated[
        int | None,
        typer.Option(min=4, help="Draws per chain (see --target-ess), of the guide (1000), per island (512)."),
    ] = None,
    target_ess: Annotated[
        float | None, typer.Option(help="Effective draws that end the run where --draws is left out (1000).")
    ] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Iterations before the first draw (120 to 1000).")] = None,
    thin: Annotated[int, typer.Option(min=1, help="Of so many transitions the last is kept.")] = 1,
    init: Annotated[Start, typer.Option(help="Where the chains start.")] = "uniform",
    context: ContextFiles = None,
    transform: Annotated[list[str] | None, typer.Option(help="As for fit.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="As for fit.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .nc file or .zarr folder for the draws; by default TARGET_posterior.nc.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Overwrite = False,
    plot: Annotated[Path | None, typer.Option(help="A folder for pictures: traces, ranks, pairs, intervals.")] = None,
    drop_empty: DropEmpty = False,
    decimal: Decimal = None,
    moved: Moved = None,
    trust: Trust = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Draw from the posterior of a program's latent variables, and say whether to believe the draws."""
    from pyro_gen.inference.diagnose import diagnose, summary
    from pyro_gen.inference.posterior import posterior
    from pyro_gen.inference.storage import check_path

    path = check_path(out or Path(f"{stem_of(target)}_posterior.nc"))
    if path.suffix == ".nc":
        check_output(
            path, "--out", inputs=(data, target, file_and_name(target)[0], *(context or ())), overwrite=overwrite
        )
    if plot is not None and plot.exists() and not plot.is_dir():
        raise ValueError(f"--plot {plot}: is a file, give a folder.")
    for name in ("trace", "rank", "pair", "forest"):
        check_output(plot and plot / f"{name}.png", "--plot", overwrite=overwrite)

    def read(to_train: bool) -> Data:
        return read_data(data, part, data_root, drop_empty, decimal, to_train)

    found = opened(target, read, context, decimal, transform, options, moved, trust, seed)
    idata: Any = posterior(
        found.program,
        found.x,
        *found.context,
        method=str(method),
        chains=chains,
        draws=draws,
        target_ess=target_ess,
        warmup=warmup,
        thin=thin,
        init=str(init),
        seed=seed,
        progress=progress,
        save=path,
        resume=resume,
        overwrite=overwrite or path.suffix == ".nc",  # a file has been looked at above
    )
    diagnosis, table = diagnose(idata), summary(idata)
    written: list[Path] = []
    if plot is not None:
        import matplotlib

        from pyro_gen.pictures import posterior_pictures

        matplotlib.use("Agg")
        written = posterior_pictures(idata, plot, seed)
    if as_json:
        print_json(
            {
                "posterior": str(path.resolve()),
                "method": idata.posterior.attrs["method"],
                "chains": idata.posterior.sizes["chain"],
                "draws": idata.posterior.sizes["draw"],
                "parameters": {name: {k: v for k, v in row.items()} for name, row in table.to_dict("index").items()},
                "diagnosis": diagnosis.to_dict(),
                "log_evidence": idata.posterior.attrs.get("log_evidence"),
                "pictures": [str(picture) for picture in written],
                "data_set": found.data.name,
                "seed": seed,
                "versions": zoo.versions(),
            }
        )
        return
    _print_parameters(table)
    print(diagnosis)
    if "log_evidence" in (notes := idata.posterior.attrs):
        print(f"log-evidence {notes['log_evidence']:.3f} +- {notes['log_evidence_error']:.3f} nats")
    if written:
        print(f"Pictures: {', '.join(p.name for p in written)} in {written[0].parent}")
    print(f"Saved: {path.resolve()}")


def _print_parameters(parameters: Any) -> None:
    """The summary as a table, of so many parameters as can be read."""
    rhat = "rhat_nested" if "rhat_nested" in parameters else "rhat"
    heads = {"mean": "mean", "sd": "sd", "5%": "5%", "50%": "50%", "95%": "95%"}
    heads |= {"ess_bulk": "ESS", "ess_tail": "tail-ESS", "ess": "ESS", rhat: "R-hat"}
    columns = {name: head for name, head in heads.items() if name in parameters}
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in columns.values():
        table.add_column(head, justify="right", no_wrap=True)
    for label, row in parameters.head(SHOWN).iterrows():
        numbers = (_figure(name, row[name]) for name in columns)
        table.add_row(Text(str(label)), *numbers)
    print_table(table)
    if len(parameters) > SHOWN:
        print(f"The first {SHOWN} of {len(parameters):,} parameters; --json shows all.")


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f}" if name.startswith("ess") else f"{value:.3f}" if name.startswith("rhat") else f"{value:.3g}"
