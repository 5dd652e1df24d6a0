"""The conformance suite lets sound programs pass, and for each check there is a broken program that it catches."""

import functools
import importlib
import pkgutil
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

import pyro_gen as pg
import pyro_gen.evaluation.conformance as conformance
from pyro_gen.evaluation.conformance import CHECKS, Case, Check, check_program, rows, suite
from pyro_gen.program import Program, plate

N, D, K = 9, 4, 2


def data(n=N, d=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


class Good(Program):
    """A small VAE; the broken programs below differ from it in one thing each."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(K, 5), nn.Tanh(), nn.Linear(5, D))
        self.encoder = nn.Linear(2 * D, 2 * K)

    def prior(self):
        return dist.Normal(0.0, 1.0).expand([K]).to_event(1)

    def posterior(self, x):
        seen = ~x.isnan()
        loc, raw = self.encoder(torch.cat([x.nan_to_num(), seen.to(x.dtype)], -1)).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw) + 0.01).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.decoder(z), 1.0).to_event(1)

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            return pg.observe("x", self.likelihood(z), x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", self.posterior(x))


class Exact(Program):
    """No latent variable."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(D))
        self.scale = PyroParam(torch.ones(D), constraint=constraints.positive)

    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, self.scale).to_event(1), x)


def regression(x):
    """Global latent variables only, from a function; for AutoNormal."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with plate(x):
        return pg.observe("x", dist.Normal(loc, scale).to_event(1), x)


class Bayesian(Program):
    """Weights as global latent variables beside a local one, a discrete site, a context and two data sites."""

    def __init__(self):
        super().__init__()
        self.layer = PyroModule[nn.Linear](K, D)
        self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([D, K]).to_event(2))
        self.weight_loc = nn.Parameter(torch.zeros(D, K))
        self.encoder = nn.Linear(D + 1, K)
        self.shift = nn.Parameter(torch.zeros(2))

    def model(self, x, c):
        layer = self.layer
        layer.weight  # noqa: B018 - sampled once, outside of the plate
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            loc = layer(z) + c[:, None] + self.shift[k.long()][:, None]
            left = pg.observe("left", dist.Normal(loc[:, :2], 1.0).to_event(1), x[:, :2])
            right = pg.observe("right", dist.StudentT(5.0, loc[:, 2:], 1.0).to_event(1), x[:, 2:])
            return torch.cat([left, right], -1)

    def guide(self, x, c):
        pyro.sample("layer.weight", dist.Normal(self.weight_loc, 0.1).to_event(2))
        with self.plate(x):
            loc = self.encoder(torch.cat([x.nan_to_num(), c[:, None]], -1))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


class Scalar(Program):
    """Data of shape (N,)."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Bernoulli(logits=self.logit), x)


class Whole(Program):
    """A likelihood that cannot be marginalised over a part of an event."""

    def __init__(self):
        super().__init__()
        self.concentration = PyroParam(torch.ones(D), constraint=constraints.positive)

    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Dirichlet(self.concentration), x)


class Energy(Program):
    """An unnormalised density."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Linear(D, 1)

    def model(self, x):
        with self.plate(x):
            pyro.factor("x", -self.energy(x)[:, 0].square())
        return x


class Pixels(Program):
    """Two plates: data at -2, entries at -1."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(D))
        self.encoder = nn.Linear(D, D)

    def model(self, x):
        with self.plate(x, dim=-2), pyro.plate("entries", D, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pg.observe("x", dist.Normal(self.loc + z, 1.0), x)

    def guide(self, x):
        with self.plate(x, dim=-2), pyro.plate("entries", D, dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(x.nan_to_num()), 1.0))


class Chain(Program):
    """One site per entry, deterministic ones between."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))
        self.encoder = nn.Linear(D, D)

    def model(self, x):
        h, completed = 0.0, []
        with self.plate(x):
            for i in range(D):
                h = pyro.sample(f"h{i}", dist.Normal(self.decay * h, 1.0))
                loc = pyro.deterministic(f"loc{i}", 2 * h)
                completed.append(pg.observe(f"x{i}", dist.Normal(loc, 1.0), x[:, i]))
        return torch.stack(completed, -1)

    def guide(self, x):
        loc = self.encoder(x.nan_to_num())
        with self.plate(x):
            for i in range(D):
                pyro.sample(f"h{i}", dist.Normal(loc[:, i], 1.0))


class Enumerated(Program):
    """A mixture whose component is left to enumeration."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.arange(3.0 * D).reshape(3, D) / D)
        self.logits = nn.Parameter(torch.zeros(3))

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            return pg.observe("x", dist.Normal(self.loc[k], 1.0).to_event(1), x)


