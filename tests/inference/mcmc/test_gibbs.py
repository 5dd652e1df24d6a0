import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_gen.density import Density, density
from pyro_gen.inference.mcmc import run
from pyro_gen.inference.mcmc.gibbs import Gibbs, held_names

SHARES, SPREAD, NOISE = torch.tensor([0.3, 0.7]), 2.0, 0.8


def mixture(y):
    """Two components with unknown means."""
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, SPREAD))
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(SHARES))
        pyro.sample("y", dist.Normal(loc[k], NOISE), obs=y)


def draw_loc(values, y):
    """The means given the assignments: a conjugate Gaussian."""
    mine = torch.nn.functional.one_hot(values["k"], 2).to(y)
    precision = SPREAD**-2 + mine.sum(-2) / NOISE**2
    mean = (mine * y.unsqueeze(-1)).sum(-2) / NOISE**2 / precision
    return {"loc": mean + torch.randn_like(mean) / precision.sqrt()}


Y = torch.tensor([-1.0, 0.2, 0.9, 2.5])


def exact():
    """P(k) over all 16 assignments, and the mean of loc given each of them."""
    assignments = torch.tensor(list(itertools.product(range(2), repeat=4)))
    log_p, means = [], []
    for k in assignments:
        mine = torch.nn.functional.one_hot(k, 2).double()
        covariance = SPREAD**2 * mine @ mine.T + NOISE**2 * torch.eye(4).double()
        normal = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance)
        log_p.append(normal.log_prob(Y.double()) + SHARES.double()[k].log().sum())
        means.append(SPREAD**2 * mine.T @ torch.linalg.solve(covariance, Y.double()))
    return torch.stack(log_p).softmax(0), torch.stack(means)


def z_scores(draws, exact):
    """Of the means of (S, C, *) against exact ones; the chains are independent, so their means give the error."""
    means = draws.double().mean(0)
    return (means.mean(0) - exact) / (means.std(0) / len(means) ** 0.5)


def scores_of(samples):
    probabilities, means = exact()
    code = (samples.values["k"] * torch.tensor([8, 4, 2, 1])).sum(-1)
    often = probabilities > 0.01
    return torch.cat(
        [
            z_scores(torch.nn.functional.one_hot(code, 16), probabilities)[often],
            z_scores(samples.values["loc"], probabilities @ means),
        ]
    )


@pytest.mark.parametrize(
    "blocks", [{"k": "enumerate"}, {"k": "enumerate", "loc": draw_loc}], ids=["rest by HMC", "all in blocks"]
)
def test_posterior_by_enumeration(blocks):
    target = density(mixture, Y, hold=held_names(blocks))
    assert target.dim == (2 if len(blocks) == 1 else 0)
    samples = run(target, Gibbs, blocks=blocks, chains=256, warmup=100, draws=100)
    assert samples.values["k"].shape == (100, 256, 4) and samples.values["loc"].shape == (100, 256, 2)
    scores = scores_of(samples)
    # Student's t with 255 degrees of freedom, at most 18 times: false-alarm rate 2e-5 at 5.
    assert len(scores) > 10 and scores.abs().max() < 5
    assert set(samples.stats) >= ({"lp", "acceptance_rate", "diverging"} if target.dim else {"lp"})
    assert samples.stats["lp"].shape == (100, 256)


def test_posterior_by_enumeration_twin():
    def wrong(values, y):
        return draw_loc(values | {"k": values["k"].roll(1, -1)}, y)  # of other data

    blocks = {"k": "enumerate", "loc": wrong}
    samples = run(density(mixture, Y, hold=("k", "loc")), Gibbs, blocks=blocks, chains=256, warmup=20, draws=100)
    assert scores_of(samples).abs().max() > 5


# ----------------------------------------------------------------------------------------------------------------------
# Geweke's joint test: with the data drawn given the latent variables as one more block, the chains have the prior for
# their law. They start from it, so that after any number of transitions they must still be draws of it.


