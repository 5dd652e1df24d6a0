import inspect
import math
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_gen.density import Density, density
from pyro_gen.inference.mcmc import nuts, run
from pyro_gen.inference.mcmc.hmc import Metric, Point, init
from pyro_gen.inference.mcmc.nuts import NUTS


def mutant(old, new):
    """The module with a defect planted in its source."""
    source = inspect.getsource(nuts)
    assert source.count(old) == 1
    module = types.ModuleType("mutant")
    exec(source.replace(old, new), module.__dict__)
    return module


WIDTH = 0.4


def banana(z):
    """z_1 is standard normal, and z_2 normal around its square."""
    r = (z[..., 1] - z[..., 0].square()) / WIDTH
    grad = torch.stack([-z[..., 0] + 2 * z[..., 0] * r / WIDTH, -r / WIDTH], -1)
    return -0.5 * (z[..., 0].square() + r.square()), grad, ()


def banana_draws(shape):
    first = torch.randn(shape)
    return torch.stack([first, first.square() + WIDTH * torch.randn(shape)], -1)


def banana_uniform(z):
    """Two independent uniform variables, if the draws are exact."""
    normal = torch.stack([z[..., 0], (z[..., 1] - z[..., 0].square()) / WIDTH], -1)
    return torch.distributions.Normal(0.0, 1.0).cdf(normal)


# ----------------------------------------------------------------------------------------------------------------------
# The same transition, as it is written in the papers: one chain, recursively


class Tree:
    """Points in the order of time, what each weighs, the probability that it is drawn, and if the tree is whole."""

    def __init__(self, points, probabilities, whole):
        self.points, self.probabilities, self.whole = points, probabilities, whole

    @property
    def log_weight(self):
        return torch.stack([gain for *_, gain in self.points]).logsumexp(0)

    def turns(self):
        momenta = torch.stack([p for _, p, _, _ in self.points])
        way = momenta.sum(0) - (momenta[0] + momenta[-1]) / 2
        return bool(momenta[0] @ way <= 0 or momenta[-1] @ way <= 0)


def joined(a, b, sign):
    first, last = (a, b) if sign > 0 else (b, a)
    return first.points + last.points


def build(end, depth, sign, step_size, start_energy, target):
    if depth == 0:
        z, p, grad, _ = end
        p = p + sign * step_size / 2 * grad
        z = z + sign * step_size * p
        value, grad, _ = target(z)
        p = p + sign * step_size / 2 * grad
        gain = start_energy - (p.square().sum() / 2 - value)
        return Tree([(z, p, grad, gain)], torch.ones(1, dtype=z.dtype), bool(gain > -1000))
    a = build(end, depth - 1, sign, step_size, start_energy, target)
    if not a.whole:
        return a
    b = build(a.points[-1 if sign > 0 else 0], depth - 1, sign, step_size, start_energy, target)
    share = torch.sigmoid(b.log_weight - a.log_weight)
    parts = (a.probabilities * (1 - share), b.probabilities * share)
    tree = Tree(joined(a, b, sign), torch.cat(parts if sign > 0 else parts[::-1]), b.whole)
    tree.whole = tree.whole and not tree.turns()
    return tree


def reference(z, p, directions, step_size, target, max_depth):
    value, grad, _ = target(z)
    energy = p.square().sum() / 2 - value
    tree = Tree([(z, p, grad, torch.zeros_like(value))], torch.ones(1, dtype=z.dtype), True)
    visited, depth = [], 0
    for sign in directions[:max_depth]:
        new = build(tree.points[-1 if sign > 0 else 0], depth, sign, step_size, energy, target)
        visited += [gain for *_, gain in new.points]
        if not new.whole:
            break
        move = (new.log_weight - tree.log_weight).exp().clamp(max=1)
        parts = (tree.probabilities * (1 - move), new.probabilities * move)
        tree = Tree(joined(tree, new, sign), torch.cat(parts if sign > 0 else parts[::-1]), True)
        depth += 1
        if tree.turns():
            break
    gains = torch.stack(visited)
    return tree, depth, gains.clamp(max=0).exp().mean(), len(visited), bool((gains <= -1000).any())