class Flow(Program):
    """Pyro's transform keeps the results of its last call."""

    def __init__(self):
        super().__init__()
        self.transform = dist.transforms.affine_autoregressive(D, hidden_dims=[8])

    def model(self, x):
        base = dist.Normal(torch.zeros(D), 1.0).to_event(1)
        with self.plate(x):
            # A copy: by the same tensor the transform would recognise, and repeat, its last result.
            return pg.observe("x", dist.TransformedDistribution(base, [self.transform]), x.clone())


class Implicit(Good):
    """A simulator: the data have no density."""

    def likelihood(self, z):
        return dist.Delta(self.decoder(z), event_dim=1)


def mixed(module):
    """Good with a layer between: Dropout or BatchNorm in the encoder."""

    class Mixed(Good):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(2 * D, 6), module, nn.Linear(6, 2 * K))

    return Mixed()


def network_function(compute=None):
    network = nn.Linear(K, D)
    weight, bias = network.weight, network.bias  # a copy of the network has others

    def model(x):
        pyro.module("network", network)
        with plate(x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
            loc = nn.functional.linear(z, weight, bias) if compute is None else network(z)
            return pg.observe("x", dist.Normal(loc, 1.0).to_event(1), x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(K))
        with plate(x):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return Program.from_functions(model, guide)


@functools.cache
def check(create, *args):
    """One report per program and data, whichever test asks."""
    return check_program(create(), *args)


X = data()
HOLES = data().masked_fill(data() > 1.2, torch.nan)

SOUND = {
    "vae": (Good, (X,)),
    "vae, data with holes": (Good, (HOLES,)),
    "vae, 2 rows": (Good, (data(2),)),
    "exact": (Exact, (X,)),
    "functions, AutoNormal": (lambda: Program.from_functions(regression, AutoNormal), (X,)),
    "functions, AutoMultivariateNormal": (
        lambda: Program.from_functions(regression, AutoMultivariateNormal),
        (X,),
    ),
    "functions, initialised": (
        lambda: Program.from_functions(regression, AutoNormal).initialise(data(50)),
        (data(50),),
    ),
    "global and local, context": (Bayesian, (X, torch.arange(float(N)))),
    "scalar data": (Scalar, (torch.tensor([0.0, 1.0, 1.0, 0.0]),)),
    "whole events": (Whole, (data().softmax(-1),)),
    "energy": (Energy, (X,)),
    "implicit": (Implicit, (X,)),
    "flow": (Flow, (X,)),
    "two plates": (Pixels, (X,)),
    "chain": (Chain, (X,)),
    "enumerated mixture": (Enumerated, (X,)),
    "BatchNorm in the encoder": (lambda: mixed(nn.BatchNorm1d(6)), (X,)),
    "Dropout in the encoder": (lambda: mixed(nn.Dropout(0.5)), (X,)),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_programs_pass(name):
    create, args = SOUND[name]
    report = check(create, *args)
    report.raise_for_failures()
    assert report.ok and [r.name for r in report] == list(CHECKS)


def test_what_is_skipped_and_remarked():
    skipped = {r.name for r in check(Good, X) if r.status == "skipped"}
    assert skipped == {"objective"}
    assert {r.name for r in check(Exact, X) if r.status == "skipped"} == {"guide_rows", "objective", "vmap"}
    report = check(Energy, X)
    assert {r.name for r in report if r.status == "skipped"} == {
        "guide_rows", "missing_density", "missing_exact", "missing_gradients", "missing_completion", "generation",
        "gradients", "objective", "vmap",
    }  # fmt: skip
    assert all("unnormalised" in report[n].message for n in ("missing_density", "generation", "gradients"))
    assert "whole events" in check_program(Whole(), data().softmax(-1))["missing_density"].message
    assert "BatchNorm1d" in check_program(mixed(nn.BatchNorm1d(6)), data())["train_eval"].message
    assert "coupled" in check_program(mixed(nn.BatchNorm1d(6)), data())["guide_rows"].message
    assert "Dropout" in check_program(mixed(nn.Dropout(0.5)), data())["hidden_randomness"].message
    context = (X, torch.arange(float(N)))
    assert "'k' left to enumeration" in check_program(Bayesian(), *context)["sites"].message


def local_function(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pg.observe("x", dist.Normal(z[:, None].expand(-1, D), 1.0).to_event(1), x)


# ----------------------------------------------------------------------------------------------------------------------
# Broken programs. BROKEN has, by check: (program, data, what the message must say).


class Crashes(Good):
    def model(self, x):
        raise RuntimeError("no such thing")


class MissesSite(Good):
    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            return pg.observe("x", self.likelihood(z + w), x)


class ExtraSite(Good):
    def guide(self, x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            pyro.sample("z", self.posterior(x))


class OtherShape(Good):
    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([K + 1]).to_event(1))


class OtherPlate(Good):
    def guide(self, x):
        pyro.sample("z", self.posterior(x).to_event(1))


class ColumnAgainstRow(Program):
    """x has shape (N,), the mean (N, 1): log-densities of shape (N, N), and no error from torch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def model(self, x):
        with self.plate(x):
            loc = self.layer(torch.ones(len(x), 1))
            return pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class LatentColumn(Good):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), K), 1.0))  # without to_event
            return pg.observe("x", self.likelihood(z[: len(x), :K]), x)


class NoPlate(Exact):
    def model(self, x):
        return pg.observe("x", dist.Normal(self.loc, self.scale).expand(x.shape).to_event(2), x)


class SumFactor(Exact):
    def model(self, x):
        pyro.factor("x", dist.Normal(self.loc, self.scale).log_prob(x).sum())
        return x


class SumsOverData(Exact):
    """In the plate, but each of N rows has the log-density of all."""

    def model(self, x):
        with self.plate(x):
            return pyro.sample("x", dist.Normal(self.loc, self.scale).expand(x.shape).to_event(2), obs=x)


class GlobalPerRow(Good):
    def model(self, x):
        z = pyro.sample("z", self.prior().expand([len(x)]).to_event(1))
        with self.plate(x):
            return pg.observe("x", self.likelihood(z), x)


class DecoderBatchNorm(Good):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(K, 5), nn.BatchNorm1d(5), nn.Linear(5, D))


class DecoderMean(Good):
    def likelihood(self, z):
        return dist.Normal(self.decoder(z - z.mean(0)), 1.0).to_event(1)


class EncoderMean(Good):
    def posterior(self, x):
        return super().posterior(x - x.nanmean(0))


class Unscaled(Good):
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pg.observe("x", self.likelihood(z), x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


class UnscaledGuide(Good):
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


class ScaledGlobal(Exact):
    def __init__(self):
        super().__init__()
        self.w_loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.poutine.scale(scale=pg.program.data_scale(x)):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc + w, self.scale).to_event(1), x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(self.w_loc, 1.0))


class GlobalFromBatch(ScaledGlobal):
    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc + w, self.scale).to_event(1), x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(self.w_loc + x.nanmean(), 1.0))


class RowParameters(Good):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Parameter(torch.randn(N, K))

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.encoder[: len(x)], 1.0).to_event(1))


class NaNScored(Good):
    """Masks after scoring: the value is right, the gradient is not; and the completion misses."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)


class ZeroFilled(Good):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x.nan_to_num())
            return torch.where(x.isnan(), torch.zeros_like(x), x)


class NaNEncoder(Good):
    def posterior(self, x):
        return dist.Normal(self.encoder(torch.cat([x, x], -1))[:, :K], 1.0).to_event(1)


class NaNGradient(Good):
    """The forward value is finite: the NaN is masked after the function of it."""

    def posterior(self, x):
        h = self.factor * x
        return super().posterior(torch.where(x.isnan(), torch.zeros_like(h), h))

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


class Rescaled(Good):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            return pg.observe("x", self.likelihood(z), x / 3) * 3


class ReturnsNothing(Good):
    def model(self, x):
        with self.plate(x):
            pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x)


class ReturnsInput(Good):
    def model(self, x):
        with self.plate(x):
            pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x)
        return x


