r"""Gaussian process regression of long tables: M inducing points speak for the function.

.. math::
    v \sim \mathcal{N}(0, I_M), \qquad
    f_n \mid v \sim \mathcal{N}\big(m + a_n^\top v, \; k(u_n, u_n) - a_n^\top a_n\big), \qquad
    y_n \mid f_n \sim \mathcal{N}(f_n, \sigma^2), \qquad a_n = L^{-1} k(Z, u_n)

with :math:`L L^\top = k(Z, Z)` at the inducing points :math:`Z`, so that :math:`L v` are the values there. The guide is
:math:`q(v) = \mathcal{N}(\mu, S)`, and :math:`q(f_n \mid v) = p(f_n \mid v)`: its ELBO,

.. math::
    \sum_n \mathbb{E}_{q(v) \, p(f_n \mid v)} \log p(y_n \mid f_n)
    - \operatorname{KL}\big(q(v) \,\|\, \mathcal{N}(0, I)\big)
    \;\le\; \log \mathcal{N}(y; m 1, K + \sigma^2 I) ,

is below the evidence of the exact process (Hensman et al., 2013), and sums over data, so :func:`pyro_gen.fit` trains
kernel, noise, inducing points and guide by minibatches. Given the others the best guide is known (Titsias, 2009), with
:math:`A` the matrix of the rows :math:`a_n^\top`,

.. math::
    S = (I + \sigma^{-2} A^\top A)^{-1}, \qquad \mu = \sigma^{-2} S A^\top (y - m) ,

and makes the bound :math:`\log \mathcal{N}(y; m 1, A A^\top + \sigma^2 I) - \frac{1}{2 \sigma^2} \sum_n (k(u_n, u_n) -
a_n^\top a_n)`, in :math:`O(N M^2)`: :meth:`SparseGaussianProcess.bound`, :meth:`SparseGaussianProcess.fit_posterior`.
Training starts best from the guide of some thousand rows, and ends with that of all.

References:
    | Variational Learning of Inducing Variables in Sparse Gaussian Processes (Titsias, 2009)
    | Gaussian Processes for Big Data (Hensman, Fusi & Lawrence, 2013)
    | https://arxiv.org/abs/1309.6835
"""

import math
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._random import seeded
from pyro_gen.data.small import normal_rows
from pyro_gen.models.regression.parts.kernels import Kernel, start_kernel
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["SparseGaussianProcess"]

JITTER = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the kernel's variance, added at the inducing points


