"""Programs that break the contract, in one thing each."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

import pyro_gen as pg
from pyro_gen.program import Program, data_scale, plate
from tests.evaluation.conformance.sound_programs import (
    D,
    Exact,
    Flow,
    Good,
    K,
    Labelled,
    N,
)


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
        with self.plate(x), pyro.poutine.scale(scale=1.0 / data_scale(x)):
            z = pyro.sample("z", self.prior())
            return pg.observe("x", self.likelihood(z), x)

    def guide(self, x):
        with self.plate(x), pyro.poutine.scale(scale=1.0 / data_scale(x)):
            pyro.sample("z", self.posterior(x))


class UnscaledGuide(Good):
    def guide(self, x):
        with self.plate(x), pyro.poutine.scale(scale=1.0 / data_scale(x)):
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
    """Computes with the data as they are."""

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", self.prior())
            law = dist.Normal(self.decoder(z) + 0.1 * x.mean(-1, keepdim=True), 1.0, validate_args=False)
            return pyro.sample("x", law.to_event(1), obs=x)


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
    """Observes what it computes from x, of which it alone knows what entries of x they are."""

    def model(self, x):
        with self.plate(x):
            pg.observe("x", self.likelihood(pyro.sample("z", self.prior())), x / 2)


class ReturnsInput(ReturnsNothing):
    def model(self, x):
        super().model(x)
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
        shift = pyro.get_param_store().setdefault("shift", torch.zeros(D))  # pyro.param would belong to the program
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


class Game(pg.inference.Objective):
    """Two players, of whom the second looks at the data itself, NaN and all."""

    anneals = False

    def players(self, program):
        elbo = pg.inference.ELBO()
        return [
            pg.inference.Player("place", [program.loc], elbo.loss),
            pg.inference.Player("width", [program.scale_unconstrained], Squared().loss),
        ]


class OwnGame(Exact):
    def __init__(self):
        super().__init__()
        self.objective = Game()


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


class LabelNotObserved(Labelled):
    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            h = torch.cat([z, self.logits.expand(*z.shape[:-1], 3)], -1)
            return pg.observe("x", dist.Normal(self.decoder(h), 1.0).to_event(1), x[0]), x[1]


class LabelTwice(Labelled):
    def observed(self, label):
        pg.observe("again", dist.Categorical(logits=self.logits), label)
        return super().observed(label)


class FilledFactor(Program):
    """A factor that sees zeros where entries are missing."""

    def model(self, x):
        with self.plate(x):
            pg.observe("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), x)
            pyro.factor("energy", -(x.nan_to_num() ** 2).sum(-1))
            return x


class FilledData(Program):
    """Zeros are observed in the place of what is missing in half of the columns."""

    def model(self, x):
        with self.plate(x):
            first = pg.observe("first", dist.Normal(torch.zeros(D // 2), 1.0).to_event(1), x[:, : D // 2])
            rest = pg.observe(
                "rest", dist.Normal(torch.zeros(D - D // 2), 1.0).to_event(1), x[:, D // 2 :].nan_to_num()
            )
            pyro.factor("energy", -(first**2).sum(-1) - (rest**2).sum(-1))
            return x
