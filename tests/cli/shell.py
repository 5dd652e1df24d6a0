"""What tests of the command line share: a file of a user's with programs in it, and what a command leaves behind."""

import json
from typing import Any

import pytest

from pyro_gen import cli

OWN = """
import pyro, pyro.distributions as dist, torch
from torch import nn
from pyro_gen import Program, observe
from pyro_gen.program import data_scale

class Factors(Program):
    def __init__(self, event_shape, factors=2):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.factors = factors
        size = self.event_shape.numel()
        self.loading, self.encoder = nn.Linear(factors, size), nn.Linear(size, 2 * factors)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z), self.log_scale.exp()).to_event(1), x)

    def guide(self, x):
        with self.plate(x):
            loc, log_scale = self.encoder(x.nan_to_num()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc.tanh(), log_scale.sigmoid()).to_event(1))

class Fixed(Factors):
    def __init__(self):
        super().__init__((3,))

class Unscaled(Fixed):  # a minibatch counts as the whole data
    def model(self, x):
        with self.plate(x), pyro.poutine.scale(scale=1.0 / data_scale(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z), self.log_scale.exp()).to_event(1), x)

class Explodes(Fixed):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Normal(self.loading(z) * 1e30, 1e-30).to_event(1), x)

class Needs(Program):
    def __init__(self, depth):
        super().__init__()

class Shaped(Program):
    def __init__(self, event_shape):
        super().__init__()

class Context(Fixed):
    def model(self, x, u, *others, v=None):
        return super().model(x)

def conditional(x, u, w):
    return observe("x", dist.Normal(u, 1.0).to_event(1), x)

functions = Program.from_functions(conditional)

class Late(Program):
    def __init__(self):
        self.layer = nn.Linear(2, 3)
        super().__init__()

class Never(Program):
    def __init__(self):
        self.event_shape = torch.Size((3,))

class Alien(nn.Module):
    pass

class Blind(Fixed):  # the encoder meets NaN
    def guide(self, x):
        with self.plate(x):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

class Positive(Fixed):  # the data is negative in part
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.factors), 1.0).to_event(1))
            return observe("x", dist.Exponential(self.loading(z).exp()).to_event(1), x)

class OffPrior(Fixed):  # the guide is negative in part
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Exponential(x.new_ones(self.factors)).to_event(1))
            return observe("x", dist.Normal(self.loading(z), 100.0).to_event(1), x)

not_a_program = 3
"""


FIT = ("fit", "own.py:Fixed", "--data")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def err_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a command fails with."""
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)
