"""An imputer judged: entries hidden on purpose or known from elsewhere, imputed, and scored column by column.

References:
    | A unified approach to measurement error and missing data: overview and applications (Blackwell, Honaker & King,
      2017), for over-imputation
    | https://doi.org/10.1177/0049124115585360
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from torch import Tensor

from pyro_gen._random import fork
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.amputation import ampute, takes
from pyro_gen.imputation.scores import (
    CHUNK,
    _median,
    brier,
    crps,
    energy_score,
    interval_coverage,
    level_shares,
    log_loss,
    pit,
    pit_test,
    ranked_probability_score,
    variogram_score,
)

__all__ = ["Evaluation", "evaluate_imputer"]

LEVELS = (50, 80, 95)  # percent, of the intervals that an evaluation reports


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How well an imputer does, column by column and overall. Prints itself.

    Attributes:
        frame: One row a column and one called "overall", see :meth:`to_frame`.
        info: What was done: ``imputer``, ``mechanism``, ``proportion``, ``repeats``, ``draws``, ``seed``, ``cells``,
            ``single`` (whether the imputer gives one imputation only), ``seconds`` (of fitting and imputing),
            ``nominal``, what intervals promise with so many draws, by level in percent, and ``no_log_score``, why
            there is none, or None.
    """

    frame: pd.DataFrame
    info: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The scores, those of :mod:`pyro_gen.imputation.scores`: one row a column of a table, last the row "overall".

        ========================== =====================================================================================
        kind, cells                the kind of the column; how many entries were scored, over all repeats
        rmse_mean, mae_median      of columns of numbers, in standard deviations of the column's observed values: the
                                   error of the mean, and of the median, of the draws
        rmse_draws, mae_draws      the average error of a single draw, which has to be larger
        crps                       see :func:`crps`
        coverage_50, width_50, ... of the central 50, 80 and 95% intervals, see :func:`interval_coverage`
        pit_p                      the p-value of :func:`pit_test`, small where the truth does not look like a draw;
                                   overall the smallest one times the number of columns (Bonferroni)
        log_loss, brier, rps       of columns of levels; rps of ordinal ones
        log_score                  the mean log-density of the truth that the imputer gives, in nats, more is better; of
                                   columns of levels and of counts its log-probability, of other numbers the density
                                   of the value in standard deviations; overall where all columns have one
        error_mode, error_draws    the share of wrong levels: of the most frequent one among the draws, of single draws
        energy, variogram          overall: see :func:`energy_score` and :func:`variogram_score`, of the missing entries
                                   of a row jointly; numbers and ordinal codes in standard deviations, two levels at
                                   distance 1 (which the variogram score leaves out)
        ========================== =====================================================================================

        Each but pit_p has its standard error as ``..._se``: over the entries, with those of one row, in all repeats,
        taken as one cluster. Errors, crps and widths come in the user's units too, as ``..._units``.
        NaN = does not apply.
        """
        return self.frame.copy()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON: ``info``, ``overall``, and ``columns`` by name, without what is NaN."""

        def plain(row: "pd.Series[Any]") -> dict[str, Any]:
            kinds = {"kind": str, "cells": int}
            return {str(k): kinds.get(str(k), float)(v) for k, v in row.items() if not pd.isna(v)}

        rows = [plain(row) for _, row in self.frame.iterrows()]
        names = [str(name) for name in self.frame.index[:-1]]
        return {"info": dict(self.info), "overall": rows[-1], "columns": dict(zip(names, rows[:-1], strict=True))}

    def __repr__(self) -> str:
        info = self.info
        if info["mechanism"] is None:
            how = "the truth of its missing cells"
        else:
            share = "" if info["proportion"] is None else f" {info['proportion']:.0%} of"
            how = f"{info['repeats']} x{share} the observed cells hidden ({info['mechanism']})"
        number = "one imputation: point scores only" if info["single"] else f"{info['draws']} draws"
        lines = [
            f"{info['imputer']}: {how}, {number}; {info['cells']} cells scored in {info['seconds']:.1f} s",
            "Errors and CRPS in standard deviations of the observed values; after the sign: standard errors.",
        ]
        overall = self.frame.iloc[-1]
        # That of all cells belongs to neither of two tables.
        frame = self.frame.assign(log_score=[*self.frame["log_score"].iloc[:-1], math.nan])
        numeric = self.frame["rmse_mean"].notna()
        levels = self.frame["error_mode"].notna()
        promised = (
            {level: f"in {100 * info['nominal'][str(level)]:.3g}%" for level in LEVELS} if not info["single"] else {}
        )
        lines += _printed(
            frame[numeric],
            {
                "rmse_mean": "RMSE" if info["single"] else "RMSE mean",
                "rmse_draws": "RMSE draws",
                **({"mae_median": "MAE"} if info["single"] else {}),
                "crps": "CRPS",
                "log_score": "log score",
                **{f"coverage_{level}": words for level, words in promised.items()},
                "pit_p": "PIT p",
            },
        )
        lines += _printed(
            frame[levels],
            {
                "error_mode": "wrong" if info["single"] else "wrong mode",
                "error_draws": "wrong draws",
                "log_loss": "log-loss",
                "brier": "Brier",
                "rps": "RPS",
                "log_score": "log score",
                "pit_p": "PIT p",
            },
        )
        if not pd.isna(overall["log_score"]):
            lines += ["", f"Log score of all cells: {_with_error(overall, 'log_score')} nats"]
        if not info["single"]:
            lines.append("")
            lines.append(f"Rows jointly: energy score {_with_error(overall, 'energy')}")
            if not pd.isna(overall["variogram"]):
                lines[-1] += f", variogram score {_with_error(overall, 'variogram')}"
            if info["no_log_score"] is not None:
                lines.append(f"No log score: {info['no_log_score']}")
        return "\n".join(lines)