class Unbounded(dist.Exponential):
    """Its sample() does not keep to its support."""

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Unbounded, _instance))

    def rsample(self, sample_shape=torch.Size()):  # noqa: B008
        return super().rsample(sample_shape) - 1


class WrongSampler(Exact):
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", Unbounded(self.scale + self.loc).to_event(1), x)


class HiddenRandomness(Good):
    def likelihood(self, z):
        return dist.Normal(self.decoder(z + torch.randn_like(z)), 1.0).to_event(1)


class HiddenRandomnessGuide(Good):
    def posterior(self, x):
        return super().posterior(x + 0.1 * torch.randn_like(x))


class ForgottenDropout(Good):
    def likelihood(self, z):
        return dist.Normal(F.dropout(self.decoder(z), 0.5), 1.0).to_event(1)


class NumPyDraws(Good):
    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Delta(torch.as_tensor(np.random.randn(len(x), K)).float(), event_dim=1))  # noqa: NPY002


class PythonDraws(Good):
    def model(self, x):
        random.random()
        with self.plate(x):
            return pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x)


class Reseeds(Good):
    def model(self, x):
        torch.manual_seed(0)
        with self.plate(x):
            return pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x)


class NormalForPositive(Good):
    def prior(self):
        return dist.LogNormal(0.0, 1.0).expand([K]).to_event(1)

    def posterior(self, x):
        return dist.Normal(5 + self.encoder(torch.cat([x, x], -1).nan_to_num())[:, :K], 0.01).to_event(1)


