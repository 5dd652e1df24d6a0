"""Scores of hidden cells, column by column, overall, and of rows jointly, each with its standard error."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.evaluation.result import LEVELS
from pyro_gen.imputation.scores.calibration import interval_coverage, pit, pit_test
from pyro_gen.imputation.scores.levels import brier, level_shares, log_loss, ranked_probability_score
from pyro_gen.imputation.scores.numbers import crps, median_of_draws
from pyro_gen.imputation.scores.rows import NUMBERS_AT_A_TIME, energy_score, variogram_score

__all__ = ["Attempt", "scales", "scored"]


class Attempt(NamedTuple):
    """What became of some hidden cells.

    Attributes:
        hidden: Which ones, with shape (N, D).
        cells: Draws of them on the encoded scale, with shape (m, cells).
        log_prob: Log-densities of what they were, with shape (cells); NaN where the imputer has none.
    """

    hidden: Tensor
    cells: Tensor
    log_prob: Tensor


def scales(schema: Schema, observed: Tensor) -> Tensor:
    """Standard deviations of the observed values (of codes, for levels), 1 for constants, with shape (D)."""
    scales = []
    for column in observed.unbind(1):
        present = column[~column.isnan()]
        varies = len(present) > 1 and bool(present.min() < present.max())
        scales.append(present.std(correction=0) if varies else present.new_ones(()))
    return torch.stack(scales)


Cells = dict[str, Tensor]  # a score of each cell, by name; roots of means are named rmse_...


def scored(
    schema: Schema, values: Tensor, scale: Tensor, attempts: list[Attempt], single: bool, seed: int
) -> pd.DataFrame:
    """The table of :meth:`Evaluation.to_frame`.

    Arguments:
        schema: Of the columns.
        values: The true values on the encoded scale, with shape (N, D).
        scale: Standard deviations of the columns, with shape (D).
        attempts: What became of the hidden cells, each time that some were hidden.
        single: Whether there is one imputation only, which has scores of points alone.
        seed: Seeds the randomised transforms of :func:`~pyro_gen.imputation.scores.pit`.
    """
    rows = []
    pooled: list[tuple[Cells, Tensor]] = []
    p_values = []
    for d, column in enumerate(schema.columns):
        draws = torch.cat([one.cells[:, one.hidden.nonzero()[:, 1] == d] for one in attempts], 1)
        log_prob = torch.cat([one.log_prob[one.hidden.nonzero()[:, 1] == d] for one in attempts])
        owner = torch.cat([one.hidden[:, d].nonzero()[:, 0] for one in attempts])
        if not len(owner):
            continue
        truth = values[owner, d]
        unit = float(scale[d])
        cells = (
            _levels_scores(column, draws, truth, single)
            if column.discrete
            else _number_scores(draws / unit, truth / unit, single)
        )
        if not bool(log_prob.isnan().any()):
            density = not column.discrete and column.kind != "count"
            cells["log_score"] = log_prob + math.log(unit) if density else log_prob
        row: dict[str, Any] = {"kind": column.kind, "cells": len(owner), **_summary(cells, owner)}
        if not column.discrete:
            names = [
                name for name in row if name.split("_")[0] in ("rmse", "mae", "crps", "width") and "_se" not in name
            ]
            row |= {f"{name}_units": row[name] * unit for name in names}
            row |= {f"{name}_units_se": row[f"{name}_se"] * unit for name in names}
        if not single and column.kind != "nominal":
            # A cell that was hidden twice counts once: the test is for independent values.
            once = torch.from_numpy(np.unique(owner.numpy(), return_index=True)[1])
            row["pit_p"] = pit_test(pit(draws[:, once], truth[once], seed=seed + d))
            p_values.append(row["pit_p"])
        rows.append((column.name, row))
        pooled.append((cells, owner))
    overall: dict[str, Any] = {"kind": "", "cells": sum(row["cells"] for _, row in rows)}
    for name in _PLAIN:
        parts = [(cells[name], owner) for cells, owner in pooled if name in cells]
        if parts and (name != "log_score" or len(parts) == len(pooled)):
            overall |= _summary({name: torch.cat([part for part, _ in parts])}, torch.cat([o for _, o in parts]))
    if p_values:
        overall["pit_p"] = min(1.0, min(p_values) * len(p_values))
    if not single:
        overall |= _joint_scores(schema, values, scale, attempts)
    frame = pd.DataFrame([row for _, row in rows] + [overall], index=[name for name, _ in rows] + ["overall"])
    order = ["kind", "cells", *_NAMES]
    return frame.reindex(columns=order)


_POINTS = ["rmse_mean", "rmse_draws", "mae_median", "mae_draws", "crps"]
_WIDTHS = [f"width_{level}" for level in LEVELS]
_PLAIN = [
    *_POINTS,
    *(f"coverage_{level}" for level in LEVELS),
    *_WIDTHS,
    "error_mode",
    "error_draws",
    "log_loss",
    "brier",
    "rps",
    "log_score",
    "energy",
    "variogram",
]
_UNITS = [f"{name}_units" for name in (*_POINTS, *_WIDTHS)]
_NAMES = [*(name + end for name in (*_PLAIN, *_UNITS) for end in ("", "_se")), "pit_p"]


def _number_scores(draws: Tensor, truth: Tensor, single: bool) -> Cells:
    cells = {"rmse_mean": (draws.mean(0) - truth).square(), "mae_median": (median_of_draws(draws) - truth).abs()}
    if single:
        return cells
    cells |= {
        "rmse_draws": (draws - truth).square().mean(0),
        "mae_draws": (draws - truth).abs().mean(0),
        "crps": crps(draws, truth),
    }
    for level in LEVELS:
        intervals = interval_coverage(draws, truth, level / 100)
        cells |= {f"coverage_{level}": intervals.covered, f"width_{level}": intervals.width}
    return cells


def _levels_scores(column: Column, draws: Tensor, truth: Tensor, single: bool) -> Cells:
    levels = len(column.levels)
    cells = {"error_mode": (level_shares(draws, levels).argmax(-1) != truth).double()}
    if single:
        return cells
    cells |= {
        "error_draws": (draws != truth).double().mean(0),
        "log_loss": log_loss(draws, truth, levels),
        "brier": brier(draws, truth, levels),
    }
    if column.kind == "ordinal":
        cells["rps"] = ranked_probability_score(draws, truth, levels)
    return cells


def _joint_scores(schema: Schema, values: Tensor, scale: Tensor, attempts: list[Attempt]) -> dict[str, float]:
    """Energy and variogram scores of rows, all columns on one scale."""
    numbers = [d for d, column in enumerate(schema.columns) if column.kind not in ("binary", "nominal")]
    scores: dict[str, list[Tensor]] = {"energy": [], "variogram": []}
    owners = []
    for hidden, cells, _ in attempts:
        rows = hidden.any(1).nonzero()[:, 0]
        where = torch.full(hidden.shape, -1)
        where[hidden] = torch.arange(cells.shape[1])
        for part in rows.split(max(1, NUMBERS_AT_A_TIME // (len(cells) * hidden.shape[1]))):
            at = where[part]
            draws = cells[:, at.clamp(min=0)].masked_fill(at < 0, math.nan)
            truth = values[part].masked_fill(at < 0, math.nan)
            x, y = _on_one_scale(schema, draws, scale), _on_one_scale(schema, truth, scale)
            scores["energy"].append(energy_score(x, y))
            if len(numbers) > 1:
                x, y = (draws / scale)[..., numbers], (truth / scale)[..., numbers]
                scores["variogram"].append(variogram_score(x, y))
        owners.append(rows)
    owner = torch.cat(owners)
    summary: dict[str, float] = {}
    for name, parts in scores.items():
        found = torch.cat(parts) if parts else values.new_full((len(owner),), math.nan)
        kept = ~found.isnan()
        if bool(kept.any()):
            summary |= _summary({name: found[kept]}, owner[kept])
    return summary


def _on_one_scale(schema: Schema, encoded: Tensor, scale: Tensor) -> Tensor:
    r"""Numbers and ordinal codes in standard deviations, levels as indicators over :math:`\sqrt 2`, side by side."""
    parts = []
    for d, column in enumerate(schema.columns):
        values = encoded[..., d]
        if column.kind in ("binary", "nominal"):
            shown = values.unsqueeze(-1) == torch.arange(len(column.levels))
            parts.append(shown.double().masked_fill(values.isnan().unsqueeze(-1), math.nan) / math.sqrt(2))
        else:
            parts.append((values / scale[d]).unsqueeze(-1))
    return torch.cat(parts, -1)


def _summary(cells: Cells, owner: Tensor) -> dict[str, float]:
    """Means of scores of cells and their standard errors; cells of one row are a cluster."""
    summary: dict[str, float] = {}
    for name, score in cells.items():
        mean = float(score.mean())
        which = owner.unique(return_inverse=True)[1]
        sums = torch.zeros(int(which.max()) + 1, dtype=score.dtype).index_add(0, which, score - mean)
        k = len(sums)
        error = math.sqrt(k / (k - 1) * float(sums.square().sum())) / len(score) if k > 1 else math.nan
        if name.startswith("rmse"):
            mean = math.sqrt(mean)
            error = error / (2 * mean) if mean > 0 else 0.0
        summary |= {name: mean, f"{name}_se": error}
    return summary