def _with_error(row: "pd.Series[Any]", score: str) -> str:
    if pd.isna(row[score]):
        return ""
    if score == "pit_p":
        return f"{row[score]:.2g}" if row[score] > 1e-8 else "<1e-8"
    error = row[f"{score}_se"]
    return f"{row[score]:.3f}" + ("" if pd.isna(error) else f"±{error:.3f}".replace("±0.", "±."))


def _printed(frame: pd.DataFrame, titles: dict[str, str]) -> list[str]:
    """A table, its last row the overall one, as lines of text, without scores that no row has."""
    if frame.empty:
        return []
    scores = [score for score in titles if frame[score].notna().any()]
    head = ["", "kind", "cells", *(titles[score] for score in scores)]
    frame = frame.assign(cells=[*frame["cells"].iloc[:-1], frame["cells"].iloc[:-1].sum()])
    body = [
        [str(name)[:16], row["kind"], str(int(row["cells"])), *(_with_error(row, score) for score in scores)]
        for name, row in frame.iterrows()
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        [t.ljust(w) if i < 2 else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True))]
        for line in [head, *body]
    ]
    return ["", *("  ".join(line).rstrip() for line in lines)]


def evaluate_imputer(
    imputer: Any,
    table: Any,
    *,
    mechanism: str | Callable[..., Any] = "mcar",
    proportion: float | None = None,
    repeats: int | None = None,
    draws: int = 100,
    seed: int = 0,
    truth: Any = None,
    schema: Mapping[str, str | Column] | Schema | None = None,
) -> Evaluation:
    r"""Judges an imputer: hides observed entries, has them imputed, and scores what comes back.

    Over-imputation needs no truth: the entries that are hidden are the user's own. It measures how the imputer does on
    values that could have been observed; what is really missing may be different. The imputer is cloned, fitted on the
    table with the hidden entries missing, and imputes that same table.

    An imputer with a method ``impute(table, draws=...)``, which returns completed tables by index, such as
    :class:`pyro_gen.Imputer`, gets all scores. One without, such as scikit-learn's, imputes once by
    ``fit_transform``, and gets the scores of points only: a single imputation says nothing of its uncertainty. Numbers
    that it puts in columns of numeric levels are taken to the next level. One with a method
    ``log_prob(table, values)``, which returns the log-densities of values of missing cells with shape :math:`(N, D)`,
    as :meth:`pyro_gen.Imputer.log_prob` does, gets the log score too.

    Arguments:
        imputer: An estimator in scikit-learn's manner: cloned, where it has parameters, or copied. A ``random_state``
            of None, also inside a pipeline, is set from ``seed``.
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: How entries are hidden: a mechanism of :func:`pyro_gen.imputation.ampute`, or a function that takes a
            table and ``seed=`` and returns it with more holes. Not used with a ``truth``.
        proportion: The share of the observed cells to hide, 0.2 if not given. Only for mechanisms that take one.
        repeats: How many times it is done, with other entries hidden; 3 if not given. Only without a ``truth``.
        draws: The number m of imputations.
        seed: Seeds what is hidden and what is random in the scores; the caller's generators are left alone.
        truth: The complete table, where it is known: the missing cells of ``table`` are scored, and none is hidden.
        schema: The kinds of columns by name, where they are not to be read off the table; or a whole schema.

    Returns:
        An :class:`Evaluation`: scores by column and overall, with standard errors.

    Raises:
        TypeError: If the imputer has neither ``impute`` nor ``fit_transform``.
        ValueError: If nothing can be scored, the imputer returns another shape or leaves cells missing, or options do
            not go together.

    Example:
        >>> from sklearn.impute import SimpleImputer
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> evaluation = evaluate_imputer(SimpleImputer(), x)
        >>> 0.9 < evaluation.to_dict()["overall"]["rmse_mean"] < 1.1
        True
    """
    if truth is not None and (proportion is not None or repeats is not None or mechanism != "mcar"):
        raise ValueError(
            "evaluate_imputer: with a truth nothing is hidden; leave mechanism, proportion and repeats out."
        )
    repeats = 1 if truth is not None else 3 if repeats is None else repeats
    if repeats < 1 or draws < 1:
        raise ValueError(f"evaluate_imputer(repeats={repeats}, draws={draws}): give positive numbers.")
    if truth is not None:
        shares = None
    elif callable(mechanism):
        if proportion is not None:
            raise ValueError("evaluate_imputer: a mechanism that is a function has a share of its own; no proportion.")
        shares = None
    else:
        shares = 0.2 if proportion is None and "proportion" in takes(mechanism) else proportion
    known = table if truth is None else truth
    if not isinstance(schema, Schema):
        schema = Schema.infer(known, schema)
    values, observed = schema.encode(known), _in_order(schema, table).notna().to_numpy()
    if values.shape != observed.shape:
        raise ValueError(f"truth: expected the shape of the table, {observed.shape}, got {tuple(values.shape)}.")
    tries: list[_Try] = []
    reasons: list[str] = []
    seconds = 0.0
    state = seed
    for _ in range(repeats):
        state = fork(state)
        if truth is not None:
            masked = table
        elif callable(mechanism):
            masked = mechanism(table, seed=state)
        else:
            masked = ampute(table, mechanism, shares, seed=state)
        # Of a truth all that is missing in the table, of the table itself what was not missing before.
        hidden = torch.tensor(_in_order(schema, masked).isna().to_numpy()) & ~values.isnan()
        if not bool(hidden.any()):
            raise ValueError("evaluate_imputer: no cell with a known value is missing, so nothing can be scored.")
        began = time.monotonic()
        fitted, cells = _impute(imputer, masked, schema, hidden, draws, fork(state))
        seconds += time.monotonic() - began
        log_prob, reason = _log_prob(fitted, masked, known, schema, hidden)
        tries.append(_Try(hidden, cells, log_prob))
        reasons += [reason] if reason is not None else []
    m = len(tries[0].cells)
    single = m == 1
    scale = _scales(schema, values.masked_fill(torch.tensor(~observed), math.nan))
    frame = _scored(schema, values, scale, tries, single, fork(state))
    info = {
        "imputer": type(imputer).__name__,
        "mechanism": None if truth is not None else mechanism if isinstance(mechanism, str) else _name(mechanism),
        "proportion": shares,
        "repeats": repeats,
        "draws": m,
        "seed": seed,
        "cells": sum(int(one.hidden.sum()) for one in tries),
        "single": single,
        "seconds": seconds,
        "nominal": {str(level): min(level / 100, (m - 1) / (m + 1)) for level in LEVELS},
        "no_log_score": next(iter(reasons), None),
    }
    return Evaluation(frame, info)