class Grey(Good):
    def likelihood(self, z):
        return dist.Bernoulli(logits=self.decoder(z)).to_event(1)


class NegativeScale(Exact):
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc, -self.scale).to_event(1), x)


class Unused(Good):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(2, 2)


class InfiniteGradient(Exact):
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc.abs().sqrt(), self.scale).to_event(1), x)


class NaNLoss(Exact):
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc.log() - self.loc.log(), self.scale).to_event(1), x)


class GlobalStore(Exact):
    def model(self, x):
        shift = pyro.param("shift", torch.zeros(D))
        with self.plate(x):
            return pg.observe("x", dist.Normal(self.loc + shift, self.scale).to_event(1), x)


class PlainList(Good):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(K, K)]

    def likelihood(self, z):
        return dist.Normal(self.decoder(self.layers[0](z)), 1.0).to_event(1)


class AsksTraining(Good):
    def likelihood(self, z):
        return dist.Normal(self.decoder(z) + self.training, 1.0).to_event(1)


class KnowsVmap(Good):
    """Behaves differently under vmap."""

    def likelihood(self, z):
        batched = torch._C._functorch.is_batchedtensor(z)
        return dist.Normal(self.decoder(z) + (1.0 if batched else 0.0), 1.0).to_event(1)


class ForeignState(Good):
    def get_extra_state(self):
        return random.Random(0)

    def set_extra_state(self, state):
        pass


class Caches(Good):
    """Keeps a result computed from a parameter."""

    def __init__(self):
        super().__init__()
        self.cache = None

    def likelihood(self, z):
        if self.cache is None:
            self.cache = self.decoder[2].bias.detach() + 1
        return dist.Normal(z.sum(-1, keepdim=True) + self.cache, 1.0).to_event(1)

    def posterior(self, x):
        return self.prior().expand([len(x)])


class NotDeeplyCopied(Good):
    def __deepcopy__(self, memo):
        return self


class StaleFlow(Flow):
    """A real trap of Pyro: with new parameters and the same tensor, the transform repeats its last result."""

    def model(self, x):
        base = dist.Normal(torch.zeros(D), 1.0).to_event(1)
        with self.plate(x):
            return pg.observe("x", dist.TransformedDistribution(base, [self.transform]), x)


class OtherState(Good):
    """What the density depends on is not saved."""

    def __init__(self):
        super().__init__()
        self.version = 0

    def likelihood(self, z):
        return dist.Normal(self.decoder(z) + self.version, 1.0).to_event(1)

    def load_state_dict(self, *args, **kwargs):
        self.version += 1
        return super().load_state_dict(*args, **kwargs)