def test_statistics_of_the_tree_against_a_recursion(monkeypatch):
    chains, max_depth = 120, 7
    point = init(banana_draws((chains,)).double(), banana)
    p = torch.randn_like(point.z)
    directions = torch.randn(max_depth, chains).sign()
    for step_size in (0.05, 0.3):  # as far as the greatest depth; and with some divergences
        step_sizes = torch.full((chains,), step_size, dtype=torch.float64)
        step_sizes[:10] = 4.0
        order = iter(directions)
        monkeypatch.setattr(nuts, "_directions", lambda like, order=order: next(order).to(like))
        metric = Metric.diagonal(torch.ones(2).double()).scaled(step_sizes)
        _, info = nuts.trajectory(point, p, banana, metric, max_depth)
        for c in range(chains):
            args = (point.z[c], p[c], directions[:, c].tolist(), step_sizes[c], banana, max_depth)
            _, depth, acceptance, num_steps, diverging = reference(*args)
            assert (info.depth[c], info.num_steps[c], info.diverging[c]) == (depth, num_steps, diverging), c
            torch.testing.assert_close(info.acceptance[c], acceptance)
        assert bool(info.diverging.any()) and len(info.depth.unique()) > 3


@pytest.fixture(scope="module")
def trajectories():
    """Trajectories of eight points or more that differ in weight, each with start, momentum and directions."""
    found, generator = [], torch.Generator().manual_seed(0)
    while len(found) < 3:
        first, noise, *p = torch.randn(4, generator=generator, dtype=torch.float64)
        z, p = torch.stack([first, first.square() + WIDTH * noise]), torch.stack(p)
        directions = torch.randn(6, generator=generator).sign().tolist()
        tree, depth, *_ = reference(z, p, directions, 0.3, banana, 6)
        gains = torch.stack([gain for *_, gain in tree.points])
        if depth >= 3 and 1 < gains.max() - gains.min() < 5:
            found.append((z, p, directions, tree))
    return found


def chi_squared(module, trajectories, chains=40_000):
    """Of how often each point is drawn by many chains that share a trajectory: over the quantile at 1e-5."""
    statistic, freedom = 0.0, 0
    for z, p, directions, tree in trajectories:
        order = iter(directions)
        module._directions = lambda like, order=order: torch.full_like(like, next(order))
        metric = Metric.diagonal(torch.ones(2).double()).scaled(0.3)
        drawn, info = module.trajectory(init(z.expand(chains, 2), banana), p.expand(chains, 2), banana, metric, 6)
        places = torch.stack([place for place, *_ in tree.points])
        distance, which = (drawn.z.unsqueeze(1) - places).abs().sum(-1).min(1)
        assert distance.max() < 1e-9
        torch.testing.assert_close(drawn.log_density, banana(drawn.z)[0])
        momenta = torch.stack([momentum for _, momentum, *_ in tree.points])[which]
        torch.testing.assert_close(info.energy, 0.5 * momenta.square().sum(-1) - drawn.log_density)
        expected = chains * tree.probabilities
        observed = torch.bincount(which, minlength=len(expected))
        some = expected > 5
        statistic += ((observed - expected).square() / expected)[some].sum().item()
        freedom += int(some.sum())
    return statistic / stats.chi2.isf(1e-5, freedom)


def test_which_point_is_drawn(trajectories, monkeypatch):
    monkeypatch.setattr(nuts, "_directions", None)
    assert chi_squared(nuts, trajectories) < 1  # false-alarm rate 1e-5


@pytest.mark.parametrize(
    "defect",
    [
        ("(gain - half_weight).exp()", "(0.5 * (gain - half_weight)).exp()"),  # late points too often
        ("(half_weight - log_weight).exp()", "0.5"),  # the halves by the toss of a coin
        ("        log_weight = torch.logaddexp(log_weight, half_weight)\n", ""),  # the weight of the start alone
    ],
)
def test_which_point_is_drawn_twin(trajectories, defect):
    assert chi_squared(mutant(*defect), trajectories) > 1


# ----------------------------------------------------------------------------------------------------------------------
# The target is conserved


