"""What the warm-up learns, and that the chains then find known posteriors, hard ones among them."""

import math

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import HMC, Samples, run
from pyro_gen.inference.mcmc import adaptation as adapt
from pyro_gen.inference.mcmc.hmc import Metric, Point


def gaussian(covariance: Tensor, mean: float | Tensor = 0.0) -> Density:
    precision = torch.linalg.inv(covariance.double()).to(covariance.dtype)
    return Density.from_functions(
        lambda z: -0.5 * ((z - mean) @ precision * (z - mean)).sum(-1), dim=len(covariance), dtype=covariance.dtype
    )


def rotated(eigenvalues: Tensor) -> Tensor:
    basis = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=eigenvalues.dtype)).Q
    return basis * eigenvalues @ basis.mT


def warmed(density: Density, chains: int, iterations: int, **options: object) -> HMC:
    """A sampler at the end of its warm-up."""
    sampler = HMC(density, **options)
    with torch.no_grad():
        state = sampler.init(4 * torch.rand(chains, *density.batch_shape, density.dim, dtype=density.dtype) - 2)
        for i in range(iterations):
            state, _ = sampler.step(state, i / iterations)
        sampler.step(state, None)
    return sampler


# ----------------------------------------------------------------------------------------------------------------------
# Step size


def test_harmonic_mean_heeds_the_worst_chains_down_to_its_floor():
    torch.testing.assert_close(
        adapt.harmonic_mean(torch.tensor([[0.5, 0.5], [1.0, 0.0]])), torch.tensor([2 / 3, 1 / 6])
    )


def test_halton_numbers_fill_the_interval():
    assert [adapt.halton(i) for i in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_dual_averaging_reaches_its_target_for_each_of_a_batch():
    # acceptance 2 * (1 - Phi(eps / 2 / scale)): that of random-walk proposals on a Gaussian, with scales 0.1, 1 and 10.
    scale = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    averaging = adapt.DualAveraging(torch.ones(3), 0.8)
    for _ in range(200):
        acceptance = torch.special.erfc(averaging.log_step.exp() / scale / 2 / math.sqrt(2))
        averaging.update(acceptance)
    eps = averaging.average.exp()
    assert torch.special.erfc(eps / scale / 2 / math.sqrt(2)).tolist() == pytest.approx([0.8] * 3, abs=0.01)
    torch.testing.assert_close(eps / scale, (eps / scale)[:1].expand(3), rtol=0.05, atol=0)


# Below 0.8 acceptance falls off so fast that the average of the step sizes tried keeps to its safe side (0.76 for 0.7).
@pytest.mark.parametrize("target", [0.8, 0.9])
def test_the_sampler_reaches_its_target_acceptance(target: float):
    samples = run(gaussian(torch.eye(50)), chains=128, warmup=300, draws=100, target_acceptance=target)
    reached = adapt.harmonic_mean(samples.stats["acceptance_rate"].flatten())
    assert float(reached) == pytest.approx(target, abs=0.05)


def test_a_fixed_step_size_and_number_of_steps_stay():
    samples = run(gaussian(torch.eye(3)), chains=16, warmup=50, draws=5, step_size=0.3, num_steps=4)
    assert samples.stats["n_steps"].unique().tolist() == [4]
    assert samples.stats["step_size"].unique().tolist() == pytest.approx([0.3])


# ----------------------------------------------------------------------------------------------------------------------
# Metric


def test_moments_are_those_of_all_draws():
    z, grad = torch.randn(2, 6, 5, 2, 3, dtype=torch.float64).cumsum(1)
    for dense in (False, True):
        moments = adapt.Moments(dense)
        for a, b in zip(z, grad, strict=True):
            moments.update(a, b)
        for n in range(2):
            for found, draws in ((moments.spread[n], z[:, :, n]), (moments.grad_spread[n], grad[:, :, n])):
                covariance = torch.cov(draws.reshape(-1, 3).T, correction=0)
                torch.testing.assert_close(found, covariance if dense else covariance.diagonal())
        torch.testing.assert_close(moments.mean, z.mean((0, 1)))


def test_the_fisher_metric_of_a_gaussian_is_exact_wherever_the_chains_are():
    covariance = rotated(torch.tensor([1e-3, 0.1, 1.0, 50.0], dtype=torch.float64))
    precision = torch.linalg.inv(covariance)
    z = 5 + 3 * torch.randn(50, 4, dtype=torch.float64)  # nothing like the target
    factor = adapt.fisher_dense(torch.cov(z.T), torch.cov((-z @ precision).T))
    torch.testing.assert_close(factor @ factor.mT, covariance, rtol=1e-6, atol=1e-9)
    assert bool((factor.triu(1) == 0).all())
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    z = 5 + 3 * torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(adapt.fisher_diagonal(z.var(0), (-z / scales**2).var(0)), scales)


def test_coordinates_without_variance_keep_unit_scale():
    zero, one = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])
    assert adapt.fisher_diagonal(zero, one).tolist() == pytest.approx([1, 2**0.5])
    assert adapt.fisher_diagonal(one, torch.tensor([0.0, 1.0])).tolist() == [1, 1]
    run(gaussian(torch.eye(2)), chains=30, warmup=0, draws=1, init=torch.ones(30, 2), metric="dense")


