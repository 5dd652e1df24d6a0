"""Over-imputation: calibrated draws are told from others, and who imputes never saw what is hidden."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone

from pyro_gen.data.schema import Schema
from pyro_gen.imputation.amputation import MCAR, ampute
from pyro_gen.imputation.completed import Completed
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.report import over_impute
from pyro_gen.imputation.scores import interval_coverage, pit_test
from pyro_gen.models.tabular import TableGaussian, TableStudent


class Knowing(BaseEstimator):  # type: ignore[misc]
    """Imputes independent normal columns by draws with their own distribution, or with another scale."""

    def __init__(self, scale: float = 1.0, schema: Any = None) -> None:
        self.scale, self.schema = scale, schema

    def fit(self, table: Any) -> "Knowing":
        self.schema_ = self.schema or Schema.infer(table)
        self.seen_ = int(np.isfinite(np.asarray(table)).sum())
        SEEN.append(self.seen_)
        return self

    def refit(self, table: Any) -> "Knowing":
        learner: Knowing = clone(self).set_params(schema=self.schema_)
        return learner.fit(table)

    def impute(self, table: Any, draws: int) -> Completed:
        missing = np.isnan(np.asarray(table))
        rng = np.random.default_rng(1)
        cells = torch.from_numpy(self.scale * rng.normal(size=(draws, int(missing.sum()))))
        return Completed.from_cells(cells, missing, schema=self.schema_, like=table)


SEEN: list[int] = []


@pytest.mark.parametrize("frame", [True, False])
def test_over_imputation_tells_calibrated_draws_from_others(frame: bool, untouched_rng: None) -> None:
    rng = np.random.default_rng(0)
    x = np.where(rng.random((6000, 3)) < 0.1, np.nan, rng.normal(size=(6000, 3)))
    table = pd.DataFrame(x, columns=["x0", "x1", "x2"]) if frame else x
    cells, passed = [], {}
    for scale in (1.0, 0.7, 1.5):
        SEEN.clear()
        found = over_impute(Knowing(scale).fit(table), table, share=0.2)
        # It learnt from a table with a fifth of the observed cells hidden, to three standard errors.
        assert abs(SEEN[1] / SEEN[0] - 0.8) < 0.01
        places = np.concatenate([f["pit"] for f in found.values()])
        cells.append(len(places))
        # Of 2000 rows with a hidden cell, more than 2000 cells. Coverage to 4 standard errors (6e-5 by chance).
        coverage = np.average(
            [f["coverage95"] for f in found.values()], weights=[len(f["pit"]) for f in found.values()]
        )
        flat = np.abs(np.histogram(places, 10, (0, 1))[0] / len(places) - 0.1).max() < 4 * math.sqrt(0.09 / len(places))
        passed[scale] = (abs(coverage - 0.95) < 4 * math.sqrt(0.05 * 0.95 / len(places)), flat)
    assert min(cells) > 2000
    # Ten bins at 4 standard errors: 6e-4 by chance, of which this seed has none; the twins must fail both.
    assert passed == {1.0: (True, True), 0.7: (False, False), 1.5: (False, False)}


class Rolling(Knowing):
    """Imputes independent ordered levels 1, 2, 3, 4 by draws with their own shares, or with others."""

    def impute(self, table: Any, draws: int) -> Completed:
        missing = np.asarray(table.isna())
        shares = np.array([0.5, 0.3, 0.15, 0.05]) ** self.scale
        cells = np.random.default_rng(1).choice(4, (draws, int(missing.sum())), p=shares / shares.sum())
        return Completed.from_cells(torch.from_numpy(cells), missing, schema=self.schema_, like=table)


def test_levels_are_not_held_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"grade": rng.choice([1.0, 2, 3, 4, np.nan], 9000, p=[0.45, 0.27, 0.135, 0.045, 0.1])})
    schema = Schema.infer(table, {"grade": "ordinal"})
    passed = {}
    for scale in (1.0, 2.0, 0.3):
        found = over_impute(Rolling(scale, schema).fit(table), table, share=0.2)["grade"]
        assert len(found["pit"]) > 1000
        # To four standard errors (6e-5 by chance), and places that are uniform (1e-4).
        close = abs(found["coverage95"] - 0.95) < 4 * math.sqrt(0.05 * 0.95 / len(found["pit"]))
        passed[scale] = (close, pit_test(found["pit"]) > 1e-4)
    # Draws too far apart have the levels at the ends too often, which intervals hardly notice, and places do.
    assert passed == {1.0: (True, True), 2.0: (False, False), 0.3: (True, False)}
    # Intervals with their ends hold all but the rarest level, if the draws be right.
    right = torch.tensor([0.0, 1, 2, 3]).repeat_interleave(torch.tensor([50, 29, 15, 5]))[:, None]
    hidden = torch.from_numpy(rng.choice(4, 2000, p=[0.5, 0.3, 0.15, 0.05])).double()
    held = interval_coverage(right.expand(-1, 2000), hidden).covered.mean()
    assert held > 0.99


def test_over_imputation_learns_once_what_was_kept_and_sees_no_hidden_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1)) + rng.normal(size=(300, 3))
    x[rng.random(x.shape) < 0.1] = np.nan
    imputer = Imputer(["gaussian", "student_t"], random_state=0).fit(x)
    assert len(imputer.weights_) == 2
    programs, weights, learnt = dict(imputer.programs_), dict(imputer.weights_), []
    for kind in (TableGaussian, TableStudent):

        def noted(self: Any, x: torch.Tensor, fit: Any = kind.fit_posterior, **options: Any) -> Any:
            learnt.append((type(self).__name__, x.isnan().numpy()))
            return fit(self, x, **options)

        monkeypatch.setattr(kind, "fit_posterior", noted)
    mixed = []
    monkeypatch.setattr(Imputer, "impute", lambda self, *a, **k: mixed.append(self) or IMPUTE(self, *a, **k))
    found = over_impute(imputer, x, seed=3)
    assert sorted(name for name, _ in learnt) == ["TableGaussian", "TableStudent"]
    hidden = np.isnan(ampute(x, MCAR(0.1), seed=3)) & ~np.isnan(x)
    assert all(holes[hidden].all() and (holes == np.isnan(x) | hidden).all() for _, holes in learnt)
    assert sum(len(f["pit"]) for f in found.values()) == hidden.sum() > 50
    # Both make draws, with the weights of before; the imputer that was given stays as it was.
    assert mixed[0].weights_ == weights and list(mixed[0].programs_) == list(weights) and mixed[0] is not imputer
    assert imputer.programs_ == programs and imputer.weights_ == weights


IMPUTE = Imputer.impute