def joint():
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, SPREAD))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", 4):
        k = pyro.sample("k", dist.Categorical(SHARES))
        pyro.sample("y", dist.Normal(loc[k], scale))


def draw_y(values):
    loc = values["loc"].gather(-1, values["k"])
    return {"y": loc + values["scale"].unsqueeze(-1) * torch.randn_like(loc)}


def functions(values):
    loc, k, y, scale = values["loc"], values["k"].to(values["y"]), values["y"], values["scale"]
    centred = y - y.mean(-1, keepdim=True)
    return torch.stack(
        [
            loc[:, 0],
            loc[:, 1],
            loc[:, 0] * loc[:, 1],
            loc.square().sum(-1).sqrt(),
            scale.log(),
            scale.log().square(),
            k.sum(-1),
            k[:, 0] * k[:, 1],
            y.mean(-1),
            centred.abs().mean(-1),
            (k * y).mean(-1).tanh(),
            (scale.log() * centred.abs().mean(-1).log()),
        ],
        -1,
    ).double()


def geweke(sampler_type=Gibbs, update=draw_y, chains=6000, transitions=12):
    """The largest z-score of the difference between chains and independent draws of the prior."""
    blocks = {"k": "enumerate", "y": update}
    target = density(joint, hold=held_names(blocks))
    sampler = sampler_type(target, blocks=blocks, step_size=0.4, num_steps=4)
    with torch.no_grad():
        start = target.sample_prior(chains)
        state = sampler.init(start)  # k and y are drawn given the others
        before = target.constrain(start, held=sampler.held(state))
        for _ in range(transitions):
            state, figures = sampler.step(state, None)
        after = functions(target.constrain(state.z, held=sampler.held(state)))
        fresh = target.sample_prior(2 * chains)
        fresh = functions(target.constrain(fresh, held=target.draw_held(fresh)))
    assert (functions(before) != after).float().mean() > 0.9  # it moved
    assert 0.5 < figures["acceptance_rate"].mean() < 0.99
    error = (after.var(0) / len(after) + fresh.var(0) / len(fresh)).sqrt()
    return ((after.mean(0) - fresh.mean(0)) / error).abs().max()


def test_geweke():
    assert geweke() < 4.5  # 12 functions: false-alarm rate 8e-5


class StaleDensity(Gibbs):
    """Hamiltonian Monte Carlo that does not hear of what the blocks did."""

    def _point(self, z):
        self._before = getattr(self, "_before", None)
        point = super()._point(z)
        old, self._before = self._before, point
        return point if old is None else point._replace(log_density=old.log_density, grad=old.grad)


class NoPrior(Gibbs):
    """Enumeration without the prior of the site."""

    def _factors(self, name, z, held):
        factors, rest = super()._factors(name, z, held)
        return factors - SHARES.log()[held[name]], rest


def draw_narrow(values):
    loc = values["loc"].gather(-1, values["k"])
    return {"y": loc + 0.8 * values["scale"].unsqueeze(-1) * torch.randn_like(loc)}


@pytest.mark.parametrize("defect", [{"sampler_type": StaleDensity}, {"sampler_type": NoPrior}, {"update": draw_narrow}])
def test_geweke_twin(defect):
    assert geweke(**defect) > 4.5


# ----------------------------------------------------------------------------------------------------------------------
# Elements that are not independent, of other shapes, in other plates


def chain_of_spins(coupling):
    with pyro.plate("spins", 5):
        s = pyro.sample("s", dist.Bernoulli(0.5))
    pyro.factor("coupled", coupling * (s[..., 1:] == s[..., :-1]).to(coupling).sum(-1))


def coupled_within(coupling):
    with pyro.plate("spins", 5):
        s = pyro.sample("s", dist.Bernoulli(0.5))
        agrees = (s[..., 1:] == s[..., :-1]).to(coupling)
        pyro.factor("coupled", coupling * torch.cat([agrees, torch.zeros_like(agrees[..., :1])], -1))


