"""Large numbers that differ little: kept where the program is double precision, else said."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.data import Standardize
from pyro_gen.density.inputs import as_arguments, as_inputs
from pyro_gen.models.linear.gaussian import Gaussian

UNIT = np.random.default_rng(6).normal(size=(200, 2))
SECONDS = 1.7e9 + 60 * UNIT[:, 0]  # Unix times within minutes
FAR = 1e8 + UNIT


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (FAR, "Column 0 and 1 more: numbers near 1e\\+08 that differ by [0-9.]+ or so lose that in float32"),
        (torch.from_numpy(FAR), "Column 0 and 1 more"),
        (FAR.tolist(), "Column 0 and 1 more"),
        (pd.DataFrame({"when": SECONDS, "y": UNIT[:, 1]}), "Column 'when': numbers near 1.7e\\+09"),
        (np.stack([UNIT[:, 0], SECONDS.round()], 1).astype(np.int64), "Column 1: numbers near 1.7e\\+09"),
        (np.where(UNIT > 1, np.nan, FAR), "Column 0 and 1 more"),
    ],
)
def test_lost_digits_are_said(x: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said) as caught:
        found = as_inputs(Gaussian(2), x)[0]
    assert found.dtype == torch.float32 and len(caught) == 1
    assert "Standardise them before" in str(caught[0].message)


@pytest.mark.parametrize(
    "x",
    [
        1990 + 10 * UNIT,  # years
        5e4 + 1e4 * UNIT,  # dollars
        2e12 + 7e11 * UNIT,
        FAR.astype(np.float32),  # what is lost already
        np.full((3, 2), 1e9),  # nothing to lose
        FAR[:1],
        torch.from_numpy(UNIT),
    ],
)
def test_what_single_precision_bears_is_taken_as_it_is(x: Any) -> None:
    found = as_inputs(Gaussian(2), x)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.as_tensor(x).float())


def test_double_programs_keep_all_digits() -> None:
    """The closed form; rounded first, it is off by nats."""
    program = Gaussian(2).double()
    with torch.no_grad():
        program.loc.fill_(1e8)
    exact = torch.from_numpy(-0.5 * ((FAR - 1e8) ** 2).sum(1) - math.log(2 * math.pi))
    assert float((pg.log_likelihood(program, FAR).value - exact).abs().max()) < 1e-9
    assert float((pg.log_likelihood(program, FAR.astype(np.float32)).value - exact).abs().max()) > 1


def test_fit_says_it_and_standardising_serves() -> None:
    with pytest.warns(UserWarning, match="Column 0 and 1 more"):
        pg.fit(Gaussian(2), FAR, epochs=1, progress=False)
    program = Gaussian(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.fit(program, FAR, transform=Standardize.fit(torch.from_numpy(FAR)), epochs=1, progress=False)


def test_arrays_of_plain_functions() -> None:
    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(1e8, 10.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.warns(UserWarning, match="The data: numbers near 1e\\+08 that differ by 1 or so"):
        as_arguments(model, FAR[:, 0])
    (kept,) = as_arguments(model, torch.from_numpy(FAR[:, 0]))
    assert kept.dtype == torch.float64
