"""Every function takes data as a user has it: data frames, arrays, lists, of any precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import as_context

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
KINDS: dict[str, Callable[[Tensor], Any]] = {
    "float64": lambda x: x.double(),
    "array": lambda x: x.double().numpy(),
    "frame": lambda x: pd.DataFrame(x.double().numpy(), columns=list("abc")),
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_as_a_user_has_it(kind: str) -> None:
    program = pg.models.FactorAnalysis(3, 1, guide="amortised")
    given = KINDS[kind](X)
    pg.fit(program, given, validation=given, epochs=1, progress=False)
    for method in ("exact", "iwae", "ais"):
        ours, theirs = (pg.log_likelihood(program, x, method=method).value for x in (X, given))
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(pg.reconstruct(program, X), pg.reconstruct(program, given))
    assert pg.check_program(program, given).ok

    holes = X.clone()
    holes[::2, 0] = torch.nan
    given = KINDS[kind](holes)
    completed = pg.impute(program, given, draws=3)
    seen = ~np.isnan(np.asarray(given, dtype=float))
    assert (np.asarray(completed[0])[seen] == np.asarray(given, dtype=np.asarray(completed).dtype)[seen]).all()
    assert not completed.isnan().any()


def test_integers_and_context() -> None:
    program = pg.models.Gaussian(3)
    assert pg.log_likelihood(program, X.round().long()).mean() == pg.log_likelihood(program, X.round()).mean()
    with pytest.raises(ValueError, match="text"):
        pg.log_likelihood(program, pd.DataFrame({"a": ["x"], "b": [1.0], "c": [2.0]}))


def test_lists_of_several_lengths_are_handed_on_as_they_are() -> None:
    words = [[1, 2], [3], [4, 5, 6]]
    assert as_context(pg.models.Gaussian(3), 3, (words,))[0] is words
    assert as_context(pg.models.Gaussian(3), 3, ([[1, 2], [3, 4], [5, 6]],))[0].tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("kind", KINDS)
def test_context_as_a_user_has_it(kind: str) -> None:
    program, rows = pg.models.MADE(4, context=3), (X > 0)[:, [0, 1, 2, 0]].float()
    given = KINDS[kind](X)
    ours, theirs = (pg.sample(program, 30, context=(c,), seed=1) for c in (X, given))
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (pg.log_likelihood(program, rows, c).value for c in (X, given))
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(TypeError, match=r"give a tuple of what the model conditions on, \(labels,\) of one"):
        pg.sample(program, 30, context=X)
    with pytest.raises(ValueError, match=r"context 1.*text"):
        pg.log_likelihood(program, rows, pd.DataFrame({"a": ["x"] * 30, "b": [1.0] * 30, "c": [2.0] * 30}))
