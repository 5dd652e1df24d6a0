"""``pyro-gen demo``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pyro_gen.cli.console import print_json, print_table
from pyro_gen.cli.options import Json, Overwrite, Progress, Seed
from pyro_gen.cli.outputs import check_output


def command(
    out: Annotated[
        Path, typer.Option(help="The picture, or a folder for it; a picture's name ends in .png, .pdf or .svg.")
    ] = Path("pyro_gen_demo.png"),
    overwrite: Overwrite = False,
    seed: Seed = 0,
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """Train a VAE on the digits, measure it, and draw what it does. Takes one to two minutes on a CPU."""
    from pyro_gen.demo import run

    if not out.suffix or out.is_dir():
        out = out / "pyro_gen_demo.png"
    _check_picture(out)
    check_output(out, "--out", overwrite=overwrite)
    found = run(out, seed=seed, progress=progress)
    if as_json:
        print_json(found)
        return
    table = Table(title="Test log-likelihood, nats per image", title_justify="left", caption_justify="left")
    for name in ("", "nats", "± estimate", "± test data", "kind"):
        table.add_column(name, justify="left" if name in ("", "kind") else "right", no_wrap=True)
    for method in found["test_log_likelihood"]:
        error, sampling = found["standard_error"][method], found["sampling_error"][method]
        value = found["test_log_likelihood"][method]
        table.add_row(f"VAE, {method.upper()}", f"{value:.2f}", f"{error:.3f}", f"{sampling:.2f}", "lower bound")
    table.add_section()
    for name, value in found["baselines"].items():
        label = {"mixture_of_bernoullis": "mixture of 50 Bernoullis"}.get(name, "independent Bernoullis")
        table.add_row(label, f"{value:.2f}", "", "", "exact")
    table.caption = (
        f"BDMC gap {found['bdmc_gap']:.3f} nats: a bound on the mean error of AIS, on simulated data.\n"
        "The VAE trained on grey images binarised at a jittered threshold, the baselines on those at pixel >= 8.\n"
        f"{found['test_images']} test images; {found['seconds']:.0f} s, of which training "
        f"{found['train_seconds']:.0f} s; {found['peak_memory_gib']:.2f} GiB."
    )
    print_table(table)
    Console().print(f"Picture: {found['picture']}", soft_wrap=True, highlight=False)


def _check_picture(path: Path) -> None:
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"{path}: a picture's name ends in .png, .pdf or .svg.")
