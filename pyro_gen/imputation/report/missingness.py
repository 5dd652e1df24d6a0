"""What is missing, and where."""

from typing import Any

from pyro_gen.imputation.report import plots
from pyro_gen.imputation.report.pictures import picture
from pyro_gen.imputation.report.summary import Summary

__all__ = ["missingness"]

# What can be taken in: columns in the tables and pictures of holes, patterns of holes.
SHOWN_COLUMNS, SHOWN_PATTERNS = 30, 12


def missingness(summary: Summary) -> dict[str, Any] | None:
    """The section on holes: their columns, and pictures of how they lie together; None where there are none."""
    filled = summary.filled
    if not filled:
        return None
    shown = sorted(filled[:SHOWN_COLUMNS], key=lambda f: f.index)
    names = [f.column.name for f in shown]
    holes = summary.missing[:, [f.index for f in shown]]
    patterns = plots.pattern_counts(holes)
    repeated = patterns[0][1] > 1
    with_holes = {f.index for f in filled}
    return {
        "columns": filled[:SHOWN_COLUMNS],
        "more": filled[SHOWN_COLUMNS:],
        "complete": [str(c.name) for d, c in enumerate(summary.schema.columns) if d not in with_holes],
        "patterns": len(patterns),
        "shown_patterns": SHOWN_PATTERNS,
        "patterns_picture": picture(plots.missing_patterns(holes, names, most=SHOWN_PATTERNS)) if repeated else None,
        "map_picture": picture(plots.missing_map(holes, names)),
        "together_picture": picture(plots.co_missingness(holes, names)) if len(shown) > 1 else None,
    }
