"""EnumELBO with missing entries, imputation after it, and losses that draw from the model."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyro_gen as pg
from pyro_gen.inference import EnumELBO
from pyro_gen.inference.objectives import Objective

NAN = math.nan


class Mixture(pg.Program):
    """Two columns, observed one by one, of a mixture of two components; the assignment is summed out."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.tensor([-2.0, 1.0]))
        self.shapes = []

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            a = pg.observe("a", dist.Normal(self.places[k.long()], 1.0), x[:, 0])
            b = pg.observe("b", dist.Normal(0.5, 1.0).expand([len(x)]), x[:, 1])
            self.shapes.append((a.shape, b.shape))
            return torch.stack([a, b], -1)

    def exact(self, x):
        seen = ~x.isnan()
        parts = dist.Normal(self.places, 1.0).log_prob(x[:, :1].nan_to_num()) * seen[:, :1]
        first = (parts + torch.tensor([0.6, 0.4]).log()).logsumexp(1)
        return first + dist.Normal(0.5, 1.0).log_prob(x[:, 1].nan_to_num()) * seen[:, 1]


X = torch.tensor([[NAN, 1.0], [-2.5, NAN], [1.2, 0.3], [NAN, NAN]])


@pytest.mark.parametrize("expand", [False, True])
def test_enumeration_with_holes_is_the_likelihood_of_what_was_seen(expand):
    program = Mixture()
    loss = EnumELBO(expand=expand).loss(program, X)
    assert torch.allclose(loss, -program.exact(X).sum(), rtol=1e-6)
    (got,), (want,) = (torch.autograd.grad(v, program.places) for v in (loss, -program.exact(X).sum()))
    assert torch.allclose(got, want, atol=1e-6)
    assert program.shapes[-1] == (torch.Size([4]), torch.Size([4]))  # those of the values, not of the enumeration


def test_fit_and_impute_a_mixture_whose_assignment_is_summed_out():
    """The means are global, with an autoguide; the assignment is in no guide, and is drawn given the rest."""

    runs = []

    def model(x):
        runs.append(len(x))
        with pyro.plate("components", 2):
            places = pyro.sample("places", dist.Normal(torch.tensor([-3.0, 3.0]), 2.0))
        with pg.plate(x):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            loc = places[k.long()].unsqueeze(-1)
            return pg.observe("x", dist.Normal(loc, 0.5).expand([*loc.shape[:-1], 2]).to_event(1), x)

    generator = torch.Generator().manual_seed(0)
    k = torch.rand(200, generator=generator) < 0.5
    x = torch.where(k, 2.0, -2.0).unsqueeze(1) + 0.5 * torch.randn(200, 2, generator=generator)
    x[:100, 1] = NAN
    guide = AutoNormal(pyro.poutine.block(model, hide=["k", "x"]))
    program = pg.Program.from_functions(model, guide)
    program.event_shape = torch.Size([2])
    pg.fit(program, x, objective=EnumELBO(), epochs=25, batch_size=200, lr=0.2, schedule="cosine", progress=False)
    runs.clear()
    y = pg.impute(program, x, draws=50)
    assert len(runs) < 100  # one for each draw and some more, not one for each draw of each row
    # A missing column has the mean of its component: 50 rows of 50 draws each of standard deviation .5 and rounding
    # of the means of .05.
    assert abs(y[:, :100, 1][:, k[:100]].mean() - 2) < 0.3 and abs(y[:, :100, 1][:, ~k[:100]].mean() + 2) < 0.3
    right = (y[:, :100, 1] > 0) == k[:100]
    assert right.float().mean() > 0.999


class Generating(Objective):
    """Moment matching: the mean of data that the model draws against that of the data."""

    traceable = True
    anneals = False

    def loss(self, program, x, *context, kl_weight=1.0):
        drawn = program.model(torch.full((512, x.shape[1]), NAN))
        return len(x) * (drawn.mean(0) - x.mean(0)).square().sum()


class Shift(pg.Program):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)


@pytest.mark.parametrize("compile", ["trace", False])
def test_a_loss_draws_from_the_model(compile):
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, -2.0])
    program = Shift()
    result = pg.fit(
        program, x, objective=Generating(), epochs=100, batch_size=400, lr=0.1, schedule="cosine", compile=compile,
        progress=False,
    )  # fmt: skip
    assert result.mode == ("traced" if compile else "eager")
    # The data's mean, which 512 draws a step give to .05, averaged over the last steps.
    assert torch.allclose(program.loc, x.mean(0), atol=0.15)
