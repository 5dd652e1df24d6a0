r"""The Gaussian: the smallest program with an exact density.

.. math::
    x_n \sim \mathcal{N}(\mu, \Sigma), \qquad
    \Sigma = L L^\top \;\text{(full)} \quad \text{or} \quad \Sigma = \operatorname{diag}(\sigma^2) \;\text{(diagonal)} .

There is no latent variable, so the guide is empty and the ELBO *is* the log-likelihood: training is maximum
likelihood, with its optimum at the sample mean :math:`\hat\mu` and the sample covariance
:math:`\hat\Sigma = \frac1N \sum_n (x_n - \hat\mu)(x_n - \hat\mu)^\top`.

Missing entries are integrated out, :math:`p(x_o) = \mathcal{N}(x_o; \mu_o, \Sigma_{oo})`, and drawn from
:math:`p(x_m \mid x_o) = \mathcal{N}\big(\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (x_o - \mu_o), \;
\Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}\big)`.

References:
    | Statistical Analysis with Missing Data (Little & Rubin, 2002), section 11.2
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen._sizes import event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["Gaussian"]


@model(
    "Gaussian, full or diagonal covariance",
    small={
        "full": lambda: (Gaussian(4), normal_rows(9, 4)),
        "full, images": lambda: (Gaussian((2, 3)), normal_rows(9, 2, 3)),
        "diagonal": lambda: (Gaussian(4, covariance="diagonal"), normal_rows(9, 4)),
    },
)
class Gaussian(Program):
    r"""Creates a Gaussian; it starts at :math:`\mathcal{N}(0, I)`.

    Arguments:
        event_shape: The shape of one datum, or the number :math:`D` of its entries.
        covariance: ``"full"`` or ``"diagonal"``.

    Attributes:
        loc: The mean :math:`\mu`, with shape :math:`(D,)`.
        scale_tril: The Cholesky factor :math:`L`, with shape :math:`(D, D)`, if full.
        scale: The standard deviations :math:`\sigma`, with shape :math:`(D,)`, if diagonal.

    Raises:
        ValueError: There is no covariance of that name, or a size is no positive integer.

    Example:
        >>> x = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
        >>> Gaussian(2).model(x).shape
        torch.Size([2, 2])
    """

    def __init__(self, event_shape: int | Sequence[int], covariance: str = "full") -> None:
        super().__init__()
        if covariance not in ("full", "diagonal"):
            raise ValueError(f'Gaussian(covariance={covariance!r}): give "full" or "diagonal".')
        self.event_shape = event_of(self, event_shape)
        self.covariance = covariance
        features = self.event_shape.numel()
        self.loc = nn.Parameter(torch.zeros(features))
        if covariance == "full":
            self.scale_tril: Any = PyroParam(torch.eye(features), constraint=constraints.lower_cholesky)
        else:
            self.scale: Any = PyroParam(torch.ones(features), constraint=constraints.positive)

    def model(self, x: Tensor) -> Tensor:
        r"""The density :math:`p(x)` of data with shape :math:`(N, *event)`; returns it completed."""
        with self.plate(x):
            if self.covariance == "full":
                distribution = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
            else:
                distribution = dist.Normal(self.loc, self.scale).to_event(1)
            return observe("x", distribution, x.flatten(1)).reshape(x.shape)
