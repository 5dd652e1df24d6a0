"""What a careful reader of the figures would say."""

import math

from pyro_gen.imputation.report.hidden_cells import calibrated
from pyro_gen.imputation.report.pooled_example import pooled_means, pooled_shares
from pyro_gen.imputation.report.summary import Summary
from pyro_gen.imputation.report.words import counted, it, listed, percent

__all__ = ["remarks"]

REPEATABLE_CV = 0.1  # the coefficient of variation of standard errors above which more draws are advised


def remarks(summary: Summary) -> list[str]:
    """Warnings in words: what the imputer said, and what the figures say."""
    said = [str(warning) for warning in summary.info.get("warnings", ())]
    sparse = [f for f in summary.filled if f.count > 0.5 * summary.rows]
    if sparse:
        names = listed([f"{str(f.column.name)!r} ({percent(f.count / summary.rows)})" for f in sparse])
        said.append(
            f"Missing in more than half of the rows: {names}. What is said of {it(len(sparse))} rests on the model "
            "more than on the data."
        )
    if hollow := int(summary.missing.all(1).sum()):
        said.append(
            f"{counted(hollow, 'row')} without any observed value: the draws for {it(hollow)} know nothing but the "
            "distribution of the table."
        )
    pooled = [p for p in (pooled_means(summary), pooled_shares(summary)) if p is not None]
    if not all(p.enough(REPEATABLE_CV) for p in pooled):
        needed = max(p.draws_needed(REPEATABLE_CV) for p in pooled)
        said.append(
            f"With {summary.draws} draws the standard errors of what is pooled below differ by more than "
            f"{REPEATABLE_CV:.0%} from one seed to the next; {needed} draws make them repeatable."
        )
    for name, found in calibrated(summary).items():
        size, coverage = len(found.get("pit", ())), float(found["coverage95"])
        # Four standard errors: one false alarm in ten thousand columns.
        slack = 4 * math.sqrt(0.95 * 0.05 / size) if size else math.inf
        if abs(coverage - 0.95) > slack:
            said.append(
                f"The 95% intervals of {name!r} held {percent(coverage)} of {size:,} hidden observed cells: its draws "
                f"are {'too much alike' if coverage < 0.95 else 'further apart than they need be'}."
            )
    return said