class LeftThere(Program):
    """Draws a missing first column from its own conditional, whatever was seen of the columns that it feeds."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.2))

    def model(self, x):
        with self.plate(x):
            first, seen = dist.Normal(self.loc, 1.0).expand([len(x)]), ~x[:, 0].isnan()
            value = torch.where(seen, x[:, 0].nan_to_num(), first.rsample())
            pyro.sample("first", first.mask(seen), obs=value)
            rest = pg.observe(
                "rest", dist.Normal(2 * value[:, None], 1.0).expand([len(x), D - 1]).to_event(1), x[:, 1:]
            )
        return torch.cat([value[:, None], rest], -1)


class Unbalanced(dist.Normal):
    """A density that does not integrate to one over what is missing: the marginal is that of another."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.3


class NotNormalised(Exact):
    def model(self, x):
        with self.plate(x):
            return pg.observe("x", Unbalanced(self.loc, self.scale).to_event(1), x)


class Squared(pg.inference.ELBO):
    """A loss that looks at the data itself, NaN and all."""

    def loss(self, program, x, *context, kl_weight=1.0):
        return super().loss(program, x, *context) + 1e-3 * program.loc.sum() * x.square().sum()


class OwnObjective(Exact):
    def __init__(self):
        super().__init__()
        self.objective = Squared()


