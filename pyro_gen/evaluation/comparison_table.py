"""What a comparison of models found: a table that prints itself, with what it could not compute and why."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_gen.inference.likelihood.held_out import RELIABLE
from pyro_gen.inference.likelihood.result import LogLikelihood, number_or_none

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "Compared", "Comparison"]

COLUMNS = {"evidence": "log-evidence", "loo": "leave-one-out", "held_out": "held-out"}


@dataclass
class Compared:
    """What is known of one entry.

    Attributes:
        evidence: The log-evidence of all data, in nats; ``None`` where ``reasons`` says why not.
        loo: The log-density of each datum given the others, nats per datum.
        held_out: The log predictive density of each datum held out, nats per datum.
        reasons: Why a column is missing, by its name.
        remarks: What is to be known of the columns that are there, by their names.
    """

    evidence: LogLikelihood | None = None
    loo: LogLikelihood | None = None
    held_out: LogLikelihood | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Models side by side; prints itself as a table.

    Attributes:
        entries: What is known of each, by its name.
        weights: The stacking weights of those with a leave-one-out density, by name.
    """

    entries: dict[str, Compared]
    weights: dict[str, float]

    def best(self, by: str = "evidence") -> str:
        """The name of the entry with the highest evidence, or of another column.

        Arguments:
            by: ``"evidence"``, ``"loo"`` or ``"held_out"``.

        Raises:
            ValueError: There is no such column, or no entry has it.
        """
        if by not in COLUMNS:
            raise ValueError(f"best({by!r}): choose one of {', '.join(COLUMNS)}.")
        means = self._means(by)
        if not means:
            raise ValueError(f"best({by!r}): no entry has it: {self._why_not(by)}.")
        return max(means, key=lambda name: means[name])

    def to_pandas(self) -> "pd.DataFrame":
        """The table: a row an entry, by falling evidence (or the first column that all have), NaN where there is none.

        ``log_evidence`` with its Monte Carlo ``log_evidence_error``, nats; ``probability`` of the model given the data,
        where all in the table that have an evidence are as probable before. ``loo`` in nats per datum with its error as
        an estimate for new data, ``loo_error``; how far it is below the best, ``loo_difference``, with the error of
        that, which is smaller, since the data are the same; ``p_loo``, the effective number of parameters;
        ``bad_khat``, the number of data that are too influential to be left out by weights. ``weight``, of stacking.
        ``held_out``, ``held_out_error``, ``held_out_difference`` and its error, likewise.
        """
        import pandas as pd

        rows: dict[str, dict[str, float]] = {name: {} for name in self.entries}
        evidences = self._means("evidence")
        top = max(evidences.values(), default=0.0)
        total = sum(math.exp(v - top) for v in evidences.values())
        for name, entry in self.entries.items():
            row = rows[name]
            if entry.evidence is not None:
                row["log_evidence"] = evidences[name]
                row["log_evidence_error"] = entry.evidence.mean_standard_error()
                row["probability"] = math.exp(evidences[name] - top) / total
            row |= self._predictive(name, "loo")
            if entry.loo is not None:
                known = entry.loo.diagnostics
                row["p_loo"] = float(known["p_loo"].sum()) if "p_loo" in known else 0.0
                row["bad_khat"] = float((known["khat"] > RELIABLE).sum()) if "khat" in known else 0.0
                row["weight"] = self.weights[name]
            row |= self._predictive(name, "held_out")
        order = ["log_evidence", "log_evidence_error", "probability"]
        order += [*_names("loo"), "p_loo", "bad_khat", "weight", *_names("held_out")]
        table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=order)
        full = [c for c in ("log_evidence", "loo", "held_out") if table[c].notna().all()]
        return table.sort_values(full[0], ascending=False, kind="stable") if full else table

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text only, for JSON, an entry by its name; units as in :meth:`to_pandas`."""
        table = self.to_pandas()
        return {
            str(name): {c: number_or_none(v) for c, v in row.items()}
            | {"reasons": dict(self.entries[str(name)].reasons), "remarks": dict(self.entries[str(name)].remarks)}
            for name, row in table.iterrows()
        }

    def __str__(self) -> str:
        table = self.to_pandas()
        shown: dict[str, list[str]] = {"": [str(name) for name in table.index]}
        for key, head, digits in (("log_evidence", "log-evidence", 2), ("loo", "LOO", 3), ("held_out", "held out", 3)):
            if table[key].notna().any():
                pairs = zip(table[key], table[f"{key}_error"], strict=True)
                shown[head] = [_figure(v, e, digits) for v, e in pairs]
            if key == "log_evidence" and table["probability"].notna().any():
                shown["probability"] = [_figure(p, None, 3) for p in table["probability"]]
            if key == "loo" and table["loo"].notna().any():
                pairs = zip(table["loo_difference"], table["loo_difference_error"], strict=True)
                shown["to the best"] = ["0" if v == 0 else _figure(v, e, 3) for v, e in pairs]
                shown["weight"] = [_figure(w, None, 3) for w in table["weight"]]
        widths = [max(map(len, [head, *column])) for head, column in shown.items()]
        first, *others = widths
        rows = [list(shown), *zip(*shown.values(), strict=True)]
        lines = [
            "  ".join([r[0].ljust(first), *(c.rjust(w) for c, w in zip(r[1:], others, strict=True))]) for r in rows
        ]
        lines.append("log-evidence in nats, with its Monte Carlo error; LOO and held out in nats per datum")
        for name, entry in self.entries.items():
            lines += [f"{name}: no {COLUMNS[column]}: {why}" for column, why in entry.reasons.items()]
            lines += [f"{name}: {COLUMNS[column]}: {what}" for column, what in entry.remarks.items()]
        return "\n".join(lines)

    __repr__ = __str__

    def plot(self) -> "Figure":
        """Draws each column that there is with its errors, and the stacking weights; a figure."""
        from matplotlib.figure import Figure  # takes a second to import

        table = self.to_pandas()[::-1]
        panels = [
            ("log_evidence", "log_evidence_error", "log-evidence, nats"),
            ("loo", "loo_difference_error", "leave-one-out, nats per datum"),
            ("held_out", "held_out_difference_error", "held-out, nats per datum"),
        ]
        panels = [panel for panel in panels if table[panel[0]].notna().any()]
        columns = len(panels) + bool(self.weights)
        figure = Figure((1.5 + 2.6 * columns, 1.3 + 0.4 * len(table)), layout="constrained")
        axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
        places = np.arange(len(table))
        for ax, (value, error, label) in zip(axes, panels, strict=False):
            ax.axvline(table[value].max(), color="0.85", lw=1)
            ax.errorbar(table[value], places, xerr=table[error].fillna(0.0), fmt="o", ms=5, color="C0", capsize=2)
            ax.set_xlabel(label)
        if self.weights:
            axes[-1].barh(places, table["weight"].fillna(0.0), color="C1", height=0.5)
            axes[-1].set(xlabel="stacking weight", xlim=(0, 1))
        axes[0].set_yticks(places, [str(name) for name in table.index])
        axes[0].set_ylim(-0.6, len(table) - 0.4)
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.locator_params(axis="x", nbins=5)
        return figure

    def _means(self, column: str) -> dict[str, float]:
        found = {name: getattr(entry, column) for name, entry in self.entries.items()}
        return {name: v.mean() for name, v in found.items() if v is not None}

    def _predictive(self, name: str, column: str) -> dict[str, float]:
        """Value, error, difference to the best entry and its error, in nats per datum."""
        found: LogLikelihood | None = getattr(self.entries[name], column)
        if found is None:
            return {}
        best: LogLikelihood = getattr(self.entries[self.best(column)], column)
        difference = found.value - best.value
        error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        figures = (found.mean(), found.sampling_error(), float(difference.mean()), error)
        return dict(zip(_names(column), figures, strict=True))

    def _why_not(self, column: str) -> str:
        return "; ".join(f"{name}: {entry.reasons[column]}" for name, entry in self.entries.items())


def _names(column: str) -> tuple[str, str, str, str]:
    return column, f"{column}_error", f"{column}_difference", f"{column}_difference_error"


def _figure(value: float, error: float | None, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if error is None or math.isnan(error) else f" +- {error:.{digits}f}")
