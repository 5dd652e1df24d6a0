"""Programs that keep the contract, and their data."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

import pyro_gen as pg
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


X = data()


HOLES = data().masked_fill(data() > 1.2, torch.nan)


def local_function(x):
    with plate(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pg.observe("x", dist.Normal(z[:, None].expand(-1, D), 1.0).to_event(1), x)


class Labelled(Program):
    """An image and a label: the data are a tuple."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3))
        self.decoder = nn.Linear(K + 3, D)
        self.encoder = nn.Linear(D, 2 * K)

    def model(self, x):
        image, label = x
        with self.plate(x):
            y = self.observed(label)
            z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
            classes = (y.unsqueeze(-1) == torch.arange(3)).to(z.dtype)
            h = torch.cat([z, classes.expand(*z.shape[:-1], 3)], -1)
            return pg.observe("x", dist.Normal(self.decoder(h), 1.0).to_event(1), image), y

    def observed(self, label):
        return pg.observe("y", dist.Categorical(logits=self.logits), label)

    def guide(self, x):
        with self.plate(x):
            loc, scale = self.encoder(x[0].nan_to_num()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(scale) + 1e-3).to_event(1))


PAIR = (X, torch.arange(9) % 3)
PAIR_WITH_HOLES = (X, torch.where(torch.arange(9) < 4, torch.nan, torch.arange(9) % 3))


def views(x, t):
    """Two views of one thing, which are linear in t."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pg.plate(x):
        pg.observe("first", dist.Normal(slope * t, 1.0), x[0])
        return pg.observe("second", dist.Normal((slope * t).unsqueeze(-1), torch.ones(2)).to_event(1), x[1])


VIEWS = (data()[:, 0], data()[:, 1:3])
