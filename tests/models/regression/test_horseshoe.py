"""The regularised horseshoe: weights by its formula, how many its prior leaves free, a sparse truth."""

import math

import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import Horseshoe
from pyro_gen.program import fixed
from pyro_gen.traces import trace_side

F64 = torch.float64


def test_weights_by_the_formula_of_the_paper():
    local, z = torch.tensor([0.1, 1.0, 500.0], dtype=F64), torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    one = torch.ones((), dtype=F64)
    values = {"tau": 0.7 * one, "lambda": local, "slab": 4.0 * one, "z": z, "alpha": one, "sigma": 0.6 * one}
    u = torch.eye(3, dtype=F64)
    with fixed(values):
        trace = trace_side(Horseshoe(3, relevant=1, rows=25).double(), "model", torch.zeros(3).double(), u)
    tau = 1 / 2 * 0.6 / 5 * 0.7
    expected = [
        w * math.sqrt(4 * (tau * v) ** 2 / (4 + (tau * v) ** 2))
        for w, v in zip(z.tolist(), local.tolist(), strict=True)
    ]
    assert trace.nodes["beta"]["value"].tolist() == pytest.approx(expected)
    assert trace.nodes["y"]["fn"].loc.tolist() == pytest.approx([1 + b for b in expected])
    assert abs(expected[2]) < 0.5 * 2.0 < 0.5 * tau * 500  # the slab holds what the horseshoe alone would not


def test_the_prior_leaves_as_many_weights_free_as_are_expected_to_matter():
    # 1 - kappa = a / (1 + a), a = N tau_0^2 lambda^2 / sigma^2 (section 3.3); 100,000 draws of numbers in (0, 1).
    program = Horseshoe(40, relevant=4, rows=200)
    local = torch.distributions.HalfCauchy(torch.ones(100_000, dtype=F64))
    torch.manual_seed(0)
    a = 200 * (program.tau_0 * local.sample()).square()
    free = 40 * (a / (1 + a))
    assert abs(free.mean() - 4) < 5 * free.std() / math.sqrt(100_000)
    assert abs((a * 9 / (1 + a * 9)).mean() * 40 - 4) > 1  # where rows are forgotten in part


def test_few_weights_of_many_are_found():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(60, 20, generator=generator)
    y = 2 * u[:, 3] - 1.5 * u[:, 7] + 0.5 * torch.randn(60, generator=generator)
    program = Horseshoe(20, relevant=2, rows=60)
    pg.fit(program, (y, u), epochs=1000, batch_size=60, lr=0.02, progress=False)
    unit = pg.predict(program, None, torch.cat([torch.eye(20), torch.zeros(1, 20)]), draws=400, returns="mean")
    found = unit[:20] - unit[20]  # posterior means of the weights
    # Least squares is off by 0.5 / sqrt(60) in each weight; the horseshoe by half of that where there is none.
    least_squares = torch.linalg.lstsq(torch.cat([u, torch.ones(60, 1)], 1), y).solution[:20]
    others = [p for p in range(20) if p not in (3, 7)]
    assert abs(found[3] - 2) < 0.3 and abs(found[7] + 1.5) < 0.3
    assert found[others].norm() < 0.6 * least_squares[others].norm()


def test_misfits_are_explained():
    for make, words in (
        (lambda: Horseshoe(3, 3, 10), "less than 3"),
        (lambda: Horseshoe(3, 1, 0), "positive"),
        (lambda: Horseshoe(3, 1, 5).model(torch.zeros(2), torch.zeros(2, 2)), r"\(N, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