def without_plate(coupling):
    s = pyro.sample("s", dist.Bernoulli(0.5).expand([5]).to_event(1))
    pyro.factor("coupled", coupling * (s[..., 1:] == s[..., :-1]).to(coupling).sum(-1))


def independent(target, name):
    sampler = Gibbs(target, blocks={name: "enumerate"})
    sampler.init(torch.zeros(8, *target.batch_shape, target.dim))
    return sampler._independent[name]


def by_index(y):
    """Groups in one plate, data in another: the factors of the data belong to the groups by an index alone."""
    group = torch.arange(len(y)) % 3
    with pyro.plate("groups", 3):
        s = pyro.sample("s", dist.Bernoulli(0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(s[..., group], 100.0), obs=y)


def both_of_neighbours(coupling):
    with pyro.plate("spins", 50):
        s = pyro.sample("s", dist.Bernoulli(0.02))  # nearly always 0, where nothing is coupled
        pair = s[..., 30] * s[..., 31]
        pyro.factor("coupled", coupling * torch.nn.functional.pad(pair.unsqueeze(-1), (7, 42)))


def test_weak_and_rare_couplings_are_found():
    # What one element changes among 3000 factors of others is less than a millionth of their sum.
    assert independent(density(by_index, 1e5 + torch.zeros(3000), hold=("s",)), "s") is False
    for seed in range(5):
        torch.manual_seed(seed)
        assert independent(density(both_of_neighbours, torch.tensor(1.0), hold=("s",)), "s") is False


@pytest.mark.parametrize("model", [chain_of_spins, coupled_within])
def test_coupled_elements_in_turn(model):
    target = density(model, torch.tensor(1.2), hold=("s",))
    assert independent(target, "s") is False
    samples = run(target, Gibbs, blocks={"s": "enumerate"}, chains=512, warmup=10, draws=50)
    s = samples.values["s"]
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    probabilities = (1.2 * (states[:, 1:] == states[:, :-1]).double().sum(-1)).softmax(0)
    code = (s * torch.tensor([16, 8, 4, 2, 1])).sum(-1).long()
    scores = z_scores(torch.nn.functional.one_hot(code, 32), probabilities)
    assert scores.abs().max() < 5  # 32 times: false-alarm rate 4e-5


def test_coupled_elements_at_once_twin(monkeypatch):
    monkeypatch.setattr(Gibbs, "_elements_are_independent", lambda *args: True)
    target = density(coupled_within, torch.tensor(1.2), hold=("s",))
    samples = run(target, Gibbs, blocks={"s": "enumerate"}, chains=512, warmup=10, draws=50)
    agreement = (samples.values["s"][..., 1:] == samples.values["s"][..., :-1]).double().mean(-1)
    assert z_scores(agreement, 1 / (1 + math.exp(-1.2))).abs() > 5


def test_vector_without_plate_is_updated_element_by_element():
    target = density(without_plate, torch.tensor(1.2), hold=("s",))
    assert independent(target, "s") is False
    samples = run(target, Gibbs, blocks={"s": "enumerate"}, chains=256, warmup=50, draws=50, thin=2)
    s = samples.values["s"]
    # Neighbours are equal with probability e^1.2 / (1 + e^1.2), ends with the fourth power of their correlation.
    equal = torch.tensor(1.2).sigmoid()
    ends = (1 + (2 * equal - 1) ** 4) / 2
    for expected, pair in ((equal, s[..., 1:2] == s[..., 2:3]), (ends, s[..., :1] == s[..., 4:])):
        found = pair.float().mean((0, 2))  # of each of 256 chains; false-alarm rate 1e-6 at five standard errors
        assert abs(found.mean() - expected) < 5 * found.std() / 16


def grid(x):
    """Two plates, and values that are vectors."""
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 2, dim=-1):
        kind = pyro.sample("kind", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        loc = (kind * torch.tensor([-2.0, 0.0, 2.0])).sum(-1)
        pyro.sample("x", dist.Normal(loc + level, 1.0), obs=x)


def test_vectors_in_two_plates():
    x = torch.tensor([[-2.0, 1.0], [0.5, 3.0], [0.0, -1.0]])
    target = density(grid, x, hold=("kind",))
    assert independent(target, "kind") is True
    samples = run(target, Gibbs, blocks={"kind": "enumerate"}, chains=256, warmup=100, draws=60)
    kind = samples.values["kind"]
    assert kind.shape == (60, 256, 3, 2, 3) and bool((kind.sum(-1) == 1).all())
    level = torch.linspace(-6, 6, 2001).double()
    locs, shares = torch.tensor([-2.0, 0.0, 2.0]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    log_joint = shares.log() - 0.5 * (x.double()[..., None, None] - level[:, None] - locs).square()  # (3, 2, level, 3)
    weights = (log_joint.logsumexp(-1).sum((0, 1)) - 0.5 * level.square()).softmax(0)
    expected = (log_joint.softmax(-1) * weights[:, None]).sum(2)
    scores = z_scores(kind, expected)[(expected > 0.01) & (expected < 0.99)]
    assert len(scores) > 8 and scores.abs().max() < 5  # at most 18 times: false-alarm rate 2e-5
    assert z_scores(samples.values["level"], (weights * level).sum()).abs() < 5


def test_stacked_data_sets():
    data = torch.stack([Y, Y.flip(0), Y + 0.5])
    target = density(mixture, data, hold=("k",), stacked=True)
    assert independent(target, "k") is True
    samples = run(target, Gibbs, blocks={"k": "enumerate"}, chains=256, warmup=100, draws=50)
    assert samples.values["k"].shape == (50, 256, 3, 4)
    probabilities, means = exact()
    loc = samples.values["loc"]
    scores = z_scores(loc[:, :, :2], (probabilities @ means).expand(2, 2))  # the order of the data does not matter
    assert scores.abs().max() < 5  # 4 times: false-alarm rate 5e-6


def test_goes_on():
    target = density(mixture, Y, hold=("k",))
    options = {"blocks": {"k": "enumerate"}}
    whole = run(target, Gibbs, chains=16, warmup=30, draws=20, **options)
    part = run(target, Gibbs, chains=16, warmup=30, draws=12, **options)
    rest = run(target, Gibbs, draws=8, state=part.state, **options)
    for name in ("k", "loc"):
        assert torch.equal(whole.values[name], torch.cat([part.values[name], rest.values[name]]))


def test_errors():
    target = density(mixture, Y, hold=("k",))
    with pytest.raises(ValueError, match="update the sites"):
        Gibbs(target, blocks={"loc": draw_loc})
    with pytest.raises(ValueError, match="plain functions"):
        Gibbs(Density.from_functions(lambda z: -z.square().sum(-1), dim=2), blocks={})
    with pytest.raises(ValueError, match=r'give "enumerate" or a function'):
        Gibbs(target, blocks={"k": "sample"})
    with pytest.raises(TypeError, match="give a dictionary from sites"):
        held_names(["k"])
    both = density(mixture, Y, hold=("k", "loc"))
    with pytest.raises(ValueError, match="each of its sites"):
        Gibbs(both, blocks={("k", "loc"): "enumerate"})
    for update, message in (
        (lambda values, y: {"z": values["loc"]}, "returned values of"),
        (lambda values, y: {"loc": values["loc"][:1]}, "of shape"),
    ):
        sampler = Gibbs(both, blocks={"k": "enumerate", "loc": update})
        with pytest.raises(ValueError, match=message), torch.no_grad():
            sampler.step(sampler.init(torch.zeros(3, 0)), None)
