"""How calibrated draws were for observed cells that were hidden."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyro_gen.imputation.report import plots
from pyro_gen.imputation.report.observed_imputed import PICTURED_COLUMNS
from pyro_gen.imputation.report.pictures import picture
from pyro_gen.imputation.report.summary import Summary

__all__ = ["calibrated", "hidden_cells"]

# Cells below which a histogram says next to nothing: of one column, and of all columns together.
CELLS_OF_A_COLUMN, CELLS_OF_ALL = 100, 20


def calibrated(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """What :func:`~pyro_gen.imputation.over_impute` found, by column."""
    return {str(name): found for name, found in dict(summary.info.get("calibration") or {}).items()}


def hidden_cells(summary: Summary) -> dict[str, Any]:
    """The section on coverage, and on where hidden values fell among their draws."""
    found = calibrated(summary)
    if not found:
        return {"columns": [], "tried": "calibration" in summary.info}
    places = [(name, np.asarray(f.get("pit", ()), dtype=float)) for name, f in found.items()]
    sizes = np.array([len(p) for _, p in places])
    coverage = np.array([float(f["coverage95"]) for f in found.values()])
    told = [(name, p) for name, p in places if len(p) >= CELLS_OF_A_COLUMN]
    together = np.concatenate([p for _, p in places])
    if len(together) >= CELLS_OF_ALL and (len(found) > 1 or not told):
        told.insert(0, ("All columns", together))
    return {
        "columns": list(zip(found, coverage.tolist(), sizes.tolist(), strict=True)),
        "coverage": float(np.average(coverage, weights=sizes if sizes.sum() else None)),
        "cells": int(sizes.sum()),
        "pictures": [(name, len(p), picture(plots.pit_histogram(p))) for name, p in told[:PICTURED_COLUMNS]],
    }