def test_low_rank_finds_the_directions_that_stand_out():
    dim, chains = 50, 400
    long, short = torch.linalg.qr(torch.randn(dim, 2, dtype=torch.float64)).Q.T
    covariance = torch.eye(dim, dtype=torch.float64)
    covariance += 399 * long.outer(long) - 0.99 * short.outer(short)
    z = torch.randn(chains, dim, dtype=torch.float64) @ torch.linalg.cholesky(covariance).mT
    grad = -z @ torch.linalg.inv(covariance)
    metric = adapt.low_rank(torch.ones(dim, dtype=torch.float64), z, grad)
    L = metric.push(torch.eye(dim, dtype=torch.float64)).mT
    found = L @ L.mT
    assert float(long @ found @ long) == pytest.approx(400, rel=0.2)
    assert float(short @ found @ short) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("metric", ["diagonal", "dense", "low_rank", "auto"])
def test_the_metric_finds_the_scales(metric: str):
    scales = torch.tensor([1e-3, 1.0, 1e3, 30.0])
    sampler = warmed(gaussian(torch.diag(scales**2)), 128, 200, metric=metric)
    found = sampler.tuning.metric.push(torch.eye(4)).mT
    torch.testing.assert_close((found @ found.mT).diagonal().sqrt(), scales, rtol=0.1, atol=0)


def test_auto_is_dense_where_it_pays_and_there_are_chains_enough():
    correlated = torch.full((4, 4), 0.9) + 0.1 * torch.eye(4)
    assert warmed(gaussian(correlated), 128, 100).tuning.metric.kind == "dense"
    assert warmed(gaussian(correlated), 16, 100).tuning.metric.kind == "diagonal"
    assert warmed(gaussian(torch.eye(4)), 128, 100).tuning.metric.kind == "diagonal"


def test_each_target_of_a_batch_has_its_own_step_size_and_metric():
    scales = torch.tensor([0.01, 1.0, 100.0])
    rho = 0.95
    precision = torch.linalg.inv(torch.tensor([[1.0, rho], [rho, 1.0]]))
    density = Density.from_functions(
        lambda z: -0.5 * (z @ precision * z).sum(-1) / scales**2, dim=2, batch_shape=(3,), dtype=torch.float32
    )
    samples = run(density, chains=64, warmup=300, draws=200)
    assert samples.warmup["metric"] == "dense"
    z = samples.z.double()
    ess = np.array([[az.ess(z[:, :, n, i].T.numpy()) for i in range(2)] for n in range(3)])
    assert ess.min() > 1000
    # |z| < 5: false alarm 6e-7 for each of 12.
    error = scales.numpy()[:, None] / np.sqrt(ess)
    assert np.abs(z.mean((0, 1)).numpy() / error).max() < 5
    spread = z.std((0, 1)).numpy() / scales.numpy()[:, None]
    assert np.abs(spread - 1).max() < 5 / np.sqrt(2 * ess.min() / 4)  # squares mix slower: a quarter of the draws


# ----------------------------------------------------------------------------------------------------------------------
# Trajectory


@pytest.mark.parametrize("criterion", ["snaper", "chees"])
def test_trajectories_are_longer_where_the_metric_leaves_correlation(criterion: str):
    options = {"metric": "diagonal", "criterion": criterion}
    isotropic = warmed(gaussian(torch.eye(4)), 256, 300, **options)
    rho = 0.95
    correlated = warmed(gaussian(torch.full((4, 4), rho) + (1 - rho) * torch.eye(4)), 256, 300, **options)
    # A quarter of the slowest oscillation is pi / 2 times the standard deviation along the principal component, in
    # whitened coordinates. Its scales are those of the conditional distributions of the Fisher metric.
    scale = correlated.tuning.metric.tensors[0].mean()
    slow = math.sqrt(4 * rho + 1 - rho) / float(scale)
    assert correlated.trajectory.spread == pytest.approx(slow, rel=0.15)
    principal = correlated.trajectory.principal.abs()
    torch.testing.assert_close(principal, torch.full((4,), 0.5), atol=0.1, rtol=0)
    assert 0.7 < isotropic.trajectory.length / (math.pi / 2) < 1.3
    assert correlated.trajectory.length > 2 * isotropic.trajectory.length


def test_the_number_of_steps_is_jittered_by_half_around_its_mean():
    samples = run(gaussian(torch.eye(5)), chains=64, warmup=100, draws=128, step_size=0.1)
    steps = samples.stats["n_steps"][:, 0].double()
    assert bool((samples.stats["n_steps"] == samples.stats["n_steps"][:, :1]).all())
    mean = samples.warmup["num_steps"]
    assert float(steps.mean()) == pytest.approx(mean, rel=0.02)
    assert float(steps.min()) == pytest.approx(mean / 2, abs=1) and float(steps.max()) == pytest.approx(
        1.5 * mean, abs=1
    )