class Stacked(Program):
    """Enumerated side by side its label has another shape than what it is stacked with."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.tensor([-1.0, 1.0]))
        self.objective = pg.inference.EnumELBO()

    def model(self, x):
        with self.plate(x):
            k = pyro.sample("k", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            inner = torch.stack([k, x[:, 0].nan_to_num()], -1)
            return pg.observe("x", dist.Normal(inner[..., :1].expand(-1, D), 1.0).to_event(1), x)


BROKEN = {
    "runs": [(Crashes, X, "no such thing")],
    "sites": [
        (MissesSite, X, "The model samples 'w', the guide does not"),
        (lambda: Program.from_functions(regression), X, "'loc', 'scale'"),
        (ExtraSite, X, "The guide samples 'w'"),
        (OtherShape, X, "'z' has batch and event shape (9,), (2,) in the model, (9,), (3,) in the guide"),
        (OtherPlate, X, "Site 'z'"),
    ],
    "shapes": [
        (ColumnAgainstRow, data()[:, 0], "log-densities of shape (9, 9)"),
        (LatentColumn, data(2), "Site 'z' of the model has log-densities of shape (2, 2)"),
    ],
    "data_plate": [
        (NoPlate, X, "Site 'x' scores data outside"),
        (SumFactor, X, "Site 'x' scores data outside"),
    ],
    "per_datum": [
        (SumsOverData, X, "event shape (9, 4) for 9 rows, (8, 4) for 8: its log-density sums over the data"),
        (NoPlate, X, "sums over the data"),
        (GlobalPerRow, X, "Site 'z' of the model"),
    ],
    "model_rows": [
        (DecoderBatchNorm, X, "in training mode"),
        (DecoderMean, X, "in evaluation mode"),
        (SumsOverData, X, "in evaluation mode"),
    ],
    "guide_rows": [(EncoderMean, X, "Site 'z' of the guide")],
    "minibatch": [
        (Unscaled, X, "is not scaled in a minibatch: 3 of 9 rows should count 3-fold"),
        (UnscaledGuide, X, "Site 'z' of the guide is not scaled"),
        (ScaledGlobal, X, "Site 'w' of the model is scaled like data"),
        (GlobalFromBatch, X, "Site 'w' of the guide is global"),
        (RowParameters, X, "Site 'z' of the guide: the log-density of a row in a minibatch"),
        (NoPlate, X, "Site 'x' of the model is global"),
        (lambda: Program.from_functions(local_function, AutoNormal), X, "parameters for each of 9 rows"),
    ],
    "missing_density": [
        (NaNScored, X, "Site 'x' of the model has log-density nan"),
        (ZeroFilled, X, "log-likelihood"),
        (NaNEncoder, X, "Site 'z' of the guide has log-density nan"),
    ],
    "missing_exact": [
        (LeftThere, X, "With an entry of site 'first' missing"),
        (NotNormalised, X, "With an entry of site 'x' missing"),
    ],
    "missing_gradients": [
        (NaNGradient, X, "Parameter 'factor' has a gradient that is not finite with NaN in x"),
        (NaNScored, X, "The loss is nan with NaN in x, from site 'x' of the model on"),
    ],
    "missing_completion": [
        (Rescaled, X, "entries that were seen"),
        (ReturnsNothing, X, "returns NoneType"),
        (ReturnsInput, X, "(NaN)"),
    ],
    "generation": [
        (ReturnsInput, X, "miss 36 of 36 entries"),
        (WrongSampler, data().exp(), "outside of the support"),
    ],
    "hidden_randomness": [
        (HiddenRandomness, X, "Site 'x' of the model"),
        (HiddenRandomnessGuide, X, "Site 'z' of the guide"),
        (ForgottenDropout, X, "Site 'x' of the model"),
    ],
    "same_seed": [
        (NumPyDraws, X, "Site 'z' of the guide draws different values"),
        (PythonDraws, X, "NumPy or random"),
        (Reseeds, X, "reseeds"),
    ],
    "support": [
        (NormalForPositive, X, "The guide draws 'z' from Normal"),
        (Grey, 255 * data().abs(), "outside of the support of Bernoulli"),
        (NegativeScale, X, "Expected parameter scale"),
    ],
    "gradients": [
        (Unused, X, "'forgotten.weight', 'forgotten.bias'"),
        (InfiniteGradient, X, "Parameter 'loc' has a gradient that is not finite"),
        (NaNLoss, X, "from site 'x' of the model"),
    ],
    "objective": [
        (OwnObjective, X, "Squared gives the loss nan with NaN in x"),
        (Stacked, X, "stack expects each tensor to be equal size"),
    ],
    "parameters": [
        (GlobalStore, X, "'shift'"),
        (PlainList, X, "2 trainable tensors that are not parameters of the program, of shapes"),
    ],
    "train_eval": [(AsksTraining, X, "Site 'x' of the model")],
    "vmap": [(KnowsVmap, X, "vectorised over 3 chains")],
    "save_load": [
        (ForeignState, X, "Weights only load failed"),
        (Caches, X, "changes none of its log-densities"),
        (NotDeeplyCopied, X, "changes the program itself"),
        (OtherState, X, "the log-density at model x is another"),
        (StaleFlow, X, "the log-density at model x is another"),
        (network_function, X, "does not compute with its own 'params.network.weight', 'params.network.bias'"),
    ],
}


def test_every_check_is_run():
    modules = [
        importlib.import_module(f"{conformance.__name__}.{found.name}")
        for found in pkgutil.iter_modules(conformance.__path__)
    ]
    with_checks = [m for m in modules if any(isinstance(v, Check) for v in vars(m).values())]
    assert {m.__name__ for m in suite.THEMES} == {m.__name__ for m in with_checks}
    assert next(iter(CHECKS)) == "runs" and len(CHECKS) == 22


def test_every_check_has_a_broken_program():
    assert list(CHECKS) == [n for n in CHECKS if BROKEN.get(n)] and set(BROKEN) == set(CHECKS)


@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(c, case, id=f"{c}-{case[0].__name__}") for c in BROKEN for case in BROKEN[c]]
)
def test_broken_programs_are_caught(name, case):
    create, x, message = case
    report = check(create, x)
    assert report[name].status == "failed", report
    assert message in report[name].message
    assert report[name].advice
    assert not report.ok
    with pytest.raises(ValueError, match="fails"):
        report.raise_for_failures()


ALONE = [Unscaled, UnscaledGuide, GlobalStore, Unused, HiddenRandomness, EncoderMean, AsksTraining, NormalForPositive,
         ReturnsNothing, PlainList, Reseeds, InfiniteGradient, KnowsVmap, ForeignState, network_function]  # fmt: skip


CONSEQUENCES = {
    ReturnsNothing: {"generation"},
    HiddenRandomness: {"minibatch"},
    EncoderMean: {"minibatch", "missing_density"},
    InfiniteGradient: {"missing_gradients"},
}


def test_a_network_in_a_closure_passes():
    assert check(lambda: network_function("network"), X).ok


@pytest.mark.parametrize("create", ALONE)
def test_one_defect_does_not_show_as_others(create):
    expected = {check for check, cases in BROKEN.items() if create in [c[0] for c in cases]}
    expected |= CONSEQUENCES.get(create, set())
    assert {r.name for r in check(create, X).failures} == expected


# ----------------------------------------------------------------------------------------------------------------------
# The report, and what is left alone


def test_a_program_that_does_not_run_skips_the_rest():
    report = check(Crashes, X)
    assert [r.name for r in report.failures] == ["runs"]
    assert all(r.status == "skipped" for r in report.results[1:])
    assert "test_suite.py" in report["runs"].advice


def test_vmap_names_the_line_that_refuses():
    class Branches(Good):
        def likelihood(self, z):
            return dist.Normal(self.decoder(z if z.sum() > 0 else z + 0.0), 1.0).to_event(1)

    result = check_program(Branches(), data())["vmap"]
    assert result.status == "skipped" and "z.sum() > 0" in result.message


def test_vmap_with_holes_in_an_observed_context():
    class Labelled(Program):
        def model(self, x, y):
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pg.observe("y", dist.Normal(z, 1.0), y)
                return pg.observe("x", dist.Normal(z.unsqueeze(-1), torch.ones(x.shape[1])).to_event(1), x)

        def guide(self, x, y):
            with self.plate(x):
                pyro.sample("z", dist.Normal(x.nan_to_num().mean(-1), 1.0))

    y = torch.zeros(len(data()))
    y[::2] = torch.nan
    result = check_program(Labelled(), data(), y)["vmap"]
    assert result.status == "passed", result.message


def test_report():
    report = check(Unscaled, X)
    assert "\nFAILED  minibatch" in str(report) and "-> Open the data plate" in str(report)
    assert str(report).startswith(f"Unscaled: {len(CHECKS) - 2} passed, 1 failed, 1 skipped")
    assert max(map(len, str(report).splitlines())) <= 120
    as_dict = report.to_dict()
    assert as_dict["ok"] is False and len(as_dict["checks"]) == len(report) == len(CHECKS)
    assert as_dict["checks"][0]["status"] == "passed"
    with pytest.raises(KeyError, match="no check named 'other'"):
        report["other"]
    assert "regression, AutoNormal" in check_program(Program.from_functions(regression, AutoNormal), data()).program


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("create", [lambda: mixed(nn.BatchNorm1d(6)), DecoderBatchNorm, GlobalStore])
def test_program_and_store_stay_as_they_are(create):
    with torch.random.fork_rng():
        program = create()
    program.train()
    before = {n: v.clone() for n, v in program.state_dict().items()}
    check_program(program, data())
    assert all(torch.equal(v, before[n]) for n, v in program.state_dict().items())
    assert program.training and all(p.grad is None for p in program.parameters())
    assert len(pyro.get_param_store()) == 0


def test_an_autoguide_survives_the_check():
    program = Program.from_functions(regression, AutoNormal)
    assert check_program(program, data()).ok
    assert not list(program.parameters())  # still to be created, by the user's own data
    program.initialise(data())
    assert len(list(program.parameters())) == 4


def test_same_seed_same_report():
    assert str(check_program(Good(), data(), seed=3)) == str(check_program(Good(), data(), seed=3))


def test_bad_input():
    with pytest.raises(TypeError, match="needs a Program, got Linear"):
        check_program(nn.Linear(1, 1), data())
    with pytest.raises(ValueError, match="text"):
        check_program(Good(), np.array([["a"] * D] * 3))
    with pytest.raises(ValueError, match="at least 2 rows"):
        check_program(Good(), data(1))


class Rounded(Program):
    """Rows that are independent but for the last digits, which a shift by the first of them moves."""

    def __init__(self, coupled=0.0):
        super().__init__()
        self.loc, self.coupled = nn.Parameter(0.1 * torch.ones(D)), coupled

    def model(self, x):
        filled = x.nan_to_num()
        shift = 1e5 * (1 + filled[0].abs().sum())
        with plate(x):
            loc = self.loc + (0.1 * filled + shift) - shift - 0.1 * filled + self.coupled * filled[0].mean()
            return pg.observe("x", dist.Normal(loc, 1.0).to_event(1), x)


def test_rounding_is_no_coupling_of_rows():
    assert check(Rounded, X)["model_rows"].status == "passed"
    for coupled in (1e-2, 1.0):  # the twin: what couples in double precision too, by little and by much
        assert check(lambda coupled=coupled: Rounded(coupled), X)["model_rows"].status == "failed"
    assert rows.exchanged(Case(Rounded(), X, (), 0), "model") is not None  # without the second look