@model(
    "Gaussian process regression with inducing points",
    paper="Titsias (2009), Hensman et al. (2013)",
    small={"": lambda: (SparseGaussianProcess(normal_rows(3, 2)), normal_rows(9), normal_rows(9, 2))},
)
class SparseGaussianProcess(Program):
    r"""Creates a sparse Gaussian process; data are outcomes ``y`` (N,), context the covariates ``u`` (N, P).

    Arguments:
        inducing: Where the inducing points start, with shape :math:`(M, P)`, or their number: then they start at rows
            of the data, and mean and scales at the moments of these.
        covariates: The number :math:`P` of covariates where ``inducing`` is a number.
        kernel: ``"squared_exponential"`` or ``"matern52"``, see :mod:`pyro_gen.models.regression.parts.kernels`.

    Attributes:
        covariance: The covariance function :math:`k`.
        inducing: The points :math:`Z`, with shape :math:`(M, P)`.
        mean: The number :math:`m`.
        log_noise: The logarithm of :math:`\sigma`.
        loc: The guide's mean :math:`\mu`, with shape :math:`(M,)`.
        scale_tril: The Cholesky factor of :math:`S`, with shape :math:`(M, M)`.

    Raises:
        ValueError: There is no such kernel.

    Example:
        >>> u = torch.linspace(0, 6, 200, dtype=torch.float64).unsqueeze(-1)
        >>> program = SparseGaussianProcess(u[::20]).double().fit_posterior(torch.sin(u[:, 0]), u)
        >>> import pyro_gen as pg
        >>> mean = pg.predict(program, None, u[100:101], returns="mean")
        >>> bool((mean - torch.sin(u[100])).abs() < 0.1)
        True
    """

    initialised: Tensor

    def __init__(
        self, inducing: Tensor | int, kernel: str = "squared_exponential", covariates: int | None = None
    ) -> None:
        super().__init__()
        self.event_shape = torch.Size()
        self.register_buffer("initialised", torch.tensor(isinstance(inducing, Tensor)))
        if not isinstance(inducing, Tensor):
            if covariates is None:
                raise ValueError("SparseGaussianProcess(inducing=...): a number of points needs covariates=... too.")
            inducing = torch.randn(inducing, covariates)
        m, covariates = inducing.shape
        self.covariance = Kernel(covariates, kernel)
        self.inducing = nn.Parameter(inducing.clone())
        self.mean = nn.Parameter(torch.zeros(()))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))
        self.loc = nn.Parameter(torch.zeros(m))
        self.scale_tril: Any = PyroParam(torch.eye(m), constraint=constraints.lower_cholesky)

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes inducing points from rows of data, scales from their moments, the best guide; the first time only."""
        if not self.initialised:
            with seeded(seed), torch.no_grad():
                u, m = context[0], len(self.inducing)
                self.inducing.copy_(u[torch.multinomial(torch.ones(len(u)), m, replacement=len(u) < m)])
                start_kernel(self, x, u)
                self.fit_posterior(x, u)
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def weights(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""The matrix :math:`A` (N, M) of points (N, P), and what it leaves of their variances, (N,)."""
        z = self.inducing
        nugget = JITTER[z.dtype] * self.covariance.variance() * torch.eye(len(z)).to(z)
        factor = torch.linalg.cholesky(self.covariance(z, z) + nugget)
        a = torch.linalg.solve_triangular(factor, self.covariance(z, u.to(z)), upper=False).mT
        left = self.covariance.variance() - a.square().sum(-1)
        return a, left.clamp(min=JITTER[z.dtype] ** 2)

    def model(self, y: Tensor, u: Tensor) -> Tensor:
        """The joint density of outcomes (N,) given covariates (N, P), and of the function; returns them completed."""
        v = pyro.sample("v", dist.Normal(torch.zeros_like(self.loc), 1.0).to_event(1))  # (M,)
        a, left = self.weights(u)
        with self.plate(y):
            f = pyro.sample("f", dist.Normal(self.mean + a @ v, left.sqrt()))
            return observe("y", dist.Normal(f, self.log_noise.exp()), y)

    def guide(self, y: Tensor, u: Tensor) -> None:
        r"""A draw of :math:`q(v)`, and of the function given it."""
        v = pyro.sample("v", dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril))
        a, left = self.weights(u)
        with self.plate(y):
            pyro.sample("f", dist.Normal(self.mean + a @ v, left.sqrt()))

    def bound(self, y: Tensor, u: Tensor) -> Tensor:
        """The ELBO of outcomes (N,), NaN where not known, given covariates (N, P), under the best guide, in nats."""
        r, a, left, factor, noise = self._moments(y, u)
        fitted = torch.linalg.solve_triangular(factor, (a.mT @ r).unsqueeze(-1), upper=False)
        quadratic = (r.square().sum() - fitted.square().sum() / noise) / noise
        log_det = len(r) * noise.log() + 2 * factor.diagonal().log().sum()
        value: Tensor = -0.5 * (len(r) * math.log(2 * math.pi) + log_det + quadratic + left.sum() / noise)
        return value

    def fit_posterior(self, y: Tensor, u: Tensor) -> Self:
        """Sets the guide to the best one given outcomes (N,), NaN where not known, and covariates (N, P)."""
        with torch.no_grad():
            r, a, _, factor, noise = self._moments(y, u)
            covariance = torch.cholesky_inverse(factor)
            self.loc.copy_(covariance @ (a.mT @ r) / noise)
            self.scale_tril = torch.linalg.cholesky(covariance)
        return self

    def _moments(self, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        r"""Residuals, :math:`A`, variances left, the Cholesky factor of :math:`S^{-1}`, and :math:`\sigma^2`."""
        seen = ~torch.isnan(y)
        a, left = self.weights(u[seen])
        noise = (2 * self.log_noise).exp()
        factor = torch.linalg.cholesky(torch.eye(a.shape[-1]).to(a) + a.mT @ a / noise)
        return y[seen].to(a) - self.mean, a, left, factor, noise
