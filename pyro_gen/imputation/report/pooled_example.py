"""An example of pooling: means of numeric columns, and shares of the commonest levels of others."""

from typing import Any

import numpy as np

from pyro_gen.imputation.pooling.rubin import Pooled, pool
from pyro_gen.imputation.report import plots
from pyro_gen.imputation.report.pictures import picture
from pyro_gen.imputation.report.summary import Array, Filled, Summary

__all__ = ["pooled_example", "pooled_means", "pooled_shares"]

TRACES = 3  # running means that are shown, of what has most information missing


def pooled_means(summary: Summary) -> Pooled | None:
    """The pooled means of the numeric columns with holes, where there are such columns, and draws to compare."""
    chosen = [f for f in sorted(summary.filled, key=lambda f: f.index) if not f.column.discrete]
    if not chosen or summary.draws < 2:
        return None
    at = [f.index for f in chosen]
    names = [f.column.name for f in chosen]
    return pool(summary.means[:, at], summary.variances[:, at], df_complete=summary.rows - 1, names=names)


def pooled_shares(summary: Summary) -> Pooled | None:
    """The pooled log-odds of the commonest levels of columns with holes, where there are such columns, and draws.

    With half a row more on either side, so that they are finite where all rows of a draw have the level.
    """
    chosen = [f for f in summary.filled if f.column.discrete]
    if not chosen or summary.draws < 2:
        return None
    order = np.argsort([f.index for f in chosen])
    having = summary.counts[:, order] + 0.5
    others = summary.rows + 1 - having
    names = [chosen[i].column.name for i in order]
    return pool(np.log(having / others), 1 / having + 1 / others, df_complete=summary.rows - 1, names=names)


def pooled_example(summary: Summary) -> dict[str, Any] | None:
    """The section on pooling; None where there is nothing to pool."""
    means, shares = pooled_means(summary), pooled_shares(summary)
    if means is None and shares is None:
        return None
    filled = {f.column.name: f for f in summary.filled}
    traces: list[tuple[float, str, Array]] = []
    if means is not None:
        traces += [(-means.fmi[i], means.names[i], means.estimates[:, i]) for i in np.flatnonzero(means.b > 0)]
    if shares is not None:
        for i in np.flatnonzero(shares.b > 0):
            name = shares.names[i]
            traces.append((-shares.fmi[i], f"{name}: {_level(filled[name])}", _logistic(shares.estimates[:, i])))
    traces.sort(key=lambda trace: trace[0])
    return {
        "means": [] if means is None else [(filled[row["term"]], row) for row in _rows(means)],
        "shares": [] if shares is None else [_as_shares(filled[row["term"]], row) for row in _rows(shares)],
        "pictures": [(name, picture(plots.running_means(trace))) for _, name, trace in traces[:TRACES]],
    }


def _rows(pooled: Pooled) -> list[dict[str, Any]]:
    """The summary row by row, its keys such as a template can name them."""
    return [{str(k).replace(".", "_"): v for k, v in row.items()} for row in pooled.summary().to_dict("records")]


def _as_shares(filled: Filled, row: dict[str, Any]) -> tuple[Filled, str, dict[str, Any]]:
    log_odds = {key: _logistic(row[key]) for key in ("estimate", "conf_low", "conf_high")}
    return filled, _level(filled), row | log_odds


def _level(filled: Filled) -> str:
    return plots.level_name(filled.column.levels[filled.commonest])


def _logistic(log_odds: Any) -> Any:
    return 1 / (1 + np.exp(-log_odds))