def _name(mechanism: Any) -> str:
    return str(getattr(mechanism, "__name__", type(mechanism).__name__))


class _Try(NamedTuple):
    """What became of some hidden cells.

    Attributes:
        hidden: Which ones, with shape (N, D).
        cells: Draws of them on the encoded scale, with shape (m, cells).
        log_prob: Log-densities of what they were, with shape (cells); NaN where the imputer has none.
    """

    hidden: Tensor
    cells: Tensor
    log_prob: Tensor


def _impute(imputer: Any, masked: Any, schema: Schema, hidden: Tensor, draws: int, seed: int) -> tuple[Any, Tensor]:
    """A fitted copy of the imputer, and draws of the hidden cells on the encoded scale, with shape (m, cells)."""
    if not (hasattr(imputer, "impute") or hasattr(imputer, "fit_transform")):
        raise TypeError(f"{type(imputer).__name__} has neither impute(table, draws=...) nor fit_transform: no imputer.")
    if hasattr(imputer, "get_params"):
        imputer = clone(imputer)
        free = [k for k, v in imputer.get_params().items() if k.split("__")[-1] == "random_state" and v is None]
        imputer.set_params(**dict.fromkeys(free, seed))
    else:
        imputer = copy.deepcopy(imputer)
    if not hasattr(imputer, "impute"):
        completed = [imputer.fit_transform(masked)]
    else:
        imputer.fit(masked)
        completed = imputer.impute(masked, draws=draws)
    cells = torch.stack([_read(schema, completed[k], hidden) for k in range(len(completed))])
    if bool(cells.isnan().any()):
        raise ValueError(f"{type(imputer).__name__} left {int(cells.isnan().any(0).sum())} hidden cells missing.")
    return imputer, cells


