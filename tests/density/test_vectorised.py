import subprocess
import sys
from typing import Any

import pytest
import torch

from pyro_gen.density.vectorised import light

SCRIPT = """
import sys
import arviz, pyro, torch, pyro.distributions as dist
import pyro_gen as pg

def model(y):
    loc = pyro.sample("loc", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    pyro.sample("y", dist.MultivariateNormal(loc, torch.eye(2)), obs=y)

pg.posterior(model, torch.zeros(2), chains=8, draws=4, warmup=8, progress=False, predictive=False, log_likelihood=False)
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize(
    "shapes", [(), ((),), ((2, 1), (3,), ()), ((0, 1), (5,)), ((4, 1, 3), (2, 1)), (torch.Size([7]), [1, 1])]
)
def test_shapes_broadcast_as_torch_says(shapes: Any) -> None:
    expected = torch.broadcast_shapes(*shapes)
    with light():
        assert torch.broadcast_shapes(*shapes) == expected


def test_what_does_not_broadcast_is_torch_s_error() -> None:
    with light(), pytest.raises(RuntimeError, match=r"[Ss]hape"):
        torch.broadcast_shapes((2, 3), (4,))


def test_a_posterior_waits_for_no_import() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)