def distance(step, chains=20_000, transitions=12):
    """The largest distance of an empirical distribution function from the exact one, over its bound.

    By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart, at 1e-6 for each of two coordinates.
    """
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * chains))
    assert bound < 0.025  # what is moved by 2.5% of the mass is seen
    start = banana_draws((chains,))
    point = init(start, banana)
    metric = Metric.diagonal(torch.tensor([0.8, 1.2]))
    acceptance = []
    for _ in range(transitions):
        point, info = step(point, banana, 0.3, metric, 6)
        acceptance.append(info.acceptance.mean())
    assert (point.z != start).all(-1).float().mean() > 0.9  # it moved
    assert 0.5 < torch.stack(acceptance).mean() < 0.9  # by steps that are not nearly exact
    u = banana_uniform(point.z).sort(0).values
    grid = torch.arange(1, chains + 1).unsqueeze(-1) / chains
    return torch.maximum((grid - u).abs(), (u - grid + 1 / chains).abs()).max().item() / bound


def test_conserves_its_target():
    assert distance(nuts.step) < 1  # false-alarm rate 2e-6


@pytest.mark.parametrize(
    "defect",
    [
        ("(gain - half_weight).exp()", "gain.exp()"),  # each point as if it were the first of its half
        ("alive = alive & ~_turns(first, momentum, half_momenta - until_first + first)", "pass"),  # no sub-trees
    ],
)
def test_conserves_its_target_twin(defect):
    assert distance(mutant(*defect).step) > 1


def test_conserves_its_target_stale_twin():
    def stale(point, *args):
        new, info = nuts.step(point, *args)
        return Point(new.z, point.log_density, new.grad), info

    assert distance(stale) > 1


def test_off_the_support():
    def half_line(z):  # a standard normal, cut off at 0
        inside = z[..., 0] > 0
        return torch.where(inside, -0.5 * z.square().sum(-1), torch.nan), torch.where(z > 0, -z, torch.nan), ()

    point = init(torch.linspace(-0.3, 0.3, 2000).unsqueeze(-1), half_line)
    metric = Metric.diagonal(torch.ones(1))
    for _ in range(100):
        point, info = nuts.step(point, half_line, 0.4, metric)
        assert bool(info.diverging.any())
    assert bool((point.z > 0).all()) and bool(point.log_density.isfinite().all())
    # A chain's position has mean sqrt(2 / pi) and standard deviation 0.60: false-alarm rate 7e-6 at 4.5.
    assert abs(point.z.mean() - math.sqrt(2 / math.pi)) < 4.5 * 0.603 / math.sqrt(2000)


def test_batch_is_as_many_targets():
    scale = torch.tensor([[1.0, 2.0], [0.1, 3.0], [5.0, 0.5]])

    def target(z):
        return -0.5 * (z / scale).square().sum(-1), -z / scale.square(), ()

    point = init(scale * torch.randn(4000, 3, 2), target)
    step_size = torch.tensor([0.5, 0.7, 0.9])
    for _ in range(3):
        point, info = nuts.step(point, target, step_size, Metric.diagonal(scale))
    assert info.acceptance.shape == info.depth.shape == (4000, 3)
    # The standard error of a variance over 4000 draws is sqrt(2 / 4000): false-alarm rate 4e-5 at 4.5, 6 times.
    assert ((point.z / scale).square().mean(0) - 1).abs().max() < 4.5 * math.sqrt(2 / 4000)
    assert bool((info.acceptance.mean(0).diff() < 0).all())  # longer steps, lower acceptance


def test_dense_metric_is_a_change_of_coordinates():
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.999], [0.999, 1.0]]).double())
    precision = torch.cholesky_inverse(factor)

    def target(z):
        grad = -z @ precision
        return 0.5 * (z * grad).sum(-1), grad, ()

    def white(u):
        return -0.5 * u.square().sum(-1), -u, ()

    u = torch.randn(100, 2).double()
    torch.manual_seed(3)
    a, of_a = nuts.step(init(u @ factor.T, target), target, 0.4, Metric.dense(factor))
    torch.manual_seed(3)
    b, of_b = nuts.step(init(u, white), white, 0.4, Metric.diagonal(torch.ones(2).double()))
    torch.testing.assert_close(a.z, b.z @ factor.T)
    assert torch.equal(of_a.num_steps, of_b.num_steps)


