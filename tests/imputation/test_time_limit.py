"""Wide tables within the time that there is."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pyro_gen.data import Column
from pyro_gen.imputation import Imputer
from pyro_gen.imputation.stacking.linear_pool import LinearPool
from pyro_gen.models.tabular import METHODS
from pyro_gen.models.tabular.parts import marginal_transforms
from pyro_gen.models.tabular.parts.marginal_transforms import fit_real, fit_real_columns

LIMIT = 6.0  # seconds of the processor, which others do not use up


def test_a_table_of_2000_columns_ends_within_about_twice_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves of all columns took half a minute, learnt twice, and the spread of the pool as long again."""
    monkeypatch.setattr(time, "monotonic", time.process_time)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2000)) + rng.normal(size=(50, 1))
    x[rng.random(x.shape) < 0.1] = np.nan
    began = time.process_time()
    imputer = Imputer(time_limit=LIMIT, random_state=0).fit(x)
    assert time.process_time() - began < 2.5 * LIMIT
    assert any("at the time limit" in note for note in imputer.info_["warnings"])
    assert len(imputer.weights_) > 0


@pytest.mark.parametrize("name", ["copula", "mixture"])
def test_curves_heed_the_deadline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on whenever it is looked at: 100 of its ticks are half of the time, and so many curves."""
    program = METHODS[name]([Column(f"c{d}", "real") for d in range(300)])
    ticks, learnt = itertools.count(), []
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))

    def count(values: torch.Tensor, families: Sequence[Any]) -> Any:
        learnt.append(len(families) > 0)
        return fit_real(values, families)

    monkeypatch.setattr(marginal_transforms, "fit_real", count)
    program.fit_posterior(torch.randn(50, 300, dtype=torch.float64), seed=0, deadline=200.0)
    assert len(learnt) == 300 and 90 <= sum(learnt) <= 100


def test_lines_after_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    skewed = [torch.randn(200, dtype=torch.float64).exp() for _ in range(4)]
    lines = [len(curve.x[0]) == 2 for curve in fit_real_columns(skewed, deadline=time.monotonic() - 1)]
    assert lines == [True] * 4
    ticks = iter(range(100))
    monkeypatch.setattr(marginal_transforms.time, "monotonic", lambda: float(next(ticks)))
    lines = [len(curve.x[0]) == 2 for curve in fit_real_columns(skewed, deadline=6.0)]  # at 1 and 2, but not at 3 and 4
    assert lines == [False, False, True, True]
    torch.manual_seed(0)
    own = [fit_real(values) for values in skewed]
    torch.manual_seed(0)
    for curve, same in zip(own, fit_real_columns(skewed), strict=True):
        assert torch.equal(curve.x, same.x) and torch.equal(curve.z, same.z)


def test_rows_by_which_a_spread_is_estimated() -> None:
    assert [LinearPool.spread_rows(d) for d in (5, 200, 2000, 100_000)] == [300, 300, 30, 1]
    assert [LinearPool.spread_rows(d, hurried=True) for d in (5, 40, 2000, 100_000)] == [300, 300, 6, 1]
