r"""The Gaussian process: one datum is a function, seen with noise at some points.

.. math::
    f \sim \mathcal{GP}(m, k), \quad x_i = f(u_i) + \epsilon_i, \quad \epsilon_i \sim \mathcal{N}(0, \sigma^2)
    \quad\Rightarrow\quad x \sim \mathcal{N}(m 1, \; K + \sigma^2 I), \qquad K_{ij} = k(u_i, u_j) .

The function integrates out, so the density is exact: :func:`pyro_gen.log_likelihood` is the log-evidence of the kernel
and the noise, and :func:`pyro_gen.fit` maximises it, from the moments of what is seen. Points where the function was
not seen are NaN: they are marginalised, and :func:`pyro_gen.predict` draws them given the others,

.. math::
    x_* \mid x \sim \mathcal{N}\big(m + K_{*o} (K_{oo} + \sigma^2 I)^{-1} (x_o - m), \;
    K_{**} + \sigma^2 I - K_{*o} (K_{oo} + \sigma^2 I)^{-1} K_{o*}\big) .

A regression of N outcomes is one function: data ``y[None]``, context ``u[None]``, new inputs with NaN behind. It takes
:math:`O(N^3)`; long tables take inducing points, :mod:`pyro_gen.models.regression.sparse_gaussian_process`.

References:
    | Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), chapter 2
"""

from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.models.regression.parts.kernels import Kernel, start_kernel
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["GaussianProcess"]


@model(
    "Gaussian process regression, exact",
    paper="Rasmussen & Williams (2006)",
    small={
        "": lambda: (GaussianProcess(2, points=4), normal_rows(9, 4), normal_rows(9, 4, 2)),
        "Matern": lambda: (GaussianProcess(1, 4, kernel="matern52"), normal_rows(9, 4), normal_rows(9, 4, 1)),
    },
)
class GaussianProcess(Program):
    r"""Creates a Gaussian process; data are functions (B, N), context the points (B, N, P) at which they are seen.

    Arguments:
        covariates: The number :math:`P` of covariates.
        points: The number :math:`N` of points of a datum, for generation; data may have another.
        kernel: ``"squared_exponential"`` or ``"matern52"``, see :mod:`pyro_gen.models.regression.parts.kernels`.

    Attributes:
        mean: The number :math:`m`.
        covariance: The covariance function :math:`k`.
        log_noise: The logarithm of :math:`\sigma`.

    Raises:
        ValueError: There is no such kernel.

    Example:
        >>> import pyro_gen as pg
        >>> u = torch.linspace(0, 3, 31, dtype=torch.float64)[None, :, None]
        >>> y = torch.sin(u[..., 0])
        >>> y[0, 15] = torch.nan
        >>> program = GaussianProcess(1, points=31).double()
        >>> with torch.no_grad():
        ...     _ = program.log_noise.fill_(-4.0)
        >>> drawn = pg.predict(program, y, u, draws=200)
        >>> bool((drawn[:, 0, 15].mean() - torch.sin(u[0, 15, 0])).abs() < 0.02)
        True
    """

    initialised: Tensor
    any_length = True

    def __init__(self, covariates: int, points: int, kernel: str = "squared_exponential") -> None:
        super().__init__()
        self.event_shape = torch.Size((points,))
        self.covariance = Kernel(covariates, kernel)
        self.mean = nn.Parameter(torch.zeros(()))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Takes mean, amplitude, noise and lengths from the moments of data; the first time only."""
        if not self.initialised:
            with torch.no_grad():
                start_kernel(self, x, context[0])
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def model(self, x: Tensor, u: Tensor) -> Tensor:
        """The density of functions (B, N) given their points (B, N, P); returns them completed."""
        noise = (2 * self.log_noise).exp() * torch.eye(x.shape[-1]).to(u)
        with self.plate(x):
            law = dist.MultivariateNormal(self.mean.expand(x.shape), self.covariance(u, u) + noise)
            return observe("x", law, x)
