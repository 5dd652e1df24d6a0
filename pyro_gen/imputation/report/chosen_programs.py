"""What was chosen to impute with, and why."""

import math
from dataclasses import dataclass
from typing import Any

from pyro_gen.imputation.report.summary import Summary

__all__ = ["chosen_programs"]

SHOWN_WEIGHT = 0.005  # below which a program is not named among those that draws come from


@dataclass(frozen=True)
class _Program:
    """A program that was tried.

    Attributes:
        name: Its name.
        weight: Its share of the draws.
        score: The mean log predictive density of a hidden cell, in nats; -inf where it is not known.
    """

    name: str
    weight: float
    score: float


def chosen_programs(summary: Summary) -> dict[str, Any] | None:
    """The section on programs, their weights and scores; None where nothing is known of them."""
    info = summary.info
    weights, scores = dict(info.get("weights") or {}), dict(info.get("scores") or {})
    method = info.get("method")
    if not (method or weights or scores):
        return None
    programs = [_Program(str(n), float(weights.get(n, 0.0)), _score(scores.get(n))) for n in {**weights, **scores}]
    programs.sort(key=lambda program: program.name)
    programs.sort(key=lambda program: (-program.weight, -program.score))
    return {
        "method": method,
        "programs": programs,
        "used": [program for program in programs if program.weight >= SHOWN_WEIGHT],
        "scored": len(programs) > 1 or bool(scores),
        "best": max((program.score for program in programs), default=-math.inf),
        "spread": float(info.get("spread") or 1.0),
        "atoms": [(str(name), f"{float(atom):g}") for name, atom in dict(info.get("atoms") or {}).items()],
    }


def _score(value: Any) -> float:
    number = math.nan if value is None else float(value)
    return -math.inf if math.isnan(number) else number
