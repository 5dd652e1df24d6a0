r"""Linear regression with its conjugate prior: posterior, predictive and evidence in closed form.

.. math::
    y_n \mid \beta, \sigma^2 \sim \mathcal{N}(\beta^\top h_n, \sigma^2), \qquad h_n = (1, u_n) \in \mathbb{R}^{P + 1},
    \qquad \beta \mid \sigma^2 \sim \mathcal{N}(0, \; \sigma^2 \tau^2 I), \qquad
    \sigma^2 \sim \operatorname{InvGamma}(a, b)

With :math:`H` the matrix of the rows whose outcome was seen, the posterior is of the same form,

.. math::
    \beta \mid \sigma^2, y \sim \mathcal{N}(m, \; \sigma^2 \Lambda^{-1}), \qquad
    \sigma^2 \mid y \sim \operatorname{InvGamma}(a_N, b_N),

.. math::
    \Lambda = H^\top H + \tau^{-2} I, \quad m = \Lambda^{-1} H^\top y, \quad
    a_N = a + \tfrac{N}{2}, \quad b_N = b + \tfrac12 (y^\top y - m^\top \Lambda m),

and the evidence is

.. math::
    \log p(y) = -\tfrac{N}{2} \log 2\pi - (P + 1) \log \tau - \tfrac12 \log |\Lambda|
    + a \log b - a_N \log b_N + \log \Gamma(a_N) - \log \Gamma(a) .

The guide is that posterior, stored by :meth:`ConjugateRegression.fit_posterior`: given the data that it was computed
from, :math:`\log p(y, \beta, \sigma^2) - \log q(\beta, \sigma^2)` is the log-evidence for *every* draw.

References:
    | Bayesian Data Analysis (Gelman et al., 2013), section 14.2
    | Machine Learning: A Probabilistic Perspective (Murphy, 2012), section 7.6.3
"""

import math
from typing import NamedTuple, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.data.small import normal_rows
from pyro_gen.models.regression.parts.guided import check_positive
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["ConjugateRegression"]


class _Posterior(NamedTuple):
    """Normal and inverse gamma: mean m (P + 1,), precision (P + 1, P + 1), shape and rate ()."""

    mean: Tensor
    precision: Tensor
    shape: Tensor
    rate: Tensor
    rows: int


@model(
    "linear regression with its conjugate prior",
    paper="Gelman et al. (2013)",
    small={"": lambda: (ConjugateRegression(3), normal_rows(9), normal_rows(9, 3))},
)
class ConjugateRegression(Program):
    r"""Creates a conjugate linear regression; data are outcomes ``y`` (N,), context the covariates ``u`` (N, P).

    Arguments:
        covariates: The number :math:`P` of covariates.
        scale: The scale :math:`\tau` of the weights' prior, in units of the noise.
        shape: The shape :math:`a` of the noise variance's prior.
        rate: Its rate :math:`b`.

    Attributes:
        mean: The posterior mean :math:`m` of intercept and weights, with shape :math:`(P + 1,)`.
        precision: The matrix :math:`\Lambda`, with shape :math:`(P + 1, P + 1)`.
        noise_shape: The number :math:`a_N`.
        noise_rate: The number :math:`b_N`.

    Raises:
        ValueError: An argument is not positive.

    Example:
        >>> import pyro_gen as pg
        >>> u = torch.linspace(-1, 1, 30).double().unsqueeze(-1)
        >>> y = 1 + 2 * u.squeeze(-1)
        >>> program = ConjugateRegression(1).double().fit_posterior(y, u)
        >>> [round(v, 2) for v in program.mean.tolist()]
        [1.0, 2.0]
        >>> mean = pg.predict(program, None, torch.tensor([[3.0]]).double(), returns="mean")
        >>> bool((mean - 7).abs() < 0.1)
        True
    """

    mean: Tensor
    precision: Tensor
    noise_shape: Tensor
    noise_rate: Tensor

    def __init__(self, covariates: int, scale: float = 10.0, shape: float = 2.0, rate: float = 1.0) -> None:
        super().__init__()
        check_positive(self, covariates=covariates, scale=scale, shape=shape, rate=rate)
        self.event_shape = torch.Size()
        self.covariates, self.scale, self.shape, self.rate = covariates, scale, shape, rate
        self.register_buffer("mean", torch.zeros(covariates + 1))
        self.register_buffer("precision", torch.eye(covariates + 1) / scale**2)
        self.register_buffer("noise_shape", torch.tensor(shape))
        self.register_buffer("noise_rate", torch.tensor(rate))

    def model(self, y: Tensor, u: Tensor) -> Tensor:
        r"""The joint density of outcomes (N,) given covariates (N, P), weights and noise; returns them completed."""
        h = self._with_intercept(u)
        ones = h.new_ones(())
        variance = pyro.sample("variance", dist.InverseGamma(self.shape * ones, self.rate * ones))
        prior = dist.Normal(h.new_zeros(h.shape[-1]), self.scale * variance.sqrt().unsqueeze(-1))
        beta = pyro.sample("beta", prior.to_event(1))  # (P + 1,)
        with self.plate(y):
            return observe("y", dist.Normal(h @ beta, variance.sqrt()), y)

    def guide(self, y: Tensor, u: Tensor) -> None:
        """A draw of the stored posterior."""
        variance = pyro.sample("variance", dist.InverseGamma(self.noise_shape, self.noise_rate))
        pyro.sample("beta", dist.MultivariateNormal(self.mean, precision_matrix=self.precision / variance))

    def fit_posterior(self, y: Tensor, u: Tensor) -> Self:
        """Computes the posterior given outcomes (N,), NaN where not known, and covariates (N, P), and stores it."""
        posterior = self._posterior(y, u)
        self.mean.copy_(posterior.mean)
        self.precision.copy_(posterior.precision)
        self.noise_shape.copy_(posterior.shape)
        self.noise_rate.copy_(posterior.rate)
        return self

    def log_evidence(self, y: Tensor, u: Tensor) -> Tensor:
        """The log-density of outcomes (N,), NaN where not known, given covariates (N, P): a scalar, in nats."""
        posterior = self._posterior(y, u)
        value: Tensor = (
            -posterior.rows / 2 * math.log(2 * math.pi)
            - (self.covariates + 1) * math.log(self.scale)
            - torch.linalg.slogdet(posterior.precision).logabsdet / 2
            + self.shape * math.log(self.rate)
            - posterior.shape * posterior.rate.log()
            + torch.lgamma(posterior.shape)
            - math.lgamma(self.shape)
        )
        return value

    def _posterior(self, y: Tensor, u: Tensor) -> _Posterior:
        seen = ~torch.isnan(y)
        y, h = y[seen].double(), self._with_intercept(u[seen]).double()
        precision = h.T @ h + torch.eye(h.shape[-1]).to(h) / self.scale**2
        mean = torch.cholesky_solve((h.T @ y).unsqueeze(-1), torch.linalg.cholesky(precision)).squeeze(-1)
        # The residual form of y'y - m' Lambda m does not cancel.
        rate = self.rate + 0.5 * ((y - h @ mean).square().sum() + mean.square().sum() / self.scale**2)
        return _Posterior(mean, precision, y.new_tensor(self.shape + len(y) / 2), rate, len(y))

    @staticmethod
    def _with_intercept(u: Tensor) -> Tensor:
        return torch.cat([u.new_ones(len(u), 1), u], -1)
