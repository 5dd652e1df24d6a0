"""Stochastic block models written plainly: refused where they cannot be summed out, and right by Gibbs blocks."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.density import density
from pyro_gen.inference.mcmc.gibbs import Gibbs

N = 6
ADJACENCY = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 4], [2, 3]])
A = torch.zeros(N, N)
A[ADJACENCY[:, 0], ADJACENCY[:, 1]] = A[ADJACENCY[:, 1], ADJACENCY[:, 0]] = 1.0
ROWS, COLUMNS = torch.tril_indices(N, N, -1)


def probabilities():
    return pyro.sample("p", dist.Beta(1.0, 1.0)), pyro.sample("q", dist.Beta(1.0, 1.0))


def labels(n=N, groups=2):
    with pyro.plate("nodes", n):
        return pyro.sample("z", dist.Categorical(torch.ones(groups) / groups))


def a_site_for_each_pair():
    p, q = probabilities()
    z = labels()
    for i, j in zip(ROWS.tolist(), COLUMNS.tolist(), strict=True):
        pyro.sample(f"A_{i}_{j}", dist.Bernoulli(torch.where(z[i] == z[j], p, q)), obs=A[i, j])


def a_plate_of_pairs():
    p, q = probabilities()
    z = labels()
    with pyro.plate("pairs", len(ROWS)):
        pyro.sample("A", dist.Bernoulli(torch.where(z[ROWS] == z[COLUMNS], p, q)), obs=A[ROWS, COLUMNS])


def a_matrix():
    p, q = probabilities()
    z = labels()
    ones = dist.Bernoulli(torch.where(z.unsqueeze(1) == z, p, q)).mask(torch.ones(N, N).tril(-1).bool())
    pyro.sample("A", ones.to_event(2), obs=A)


def one_event():
    p, q = probabilities()
    z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2).expand([N]).to_event(1))
    with pyro.plate("pairs", len(ROWS)):
        pyro.sample("A", dist.Bernoulli(torch.where(z[ROWS] == z[COLUMNS], p, q)), obs=A[ROWS, COLUMNS])


MODELS = [a_site_for_each_pair, a_plate_of_pairs, a_matrix, one_event]


def together() -> Tensor:
    """P(z_i = z_j | A) of all pairs, p and q integrated out: a sum over all labels."""
    weights, same = [], []
    for z in itertools.product(range(2), repeat=N):
        label = torch.tensor(z)
        pairs = label[ROWS] == label[COLUMNS]
        ones = [(A[ROWS, COLUMNS][kind].sum(), (1 - A[ROWS, COLUMNS][kind]).sum()) for kind in (pairs, ~pairs)]
        weights.append(sum(torch.lgamma(1 + a) + torch.lgamma(1 + b) - torch.lgamma(2 + a + b) for a, b in ones))
        same.append(pairs.float())
    return torch.stack(weights).softmax(0) @ torch.stack(same)


def estimate(model):
    idata = pg.posterior(
        model, method="gibbs", blocks={"z": "enumerate"}, draws=150, warmup=100, thin=2, progress=False, seed=0
    )
    z = torch.as_tensor(idata.posterior["z"].values)
    same = (z[..., ROWS] == z[..., COLUMNS]).float().mean(1)  # of each of 64 chains
    return same.mean(0), same.std(0) / 8


@pytest.mark.parametrize("model", MODELS[1:], ids=lambda m: m.__name__)
def test_gibbs_blocks_against_the_sum_over_all_labels(model):
    mean, error = estimate(model)
    # 15 pairs, errors from 64 chains (a t-distribution): false-alarm rate 8e-5 at five standard errors.
    assert bool(((mean - together()).abs() < 5 * error).all())


def test_elements_that_are_compared_are_not_taken_for_independent(monkeypatch):
    monkeypatch.setattr(Gibbs, "_elements_are_independent", lambda self, name, z: True)
    mean, error = estimate(a_plate_of_pairs)
    assert bool(((mean - together()).abs() > 5 * error).any())


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_what_cannot_be_summed_out_says_what_works(model):
    with pytest.raises(ValueError, match=r"method=\"gibbs\", blocks=\{'z': \"enumerate\"\}") as caught:
        pg.posterior(model, progress=False)
    assert "\n" not in str(caught.value)
    target = density(model, hold=("z",))
    assert target.dim == 2 and target.held_sites["z"].support is not None


@pytest.mark.parametrize("n", [2, 3])
def test_elements_taken_for_values_where_the_numbers_fit(n):
    # As many values as elements: z[i] is the value i under enumeration, and no error is raised.
    def model():
        p, q = probabilities()
        z = labels(n, groups=3)
        for i, j in itertools.combinations(range(n), 2):
            pyro.sample(f"A_{i}_{j}", dist.Bernoulli(torch.where(z[i] == z[j], p, q)), obs=A[i, j])

    with pytest.raises(ValueError, match="in the sum"):
        density(model)


def test_events_of_labels_in_a_plate():
    def model(x):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(shares).expand([len(x), 2]).to_event(1))
            pyro.sample("x", dist.Normal(3.0 * z.sum(-1), 1.0), obs=x)

    x = torch.tensor([0.2, 5.5, 3.1, 2.0])
    idata = pg.posterior(
        model, x, method="gibbs", blocks={"z": "enumerate"}, draws=200, warmup=100, progress=False, seed=1
    )
    share = torch.linspace(0.0005, 0.9995, 1000).double()  # of the label 1, by quadrature
    counts = torch.stack([(1 - share) ** 2, 2 * share * (1 - share), share**2], -1)
    terms = counts.unsqueeze(1) * dist.Normal(3.0 * torch.arange(3.0), 1.0).log_prob(x.unsqueeze(1)).exp()
    posterior = terms.sum(2).prod(1)
    weights = posterior / posterior.sum()
    expected = (weights.unsqueeze(1) * (terms @ torch.arange(3.0).double()) / terms.sum(2)).sum(0)
    drawn = torch.as_tensor(idata.posterior["z"].values).sum(-1).float().mean(1)
    # Four data, errors from 64 chains: false-alarm rate 2e-5 at five standard errors.
    assert bool(((drawn.mean(0) - expected).abs() < 5 * drawn.std(0) / 8).all())
