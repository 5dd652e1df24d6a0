"""The ten posteriors of ``models.py`` for NumPyro, line by line: the rival of ``benchmarks/mcmc.py``.

The models take the same arguments, as NumPy arrays, and have the same sites; but for garch: with a flat prior whose
range depends on another site, NumPyro 0.22 samples from another posterior (mean of beta1 off by 130 standard errors).
"""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
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


def geometric_sums(x: Array, ratio: Array) -> Array:
    shift = 1
    while shift < x.shape[-1]:
        x = x + ratio * jnp.pad(x[:-shift], (shift, 0))
        ratio, shift = ratio * ratio, 2 * shift
    return x


def garch(y: Array, sigma1: Array) -> None:
    mu = numpyro.sample("mu", flat())
    alpha0 = numpyro.sample("alpha0", flat_positive())
    alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = numpyro.deterministic("beta1", share * (1.0 - alpha1))
    numpyro.factor("flat", jnp.log(1.0 - alpha1))
    news = alpha0 + alpha1 * (y[:-1] - mu) ** 2
    variance = geometric_sums(jnp.concatenate([jnp.reshape(sigma1**2, 1), news]), beta1)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(variance)), obs=y)


def gaussian_process(x: Array, y: Array) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    squares = (x[:, None] - x) ** 2
    kernel = alpha**2 * jnp.exp(-0.5 * squares / rho**2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=kernel), obs=y)


def scaled_product(m: Array) -> tuple[Array, Array]:
    log_scale = jnp.zeros(())
    while m.shape[-1] > 1:
        even = m.shape[-1] // 2 * 2
        pairs = (m[:, :, None, 0:even:2] * m[None, :, :, 1:even:2]).sum(1)
        size = stop_gradient(pairs).max((0, 1))
        m = jnp.concatenate([pairs / size, m[..., even:]], -1)
        log_scale = log_scale + jnp.log(size).sum()
    return m[..., 0], log_scale


def hidden_markov(y: Array) -> None:
    theta1 = numpyro.sample("theta1", dist.ImproperUniform(constraints.simplex, (), (2,)))
    theta2 = numpyro.sample("theta2", dist.ImproperUniform(constraints.simplex, (), (2,)))
    rises = numpyro.sample("rises", dist.ImproperUniform(constraints.independent(constraints.positive, 1), (), (2,)))
    mu = numpyro.deterministic("mu", rises.cumsum(-1))
    numpyro.factor("prior", dist.Normal(jnp.array([3.0, 10.0]), 1.0).log_prob(mu).sum())
    emission = dist.Normal(mu[:, None], 1.0).log_prob(y)
    size = stop_gradient(emission).max(0)
    emitted = jnp.exp(emission - size)
    transition = jnp.stack([theta1, theta2])
    product, log_scale = scaled_product(transition[..., None] * emitted[:, 1:])
    numpyro.factor("y", jnp.log((emitted[:, :1] * product).sum()) + log_scale + size.sum())


def mixture(y: Array) -> None:
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    numpyro.factor("prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand((2,)).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(jnp.stack([theta, 1 - theta]))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)
