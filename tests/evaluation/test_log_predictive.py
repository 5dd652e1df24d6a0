"""The measure of programs whose parameters are all drawn: a normal mean by its closed form, and Gibbs blocks."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.data.prepared import Prepared
from pyro_gen.registry import MEASURES

MEASURE = MEASURES["log_predictive"].function


class Mean(pg.Program):
    """x ~ N(loc, 1), loc ~ N(0, 1), with its conditional."""

    def model(self, x):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 1.0))
        with self.plate(x):
            return pg.observe("x", dist.Normal(loc, 1.0), x)

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def blocks(self):
        def draw(values, x):
            precision = 1 + len(x)
            return {"loc": x.sum() / precision + torch.randn_like(values["loc"]) / math.sqrt(precision)}

        return {"loc": draw}


def exact(train, test):
    loc, scale = train.sum() / (1 + len(train)), (1 + 1 / (1 + len(train))) ** 0.5
    return float(dist.Normal(loc, scale).log_prob(test).mean())


@pytest.mark.parametrize("options", [{"method": "gibbs"}, {"method": "hmc"}])
def test_a_normal_mean(options):
    train, test = torch.tensor([1.0, 2.0, 0.0, 1.5]), torch.tensor([0.5, 3.0])
    data = Prepared(train, None, test, None, None, None, None)
    found = MEASURE(Mean(), data, chains=32, warmup=100, draws=50, **options)
    assert found.value == pytest.approx(exact(train, test), abs=0.03)
    assert abs(found.value - exact(train[:1], test)) > 0.1  # the twin: by a datum of four
