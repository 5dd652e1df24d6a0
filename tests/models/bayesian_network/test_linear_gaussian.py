"""Linear-Gaussian networks against the joint Gaussian, made node by node, and regressions in closed form."""

import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import LinearGaussianBayesianNetwork

# Listed in no particular order; e is above everything.
PARENTS = {"y": ["x", "m"], "x": ["e"], "m": ["x", "e"], "e": [], "z": ["y"]}
ORDER = ["e", "x", "m", "y", "z"]
GIVEN = {"y": 0.7, "e": -0.3}


def network_at_random(seed=0):
    g = torch.Generator().manual_seed(seed)
    network = LinearGaussianBayesianNetwork(PARENTS).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return network


def moments_by_recursion(network, without=()):
    """Mean and covariance node by node: what a node is of its parents, its covariances are of theirs."""
    nodes = network.nodes
    mean, cov = torch.zeros(len(nodes)).double(), torch.zeros(len(nodes), len(nodes)).double()
    for done, name in enumerate(ORDER):
        i, before = nodes.index(name), [nodes.index(n) for n in ORDER[:done]]
        if name in without:
            mean[i] = without[name]
            continue
        above = [nodes.index(p) for p in PARENTS[name]]
        w = network.weights.detach()[i, above]
        mean[i] = network.intercept.detach()[i] + w @ mean[above]
        cov[i, before] = cov[before, i] = cov[before][:, above] @ w
        cov[i, i] = w @ cov[above][:, above] @ w + (2 * network.log_scale.detach()[i]).exp()
    return mean, cov


def conditional(mean, cov, nodes, targets, given):
    t, o = [nodes.index(n) for n in targets], [nodes.index(n) for n in given]
    precision = cov[o][:, o].inverse()
    gap = torch.tensor(list(given.values())).double() - mean[o]
    return mean[t] + cov[t][:, o] @ precision @ gap, cov[t][:, t] - cov[t][:, o] @ precision @ cov[o][:, t]


def test_the_joint_is_the_gaussian_of_its_equations():
    network = network_at_random()
    mean, cov = moments_by_recursion(network)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(network.moments(), (mean, cov), strict=True))


@pytest.mark.parametrize("targets", [["x"], ["z", "m"], ["m", "x", "z"]])
def test_queries_are_conditionals_of_the_joint_gaussian(targets):
    network = network_at_random()
    mean, cov = moments_by_recursion(network)
    found = network.query(targets, given=GIVEN)
    expected = conditional(mean, cov, network.nodes, targets, GIVEN)
    assert torch.allclose(found.mean, expected[0], rtol=0, atol=1e-10)
    assert torch.allclose(found.covariance_matrix, expected[1], rtol=0, atol=1e-10)
    one = network.query(targets[0], given=GIVEN)
    assert torch.allclose(torch.stack([one.mean, one.variance]), torch.stack([expected[0][0], expected[1][0, 0]]))
    assert not torch.allclose(found.mean, network.query(targets).mean, atol=1e-3)  # the twin: evidence forgotten
    rows = network.query(targets, given={"y": torch.tensor([0.7, 2.0]).double(), "e": -0.3})
    assert rows.mean.shape == (2, len(targets)) and torch.allclose(rows.mean[0], found.mean)


def test_interventions_leave_what_is_above_alone():
    network = network_at_random()
    mean, cov = moments_by_recursion(network, without={"m": 1.5})
    nodes = ["y", "x", "e", "z"]
    found = network.query(nodes, do={"m": 1.5})
    keep = [network.nodes.index(n) for n in nodes]
    assert torch.allclose(found.mean, mean[keep], rtol=0, atol=1e-10)
    assert torch.allclose(found.covariance_matrix, cov[keep][:, keep], rtol=0, atol=1e-10)
    assert torch.allclose(network.query("e", do={"m": 1.5}).mean, network.query("e").mean)
    seen = network.query("e", given={"m": 1.5})  # the twin: seeing is not setting
    assert abs(seen.mean - network.query("e").mean) > 0.05


def test_missing_values_are_integrated_out():
    network = network_at_random()
    mean, cov = moments_by_recursion(network)
    x = pg.sample(network, 20, seed=0).double()
    x = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4, torch.nan)
    expected = []
    for row in x:
        o = ~row.isnan()
        law = torch.distributions.MultivariateNormal(mean[o], cov[o][:, o]) if bool(o.any()) else None
        expected.append(torch.zeros(()).double() if law is None else law.log_prob(row[o]))
    found = pg.log_likelihood(network, x)
    assert found.kind == "exact"
    assert torch.allclose(found.value, torch.stack(expected), rtol=0, atol=1e-9)


def test_closed_form_is_the_maximum_and_its_prior_the_ridge():
    truth = network_at_random(1)
    x = pg.sample(truth, 500, seed=0).double()
    network = LinearGaussianBayesianNetwork.from_data(x, PARENTS)
    y, design = x[:, 0], torch.cat([x[:, [1, 2]], torch.ones(500, 1).double()], -1)
    w = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    i = network.nodes.index("y")
    found = torch.stack([network.weights[i, 1], network.weights[i, 2], network.intercept[i]]).detach()
    assert torch.allclose(found, w, atol=1e-8)
    assert abs((2 * network.log_scale[i]).exp() - (y - design @ w).square().mean()) < 1e-8
    ridge = LinearGaussianBayesianNetwork.from_data(x, PARENTS, prior_precision=50.0)
    centred = x - x.mean(0)
    z = centred[:, [1, 2]]
    expected = torch.linalg.solve(z.T @ z + 50 * torch.eye(2).double(), z.T @ centred[:, 0])
    assert torch.allclose(ridge.weights[i, [1, 2]].detach(), expected, atol=1e-8)


def test_training_with_holes_nears_the_truth():
    truth = network_at_random(2)
    x = pg.sample(truth, 600, seed=0).float()
    holes = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.2, torch.nan)
    network = LinearGaussianBayesianNetwork(PARENTS)
    pg.fit(network, holes, epochs=200, batch_size=600, lr=0.1, seed=0)
    test = pg.sample(truth, 2000, seed=1).double()
    gap = pg.log_likelihood(truth, test).mean() - pg.log_likelihood(network.double(), test).mean()
    assert -0.01 < gap < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearGaussianBayesianNetwork({"a": ["a"]}), "make a circle"),
        (lambda: network_at_random().query("w"), "'w' is no node"),
        (lambda: network_at_random().query("y", given={"y": 1.0}), "is a target, and given"),
        (lambda: LinearGaussianBayesianNetwork.from_data(torch.tensor([[torch.nan]]), {"a": []}), "pg.fit instead"),
        (
            lambda: LinearGaussianBayesianNetwork.from_data(torch.randn(9, 1).repeat(1, 2), {"a": [], "b": ["a"]}),
            "has no noise",
        ),
    ],
)
def test_mistakes_get_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