# ----------------------------------------------------------------------------------------------------------------------
# The sampler, against exact moments


def z_scores(draws, exact):
    """Of the means of (S, C, K) against K exact ones; the chains are independent, so their means give the error."""
    means = draws.double().mean(0)
    return (means.mean(0) - torch.as_tensor(exact, dtype=torch.float64)) / (means.std(0) / len(means[:, 0]) ** 0.5)


def test_correlated_gaussian():
    basis = torch.linalg.qr(torch.randn(4, 4)).Q
    covariance = basis @ torch.diag(torch.tensor([1.0, 1e-1, 1e-2, 1e-4])) @ basis.T
    precision = torch.linalg.inv(covariance.double()).float()
    density = Density.from_functions(lambda z: -0.5 * (z - 1) @ precision @ (z - 1), dim=4)
    samples = run(density, NUTS, chains=256, warmup=100, draws=50)
    moments = torch.cat([samples.z, (samples.z - 1).square()], -1)
    scores = z_scores(moments, [1, 1, 1, 1, *covariance.diagonal()])
    assert scores.abs().max() < 5.2  # Student's t with 255 degrees of freedom, 8 times: false-alarm rate 4e-6
    assert z_scores(moments[..., 4:], 1.2 * covariance.diagonal()).abs().max() > 5.2  # 20% off is seen
    assert abs(samples.stats["acceptance_rate"].mean() - 0.8) < 0.1
    names = {"lp", "energy", "acceptance_rate", "n_steps", "tree_depth", "diverging", "step_size"}
    assert set(samples.stats) == names
    depth, steps = samples.stats["tree_depth"], samples.stats["n_steps"]
    assert bool((steps >= 2**depth - 1).all()) and bool((steps < 2 ** (depth + 1)).all())
    assert not samples.stats["diverging"].any() and samples.warmup["step_size"] > 0


def test_banana():
    density = Density.from_functions(lambda z: banana(z)[0], dim=2)
    samples = run(density, NUTS, chains=256, warmup=100, draws=50)
    first, second = samples.z.unbind(-1)
    scores = z_scores(torch.stack([first, first.square(), second, (second - 1).square()], -1), [0, 1, 1, 2 + WIDTH**2])
    assert scores.abs().max() < 5  # Student's t with 255 degrees of freedom, 4 times: false-alarm rate 5e-6


def funnel(y):
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("units", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0)) * (v / 2).exp()
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def test_funnel_non_centred():
    y = torch.tensor([0.3, -0.8, 1.5, 0.1, -0.4])
    samples = run(density(funnel, y), NUTS, chains=256, warmup=100, draws=50)
    v = torch.linspace(-25, 25, 20_001).double()
    marginal = torch.distributions.Normal(0.0, (v.exp() + 1).sqrt().unsqueeze(-1)).log_prob(y.double()).sum(-1)
    weights = (marginal - v.square() / 18).softmax(0)  # x is integrated out
    mean = (weights * v).sum()
    drawn = samples.values["v"]
    scores = z_scores(torch.stack([drawn, (drawn - mean).square()], -1), [mean, (weights * (v - mean).square()).sum()])
    assert scores.abs().max() < 5  # Student's t with 255 degrees of freedom, 2 times: false-alarm rate 2e-6


def test_goes_on():
    density = Density.from_functions(lambda z: banana(z)[0], dim=2)
    options = {"chains": 8, "warmup": 50}
    whole = run(density, NUTS, draws=20, **options)
    part = run(density, NUTS, draws=12, **options)
    rest = run(density, NUTS, draws=8, state=part.state)
    assert torch.equal(whole.z, torch.cat([part.z, rest.z]))


def test_wrong_depth():
    density = Density.from_functions(lambda z: banana(z)[0], dim=2)
    with pytest.raises(ValueError, match="max_depth=0"):
        NUTS(density, max_depth=0)
