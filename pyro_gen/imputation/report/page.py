"""The page: sections made one by one, and written by the templates of this folder."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from pyro_gen._files import write_text
from pyro_gen.imputation.report import words
from pyro_gen.imputation.report.chosen_programs import chosen_programs
from pyro_gen.imputation.report.hidden_cells import hidden_cells
from pyro_gen.imputation.report.missingness import missingness
from pyro_gen.imputation.report.observed_imputed import observed_imputed
from pyro_gen.imputation.report.pooled_example import pooled_example
from pyro_gen.imputation.report.remarks import remarks
from pyro_gen.imputation.report.summary import Summary, summarise
from pyro_gen.inference.progress import progress_bar

if TYPE_CHECKING:
    from pyro_gen.imputation.completed import Completed

__all__ = ["report"]

SECTIONS: dict[str, Callable[[Summary], Any]] = {  # by the name that the templates know it by
    "remarks": remarks,
    "missingness": missingness,
    "chosen_programs": chosen_programs,
    "observed_imputed": observed_imputed,
    "hidden_cells": hidden_cells,
    "pooled_example": pooled_example,
}


def report(
    completed: "Completed",
    path: str | os.PathLike[str],
    *,
    title: str = "Imputation report",
    calibration: Mapping[str, Mapping[str, Any]] | None = None,
    progress: bool | Callable[[float], None] = False,
) -> Path:
    r"""Writes one HTML file that says what was missing, how it was imputed, and how far to trust it.

    The file needs nothing besides itself, no network and no script, and is read on a phone as on a desk. It shows the
    holes (shares, patterns, where they are, which columns miss together), the programs with their held-out scores and
    weights, observed against imputed entries for each column, how calibrated the draws were for observed cells that
    were hidden (where that was measured), warnings in words, and as an example of pooling the mean of each numeric
    column with holes and the share of the commonest level of each other one.

    Arguments:
        completed: The completed tables.
        path: The file, whose name ends in .html.
        title: The heading.
        calibration: What :func:`over_impute` found; left out, ``completed.info["calibration"]``, if that is there.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.

    Returns:
        The file.

    Raises:
        ValueError: The name of the file does not end in .html.

    Example:
        >>> import tempfile
        >>> import numpy as np, torch
        >>> from pyro_gen.data.schema import Schema
        >>> from pyro_gen.imputation.completed import Completed
        >>> table = np.array([[1.5, 2.0], [2.5, np.nan], [4.0, 1.0]])
        >>> draws = torch.tensor(table).expand(5, 3, 2).clone()
        >>> draws[:, 1, 1] = torch.tensor([1.5, 1.2, 1.9, 1.4, 1.0])
        >>> page = report(Completed(draws, Schema.infer(table), table, {}), Path(tempfile.mkdtemp()) / "report.html")
        >>> "1 of 6 cells" in page.read_text(encoding="utf-8")
        True
    """
    if not hasattr(completed, "schema"):
        raise TypeError(f"report is of what Imputer.impute returns, and was given {type(completed).__name__}.")
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"{path}: the name of the report's file ends in .html.")
    with progress_bar("report", progress) as tell:
        summary = summarise(completed, tell)
        if calibration is not None:
            summary = replace(summary, info={**summary.info, "calibration": calibration})
        write_text(path, _page(summary, title, tell))
    return path.resolve()


def _page(summary: Summary, title: str, progress: Callable[[float], None]) -> str:
    sections = {}
    for i, (name, make) in enumerate(SECTIONS.items()):
        sections[name] = make(summary)
        progress(0.5 + 0.5 * (i + 1) / len(SECTIONS))
    return _templates().get_template("page.html").render(title=title, summary=summary, **sections)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyro_gen.imputation.report"),
        autoescape=True,  # names and levels are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(words, name) for name in words.__all__}
    return environment