def _log_prob(imputer: Any, masked: Any, known: Any, schema: Schema, hidden: Tensor) -> tuple[Tensor, str | None]:
    """Log-densities of the hidden cells in the user's units, (cells), NaN where there are none; and why not."""
    none = torch.full((int(hidden.sum()),), math.nan, dtype=torch.float64)
    if not hasattr(imputer, "log_prob"):
        return none, f"{type(imputer).__name__} has no log_prob(table, values), and so no densities."
    try:
        found = np.asarray(imputer.log_prob(masked, known), dtype=float)
    except ValueError as error:  # such as a level all of whose cells are hidden: its density would be zero
        return none, str(error)
    own = getattr(imputer, "schema_", None)
    names = [str(name) for name in (getattr(masked, "columns", schema.names) if own is None else own.names)]
    if found.shape != tuple(hidden.shape):
        raise ValueError(f"log_prob returned an array of shape {found.shape}, expected {tuple(hidden.shape)}.")
    log_prob = torch.from_numpy(found[:, [names.index(name) for name in schema.names]])
    reason = None
    for d, column in enumerate(schema.columns):
        if own is not None and own.columns[names.index(column.name)].discrete != column.discrete:
            log_prob[:, d] = math.nan
            reason = f"the imputer takes column {column.name!r} for {'numbers' if column.discrete else 'levels'}."
    return log_prob[hidden], reason


def _in_order(schema: Schema, table: Any) -> pd.DataFrame:
    """A table with the columns in the order of the schema, where it has them by name."""
    if not isinstance(table, pd.DataFrame):
        return pd.DataFrame(np.asarray(table))
    names = [str(name) for name in table.columns]
    return table.iloc[:, [names.index(name) for name in schema.names]] if set(names) == set(schema.names) else table


def _read(schema: Schema, completed: Any, hidden: Tensor) -> Tensor:
    """The hidden cells of a completed table, on the encoded scale; numbers in a column of levels go to the next level.

    The schema's own encoding would refuse what an imputer may well return: a negative number in a positive column.
    """
    frame = _in_order(schema, completed)
    if frame.shape != tuple(hidden.shape):
        raise ValueError(f"the imputer returned a table of shape {frame.shape}, expected {tuple(hidden.shape)}.")
    encoded = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    for d, column in enumerate(schema.columns):
        series = frame.iloc[hidden[:, d].numpy(), d]
        if column.discrete and not all(isinstance(level, int | float) for level in column.levels):
            codes = {level: float(code) for code, level in enumerate(column.levels)}
            numbers = np.array([codes.get(value, math.nan) for value in series])
        else:
            numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            if column.discrete:
                apart = np.abs(numbers[:, None] - np.array(column.levels, dtype=float))
                numbers = np.where(np.isnan(numbers), np.nan, apart.argmin(1))
        encoded[hidden[:, d], d] = torch.from_numpy(numbers.astype(float))
    return encoded[hidden]


def _scales(schema: Schema, observed: Tensor) -> Tensor:
    """Standard deviations of the observed values (of codes, for levels), 1 for constants, with shape (D)."""
    scales = []
    for column in observed.unbind(1):
        present = column[~column.isnan()]
        varies = len(present) > 1 and bool(present.min() < present.max())
        scales.append(present.std(correction=0) if varies else present.new_ones(()))
    return torch.stack(scales)


Cells = dict[str, Tensor]  # a score of each cell, by name; roots of means are named rmse_...


def _scored(schema: Schema, values: Tensor, scale: Tensor, tries: list[_Try], single: bool, seed: int) -> pd.DataFrame:
    rows = []
    pooled: list[tuple[Cells, Tensor]] = []
    p_values = []
    for d, column in enumerate(schema.columns):
        draws = torch.cat([one.cells[:, one.hidden.nonzero()[:, 1] == d] for one in tries], 1)
        log_prob = torch.cat([one.log_prob[one.hidden.nonzero()[:, 1] == d] for one in tries])
        owner = torch.cat([one.hidden[:, d].nonzero()[:, 0] for one in tries])
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
        overall |= _joint_scores(schema, values, scale, tries)
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
    cells = {"rmse_mean": (draws.mean(0) - truth).square(), "mae_median": (_median(draws) - truth).abs()}
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


def _joint_scores(schema: Schema, values: Tensor, scale: Tensor, tries: list[_Try]) -> dict[str, float]:
    """Energy and variogram scores of rows, all columns on one scale."""
    numbers = [d for d, column in enumerate(schema.columns) if column.kind not in ("binary", "nominal")]
    scores: dict[str, list[Tensor]] = {"energy": [], "variogram": []}
    owners = []
    for hidden, cells, _ in tries:
        rows = hidden.any(1).nonzero()[:, 0]
        where = torch.full(hidden.shape, -1)
        where[hidden] = torch.arange(cells.shape[1])
        for part in rows.split(max(1, CHUNK // (len(cells) * hidden.shape[1]))):
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
