"""Observed against imputed entries, column by column."""

from typing import Any

from pyro_gen.imputation.report import plots
from pyro_gen.imputation.report.pictures import Picture, picture
from pyro_gen.imputation.report.summary import Filled, Summary

__all__ = ["PICTURED_COLUMNS", "observed_imputed"]

PICTURED_COLUMNS = 40
PICTURED_LEVELS = 12


def observed_imputed(summary: Summary) -> dict[str, Any]:
    """The section that sets what was imputed beside what was observed."""
    return {
        "columns": [(filled, _picture(filled)) for filled in summary.filled[:PICTURED_COLUMNS]],
        "shown": PICTURED_COLUMNS,
        "more": len(summary.filled) - PICTURED_COLUMNS,
        "shown_levels": PICTURED_LEVELS,
    }


def _picture(filled: Filled) -> Picture:
    column = filled.column
    if column.discrete:
        figure = plots.level_shares(filled.observed, filled.imputed, column.levels, most=PICTURED_LEVELS)
    else:
        whole = column.integer or column.kind == "count"
        figure = plots.density(filled.observed, filled.imputed, integer=whole, positive=column.kind == "positive")
    return picture(figure)
