"""Models of every kind against a plain Pyro loop: each is evaluated exactly, or refused for a stated reason.

The loop runs the model once for each chain in float64, gives the latent sites their values in place of draws, and adds
Pyro's ``log_prob_sum`` and the logarithms of the Jacobians; discrete latent variables are summed out over all joint
assignments, one run each. What it knows of :mod:`pyro_gen.density` is the order of the sites in a row of z.
"""

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import OrderedTransform
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from pyro.nn import PyroModule, PyroSample
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_gen.density import Density, density

SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)


def draws(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ----------------------------------------------------------------------------------------------------------------------
# The plain loop


class Fill(Messenger):
    """Gives latent sites the values T(u) from their pieces of a row z, and discrete ones those of ``states``."""

    def __init__(self, pieces: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        super().__init__()
        self.pieces, self.states = pieces, states
        self.log_abs_det: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.states:
            msg["value"] = self.states[name]
        else:
            transform = transform_of(fn)
            shape = transform.inverse_shape(fn.batch_shape + fn.event_shape)
            u = self.pieces[name].reshape(shape)
            msg["value"] = transform(u)
            self.log_abs_det = self.log_abs_det + transform.log_abs_det_jacobian(u, msg["value"]).sum()
        msg["done"] = True


class Sizes(Messenger):
    """Notes the number of unconstrained values of each latent site and the values of the discrete ones."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self.discrete: dict[str, tuple[Tensor, torch.Size]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or type(fn).__name__ == "_Subsample":
            return
        shape = fn.batch_shape + fn.event_shape
        if fn.support.is_discrete:
            self.discrete[msg["name"]] = (fn.enumerate_support(expand=False).flatten(), shape)
            msg["value"] = torch.zeros(shape, dtype=torch.long)
        else:
            transform = transform_of(fn)
            u = draws(*transform.inverse_shape(shape))
            self.sizes[msg["name"]] = u.numel()
            msg["value"] = transform(u)
        msg["done"] = True


def transform_of(fn: Any) -> Any:
    # The support of a mixture is that of its components; torch knows no transform to what it calls its constraint.
    return biject_to(fn.component_distribution.support if isinstance(fn, dist.MixtureSameFamily) else fn.support)


def assignments(discrete: dict[str, tuple[Tensor, torch.Size]]) -> Iterator[dict[str, Tensor]]:
    """All joint values of the discrete sites."""
    choices = [itertools.product(values.tolist(), repeat=shape.numel()) for values, shape in discrete.values()]
    for states in itertools.product(*choices):
        yield {n: torch.tensor(s).reshape(discrete[n][1]) for n, s in zip(discrete, states, strict=True)}


def plain(model: Callable[..., Any], data: tuple[Any, ...], names: tuple[str, ...], z: Tensor) -> Tensor:
    """The joint log-density at one row z, with shape (dim,)."""
    with Sizes() as known:
        model(*data)
    assert set(names) == set(known.sizes)
    pieces = dict(zip(names, z.split([known.sizes[n] for n in names]), strict=True))
    terms = []
    for states in assignments(known.discrete):
        fill = Fill(pieces, states)
        with fill:
            trace = pyro.poutine.trace(model).get_trace(*data)
        terms.append(trace.log_prob_sum() + fill.log_abs_det)
    return torch.stack(terms).logsumexp(0)


def plain_and_grad(probe: "Probe", names: tuple[str, ...], z: Tensor) -> tuple[Tensor, Tensor]:
    """The same for chains, a loop over them, and its gradient; coordinates that the density leaves out are drawn."""
    rows = draws(len(z), z.shape[1] + len(probe.left_out))
    kept = [i for i in range(rows.shape[1]) if i not in probe.left_out]
    rows[:, kept] = z
    rows.requires_grad_()
    value = torch.stack([plain(probe.model, probe.data, names, row) for row in rows])
    (grad,) = torch.autograd.grad(value.sum(), rows)
    assert bool((grad[:, list(probe.left_out)] == 0).all())
    return value.detach(), grad[:, kept]


# ----------------------------------------------------------------------------------------------------------------------
# The models


def eight_schools_centred(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_non_centred(y: Tensor, sigma: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(pyro.deterministic("theta", mu + tau * eta), sigma), obs=y)


def dirichlet_categorical(y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


def lkj_normal(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0).expand((3,)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=scale.diag_embed() @ factor), obs=y)


def families(counts: Tensor, y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    noise = pyro.sample("noise", dist.InverseGamma(3.0, 2.0))
    share = pyro.sample("share", dist.Beta(2.0, 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("poisson", dist.Poisson(rate), obs=counts)
        pyro.sample("negative", dist.NegativeBinomial(rate, share), obs=counts)
        pyro.sample("t", dist.StudentT(4.0, rate, noise), obs=y)


def mask_and_scale(y: Tensor, known: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)), pyro.poutine.mask(mask=known), pyro.poutine.scale(scale=2.5):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def deterministic_and_factor(y: Tensor) -> None:
    a = pyro.sample("a", dist.Exponential(1.0))
    b = pyro.deterministic("b", a.log() + 1)
    pyro.factor("penalty", -0.3 * (b - 2) ** 2)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(b, a), obs=y)


def parameter(y: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(1.7), constraint=constraints.positive)
    mu = pyro.sample("mu", dist.Normal(0.0, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double().requires_grad_(False)


DECODER = seeded(lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 5)))


def decoder(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=DECODER(z)).to_event(1), obs=x)


def regression(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ b, sigma), obs=y)


def vector_without_plate(y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(4), torch.arange(1.0, 5.0)))
    pyro.sample("y", dist.Normal(b.cumsum(0), 1.0), obs=y)


def gaussian_process(x: Tensor, y: Tensor) -> None:
    length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    kernel = (-0.5 * ((x.unsqueeze(-1) - x) / length) ** 2).exp() + (noise + 0.01) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), kernel), obs=y)


LSTM = seeded(lambda: nn.LSTM(1, 3, batch_first=True))


def lstm(y: Tensor) -> None:
    start = pyro.sample("start", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    hidden, _ = LSTM(start.reshape(1, 4, 1))  # the line
    pyro.sample("y", dist.Normal(hidden.mean((0, 1)), 1.0).to_event(1), obs=y)


def mean_over_everything(y: Tensor) -> None:
    o = pyro.sample("o", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(o.mean(), o.std()), obs=y)


def gaussian_mixture(y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def hidden_markov(y: Tensor) -> None:
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    state: Any = 0
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(rows[state]))
        pyro.sample(f"y_{t}", dist.Normal(mu[state], 1.0), obs=y[t])


def multinomial(counts: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(counts)):
        pyro.sample("counts", dist.Multinomial(10, p), obs=counts)


def multinomial_with_an_impossible_class(counts: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(counts)):
        logits = torch.stack([a, -a, torch.tensor(-torch.inf)])
        pyro.sample("counts", dist.Multinomial(10, logits=logits), obs=counts)


def ordinal(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    cuts = pyro.sample(
        "cuts", dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), OrderedTransform())
    )
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)


def ordinal_with_cuts_of_its_own(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("item", 2, dim=-2), pyro.plate("data", len(y)):
        cuts = pyro.sample("cuts", dist.Normal(0.0, 1.0).expand([2, len(y), 2]).to_event(1))
        cuts = torch.stack([cuts[..., 0], cuts[..., 0] + cuts[..., 1].exp()], -1)
        pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y.expand(2, len(y)))


def markov_distribution(y: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    move = pyro.sample("move", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), move.log(), dist.Normal(loc, 1.0)), obs=y)


def branch(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    scale = 1.0 if a > 0 else 3.0  # the line
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, scale), obs=y)


def to_float(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = float(a)  # the line
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, 1 + b**2), obs=y)


def to_tensor(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    loc = torch.tensor([a, b])  # the line
    pyro.sample("y", dist.Normal(loc, 1 + b**2).to_event(1), obs=y[:2])


def in_place(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    mu = torch.zeros(len(y))
    for i in range(len(y)):
        mu[i] = a[i % 2] * (i + 1)  # the line
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


NORM = seeded(lambda: nn.BatchNorm1d(2)).train()


def batch_norm(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(2))
    normed = NORM(z)  # the line
    pyro.sample("x", dist.Normal(normed, 1.0).to_event(2), obs=x)


def randomness(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    noise = torch.randn(len(y))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a + noise, 1.0), obs=y)


def subsampled(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y), subsample_size=3) as rows:
        pyro.sample("y", dist.Normal(a, 1.0), obs=y[rows])


def latent_mixture(y: Tensor) -> None:
    weights = dist.Categorical(torch.tensor([0.3, 0.7]))
    a = pyro.sample("a", dist.MixtureSameFamily(weights, dist.Normal(torch.tensor([-2.0, 2.0]), 0.5)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def support_of_a_latent(y: Tensor) -> None:
    s = pyro.sample("s", dist.Gamma(4.0, 1.0))
    x = pyro.sample("x", dist.Uniform(0.0, s))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def numpy_randomness(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    noise = torch.from_numpy(np.random.standard_normal(len(y)))  # noqa: NPY002
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a + noise, 1.0), obs=y)


def partly_observed(y: Tensor, known: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y, obs_mask=known)


def reparametrised(y: Tensor) -> None:
    with pyro.poutine.reparam(config={"theta": LocScaleReparam(0.0), "b": TransformReparam()}):
        centred(y)


def centred(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, b))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


class BayesianNetwork(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = PyroModule[nn.Linear](2, 3).double()
        normal = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
        self.hidden.weight = PyroSample(normal.expand((3, 2)).to_event(2))
        self.hidden.bias = PyroSample(normal.expand((3,)).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> None:
        loc = self.hidden(x).tanh().sum(-1)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def bayesian_network(x: Tensor, y: Tensor) -> None:
    BAYESIAN(x, y)


BAYESIAN = BayesianNetwork()


def sequential_plate(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    for i in pyro.plate("data", len(y)):
        theta = pyro.sample(f"theta_{i}", dist.Normal(0.0, scale))
        pyro.sample(f"y_{i}", dist.Normal(theta, 1.0), obs=y[i])


def scaled_latent(y: Tensor) -> None:
    with pyro.poutine.scale(scale=0.5):
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)


# ----------------------------------------------------------------------------------------------------------------------
# The table


@dataclass(frozen=True)
class Probe:
    """A model, its data, and what becomes of it.

    Attributes:
        outcome: ``"vectorised"`` (no warning), ``"loop"`` (exact, with a warning that names the line marked in the
            model), ``"either"``, by the version of PyTorch, or what the refusal says.
        left_out: The unconstrained values that are masked out, so that the density is flat along them.
    """

    model: Callable[..., None]
    data: tuple[Tensor, ...]
    outcome: str = "vectorised"
    left_out: tuple[int, ...] = ()


SCHOOLS = (torch.tensor(SCHOOLS_Y).double(), torch.tensor(SCHOOLS_SIGMA).double())
Y = draws(6).double()
KNOWN = torch.tensor([True, False, True, True, False, True])
COUNTS = torch.tensor([[1, 4, 5], [0, 7, 3], [2, 2, 6], [10, 0, 0]]).double()

PROBES = (
    Probe(eight_schools_centred, SCHOOLS),
    Probe(eight_schools_non_centred, SCHOOLS),
    Probe(dirichlet_categorical, (torch.tensor([0, 2, 1, 2, 2]),)),
    Probe(lkj_normal, (draws(6, 3).double(),)),
    Probe(families, (torch.tensor([0.0, 3.0, 1.0, 4.0, 2.0, 0.0]).double(), Y)),
    Probe(mask_and_scale, (Y, KNOWN)),
    Probe(deterministic_and_factor, (Y,)),
    Probe(parameter, (Y,)),
    Probe(decoder, ((draws(4, 5) > 0).double(),)),
    Probe(regression, (draws(6, 3).double(), Y)),
    Probe(vector_without_plate, (Y[:4],)),
    Probe(gaussian_process, (torch.linspace(-2, 2, 6).double(), Y)),
    Probe(lstm, (Y[:3],), "either"),
    Probe(mean_over_everything, (Y,)),
    Probe(gaussian_mixture, (Y,)),
    Probe(hidden_markov, (Y[:4],)),
    Probe(multinomial, (COUNTS,)),
    Probe(multinomial_with_an_impossible_class, (COUNTS * torch.tensor([1.0, 1.0, 0.0]),)),
    Probe(ordinal, (Y, torch.tensor([0, 1, 2, 3, 3, 0]))),
    Probe(ordinal_with_cuts_of_its_own, (Y, torch.tensor([0, 1, 2, 2, 1, 0]))),
    Probe(markov_distribution, (Y,)),
    Probe(branch, (Y,), "loop"),
    Probe(to_float, (Y,), "out of the graph"),
    Probe(to_tensor, (Y,), "out of the graph"),
    Probe(in_place, (Y,), "loop"),
    Probe(batch_norm, (draws(4, 2).double(),), "loop"),
    Probe(randomness, (Y,), "random"),
    Probe(subsampled, (Y,), "subsample"),
    Probe(latent_mixture, (Y,)),
    Probe(support_of_a_latent, (Y,)),
    Probe(numpy_randomness, (Y,), "random"),
    Probe(partly_observed, (Y, KNOWN), left_out=(1, 3, 4, 6)),
    Probe(reparametrised, (Y,)),
    Probe(bayesian_network, (draws(6, 2).double(), Y)),
    Probe(sequential_plate, (Y[:3],)),
    Probe(scaled_latent, (Y,)),
)


def marked_line(model: Callable[..., None]) -> int | None:
    lines, first = inspect.getsourcelines(model)
    return next((first + i for i, line in enumerate(lines) if "# the line" in line), None)


def compare(target: Density, probe: Probe) -> None:
    """Three sets of three chains: values and gradients, by all ways to ask for them, and the sites' values."""
    for seed in range(3):
        z = draws(3, *target.batch_shape, target.dim, seed=seed)
        value, grad = plain_and_grad(probe, target.names, z.reshape(3, -1))
        grad = grad.view_as(z)
        terms = target.value_and_grad(z)

        def joint(t: Tensor) -> Tensor:
            return t.reshape(len(t), -1).sum(1)

        same(joint(terms.log_prior + terms.log_likelihood), value)
        same(terms.grad_prior + terms.grad_likelihood, grad)
        tempered, tempered_grad = target.log_density_and_grad(z, beta=0.3)
        same(joint(tempered), joint(terms.log_prior + 0.3 * terms.log_likelihood))
        same(tempered_grad, terms.grad_prior + 0.3 * terms.grad_likelihood)
        points = z.clone().requires_grad_()
        differentiable = target.log_density(points)
        same(joint(differentiable), value)
        same(torch.autograd.grad(differentiable.sum(), points)[0], grad)
        same(target.unconstrain(target.constrain(z)), z)


def evaluate(probe: Probe) -> None:
    target = density(probe.model, *probe.data)
    target.value_and_grad(draws(3, target.dim, seed=1))


def same(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9, check_dtype=True)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # PyTorch's own, at float(a)
@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.model.__name__)
def test_probe(probe: Probe) -> None:
    if probe.outcome not in ("vectorised", "loop", "either"):
        with pytest.raises(ValueError, match=probe.outcome):
            evaluate(probe)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = density(probe.model, *probe.data)
        compare(target, probe)
    if target.mode == "loop":
        assert probe.outcome != "vectorised", str(caught[0].message)
        assert len(caught) == 1 and f"{Path(__file__).name}:{marked_line(probe.model)}:" in str(caught[0].message)
    else:
        assert probe.outcome != "loop" and not caught, [str(w.message) for w in caught]