def test_max_steps_bounds_the_number_of_steps():
    samples = run(gaussian(torch.eye(5)), chains=64, warmup=100, draws=20, step_size=0.01, max_steps=7)
    assert int(samples.stats["n_steps"].max()) == 7


# ----------------------------------------------------------------------------------------------------------------------
# Lost chains


def test_lost_chains_are_restarted_where_others_are():
    tuning = adapt.Tuning(0.8)
    z = torch.randn(40, 3, 2)
    log_density = -0.5 * z.square().sum(-1)
    log_density[3, 0], log_density[5, 1] = -math.inf, -1e6
    point = Point(z, log_density, -z, (z[..., 0],))
    tuning.begin(point)
    rescued = tuning._rescue(point)
    assert tuning.restarted == 2
    kept = torch.ones(40, 3, dtype=torch.bool)
    kept[3, 0] = kept[5, 1] = False
    assert torch.equal(rescued.z[kept], z[kept])
    for chain, target in ((3, 0), (5, 1)):
        donor = (z[:, target] == rescued.z[chain, target]).all(-1)
        assert int(donor.sum()) == 1 and bool(kept[donor.nonzero()[0, 0], target])
    torch.testing.assert_close(rescued.log_density, -0.5 * rescued.z.square().sum(-1))
    assert torch.equal(rescued.grad, -rescued.z) and torch.equal(rescued.parts[0], rescued.z[..., 0])


def test_a_chain_on_a_plateau_far_away_is_rescued_in_the_warm_up():
    # Beyond 30 there is a plateau 200 nats below the mode, without a gradient that would lead back.
    density = Density.from_functions(lambda z: torch.maximum(-0.5 * z.square().sum(-1), torch.tensor(-200.0)), dim=2)
    init = torch.randn(100, 2)
    init[:3] += 100
    samples = run(density, chains=100, warmup=200, draws=50, init=init)
    assert samples.warmup["restarted"] >= 3
    assert float(samples.z.abs().max()) < 10


# ----------------------------------------------------------------------------------------------------------------------
# Known targets. A right sampler has one |z| > 5 with probability 6e-7: among fewer than 30 figures, 2e-5.


def z_scores(samples: Samples, mean: Tensor, variance: Tensor) -> tuple[np.ndarray, float]:
    """Of means and of mean squared deviations, each against its own effective sample size; and the least of these."""
    scores, least = [], math.inf
    for draws, exact in ((samples.z.double(), mean), ((samples.z.double() - mean).square(), variance)):
        for i in range(len(exact)):
            x = draws[..., i].T.numpy()
            ess = float(az.ess(x, method="mean"))
            least = min(least, ess)
            scores.append((x.mean() - float(exact[i])) / (x.std() / math.sqrt(ess)))
    return np.array(scores), least


@pytest.mark.parametrize(("metric", "chains", "warmup", "draws"), [("auto", 256, 300, 100), ("diagonal", 64, 150, 30)])
def test_gaussian_with_condition_number_10000(metric: str, chains: int, warmup: int, draws: int):
    covariance = rotated(torch.logspace(-4, 0, 5, dtype=torch.float64))
    mean = torch.arange(5, dtype=torch.float64)
    samples = run(gaussian(covariance, mean), chains=chains, warmup=warmup, draws=draws, metric=metric)
    scores, least = z_scores(samples, mean, covariance.diagonal())
    assert least > 400 and np.abs(scores).max() < 5


def test_student_t_with_5_degrees():
    density = Density.from_functions(lambda z: -3 * torch.log1p(z.square() / 5).sum(-1), dim=3, dtype=torch.float64)
    samples = run(density, chains=512, draws=200)
    scores, least = z_scores(samples, torch.zeros(3), torch.full((3,), 5 / 3))
    assert least > 400 and np.abs(scores).max() < 5


def test_twin_with_the_jacobian_dropped_fails():
    # x = exp(z) is Gamma(3): E z = digamma(3), var z = trigamma(3).
    mean, variance = (torch.polygamma(n, torch.tensor([3.0], dtype=torch.float64)) for n in (0, 1))
    found = []
    for jacobian in (1.0, 0.0):
        density = Density.from_functions(
            lambda z, j=jacobian: ((2 + j) * z - z.exp()).sum(-1), dim=1, dtype=torch.float64
        )
        scores, least = z_scores(run(density, chains=64, warmup=200, draws=100), mean, variance)
        assert least > 400
        found.append(np.abs(scores).max())
    assert found[0] < 5 < found[1]


# ----------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "nuts"}, "snaper"),
        ({"metric": "full"}, "low_rank"),
        ({"target_acceptance": 1.0}, "between 0 and 1"),
        ({"step_size": 0.0}, "positive"),
        ({"num_steps": 0}, "positive"),
        ({"max_steps": 0}, "positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        HMC(gaussian(torch.eye(2)), **options)


def test_metrics_are_made_of_what_they_were_made_of():
    for make in (Metric.diagonal, Metric.dense):
        tensor = torch.eye(2)
        assert make(tensor).tensors[0] is tensor
