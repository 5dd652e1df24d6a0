"""What an evaluation of an imputer found, as tables, plain data and text."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["LEVELS", "Evaluation"]

LEVELS = (50, 80, 95)  # percent, of the intervals that an evaluation reports


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How well an imputer does, column by column and overall. Prints itself.

    Attributes:
        frame: One row a column and one called "overall", see :meth:`to_frame`.
        info: What was done: ``imputer``, ``mechanism``, ``repeats``, ``draws``, ``seed``, ``cells``,
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
            how = f"{info['repeats']} x observed cells hidden by {info['mechanism']}"
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
