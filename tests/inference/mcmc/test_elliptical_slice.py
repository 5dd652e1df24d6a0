"""Elliptical slices against moments that are known."""

import math

import torch
from scipy import stats

from pyro_gen.distributions.gaussian import condition, condition_factor
from pyro_gen.inference.mcmc.elliptical_slice import elliptical_slice, slice_uniforms

NAN = torch.nan
COVARIANCE = torch.tensor([[1.0, 0.6, 0.3], [0.6, 1.5, -0.2], [0.3, -0.2, 0.8]], dtype=torch.float64)
LOC = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def test_moments_given_what_is_seen():
    x = torch.tensor([[NAN, 0.3, NAN], [1.0, NAN, 2.0], [NAN, NAN, NAN], [0.1, 0.2, 0.3]], dtype=torch.float64)
    mean, factor = condition_factor(x, LOC, torch.linalg.inv(COVARIANCE))
    expected, variance = condition(x, LOC, COVARIANCE)
    covariance = factor @ factor.mT
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1), variance)
    torch.testing.assert_close(covariance[2], COVARIANCE)
    gain = COVARIANCE[[0, 2]][:, 1] / COVARIANCE[1, 1]
    torch.testing.assert_close(
        covariance[0][[0, 2]][:, [0, 2]], COVARIANCE[[0, 2]][:, [0, 2]] - COVARIANCE[1, 1] * torch.outer(gain, gain)
    )


def slices(log_likelihood, rows=6000, count=30):
    """The end of a chain for each of some rows, of which the second entry is seen."""
    x = torch.tensor([[NAN, 0.3, NAN]], dtype=torch.float64).expand(rows, -1)
    mean, factor = condition_factor(x, LOC, torch.linalg.inv(COVARIANCE))
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(rows, slice_uniforms(3, count), generator=generator, dtype=torch.float64)
    return elliptical_slice(mean, mean, factor, log_likelihood, u), mean[0], (factor @ factor.mT)[0]


def test_a_normal_likelihood_gives_the_conjugate_posterior():
    """Each p-value is below 1e-5 by chance in 1e-5 of the seeds; the chains know nothing of their start any more."""
    x, mean, covariance = slices(lambda x: -0.5 * ((x[..., 0] - 2.0) / 0.4).square())
    assert (x[:, 1] == 0.3).all()
    gain = covariance[:, 0] / (covariance[0, 0] + 0.16)
    loc = mean + gain * (2.0 - mean[0])
    variance = (covariance - torch.outer(gain, covariance[0])).diagonal()
    for d in (0, 2):
        assert stats.kstest(x[:, d].numpy(), stats.norm(loc[d], variance[d].sqrt()).cdf).pvalue > 1e-5
        # Without the likelihood it is another distribution.
        assert stats.kstest(x[:, d].numpy(), stats.norm(mean[d], covariance[d, d].sqrt()).cdf).pvalue < 1e-5


def test_a_steep_likelihood_cuts_the_normal_off():
    x, mean, covariance = slices(lambda x: torch.nn.functional.logsigmoid(200 * (x[..., 0] - 2.0)))
    scale = covariance[0, 0].sqrt()
    cut = stats.truncnorm((2.0 - mean[0]) / scale, math.inf, loc=mean[0], scale=scale)
    assert stats.kstest(x[:, 0].numpy(), cut.cdf).pvalue > 1e-5
    assert stats.kstest(x[:, 0].numpy(), stats.norm(mean[0], scale).cdf).pvalue < 1e-5


def test_rows_with_the_same_numbers_are_the_same():
    """Numbers that rows share give each row what it gets by itself."""
    x = torch.tensor([[NAN, 0.3, NAN], [1.0, NAN, NAN]], dtype=torch.float64)
    mean, factor = condition_factor(x, LOC, torch.linalg.inv(COVARIANCE))
    u = torch.rand(slice_uniforms(3, 10), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def likelihood(x):
        return -x[..., 2].square()

    together = elliptical_slice(mean, mean, factor, likelihood, u)
    for n in range(2):
        alone = elliptical_slice(mean[n : n + 1], mean[n : n + 1], factor[n : n + 1], likelihood, u[None])
        torch.testing.assert_close(alone[0], together[n])
