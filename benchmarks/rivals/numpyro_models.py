"""The ten posteriors of ``models.py`` for NumPyro, each as NumPyro is fastest: the rival of ``benchmarks/mcmc.py``.

The models take the same arguments, as NumPy arrays, and have the same sites; but for garch: with a flat prior whose
range depends on another site, NumPyro 0.22 gave another posterior in our one run (a mean off by 130 standard errors).
"""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.lax import scan
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints


def flat(*shape: int) -> Any:
    return dist.ImproperUniform(constraints.real_vector if shape else constraints.real, (), shape)


def flat_positive() -> Any:
    return dist.ImproperUniform(constraints.positive, (), ())


def eight_schools(y: Array, sigma: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def linear(x: Array, y: Array, sigma: Array, beta: Array) -> None:
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def flat_regression(x: Array, y: Array) -> None:
    beta = numpyro.sample("beta", flat(x.shape[1]))
    linear(x, y, numpyro.sample("sigma", flat_positive()), beta)


def half_flat_regression(x: Array, y: Array) -> None:
    beta = numpyro.sample("beta", flat(x.shape[1]))
    linear(x, y, numpyro.sample("sigma", dist.HalfCauchy(2.5)), beta)


def proper_regression(x: Array, y: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand((x.shape[1],)).to_event(1))
    linear(x, y, numpyro.sample("sigma", dist.HalfNormal(10.0)), beta)


def autoregression(lags: Array, y: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand((lags.shape[1],)).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def garch(y: Array, sigma1: Array) -> None:
    mu = numpyro.sample("mu", flat())
    alpha0 = numpyro.sample("alpha0", flat_positive())
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.deterministic("beta1", share * (1.0 - alpha1))
    numpyro.factor("flat", jnp.log(1.0 - alpha1))
    news = alpha0 + alpha1 * (y[:-1] - mu) ** 2

    def grow(variance: Array, new: Array) -> tuple[Array, Array]:
        variance = new + beta1 * variance
        return variance, variance

    # A scan, which XLA runs seven times as fast as log2 T steps on the whole series.
    start = jnp.reshape(sigma1**2, ())
    variance = jnp.concatenate([start[None], scan(grow, start, news)[1]])
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variance)), obs=y)


def gaussian_process(x: Array, y: Array) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    squares = (x[:, None] - x) ** 2
    kernel = alpha**2 * jnp.exp(-0.5 * squares / rho**2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=kernel), obs=y)


def hidden_markov(y: Array) -> None:
    theta1 = numpyro.sample("theta1", dist.ImproperUniform(constraints.simplex, (), (2,)))
    theta2 = numpyro.sample("theta2", dist.ImproperUniform(constraints.simplex, (), (2,)))
    rises = numpyro.sample("rises", dist.ImproperUniform(constraints.independent(constraints.positive, 1), (), (2,)))
    mu = numpyro.deterministic("mu", rises.cumsum(-1))
    numpyro.factor("prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu, 1.0).log_prob(y[:, None])
    log_transition = jnp.log(jnp.stack([theta1, theta2]))

    def forward(log_alpha: Array, log_emitted: Array) -> tuple[Array, None]:
        return logsumexp(log_alpha[:, None] + log_transition, 0) + log_emitted, None

    log_alpha, _ = scan(forward, emission[0], emission[1:])
    numpyro.factor("y", logsumexp(log_alpha))


def mixture(y: Array) -> None:
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand((2,)).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    components = dist.Normal(mu[:, None], sigma[:, None]).log_prob(y)
    with numpyro.plate("data", len(y)):
        numpyro.factor("y", jnp.logaddexp(jnp.log(theta) + components[0], jnp.log1p(-theta) + components[1]))
