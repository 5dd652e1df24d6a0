r"""The Gaussian mixture: full, tied or diagonal covariances.

.. math::
    c_n \sim \operatorname{Categorical}(\pi), \qquad x_n \mid c_n = k \sim \mathcal{N}(\mu_k, \Sigma_k), \qquad
    \Sigma_k = L_k L_k^\top + \varepsilon^2 I ,

with :math:`L_k` lower triangular (full), one :math:`L` for all components (tied), or diagonal. The least standard
deviation :math:`\varepsilon` keeps the density bounded: without it a component on one datum has a likelihood without
end (Kiefer & Wolfowitz, 1956). The component is summed out, and missing entries are integrated out in each,
:math:`p(x_o) = \sum_k \pi_k \, \mathcal{N}(x_o; \mu_{k,o}, \Sigma_{k,oo})`.

**EM** with holes (Ghahramani & Jordan, 1994): with :math:`\hat x_{nk} = \mathbb{E}[x_n \mid x_{n,o}, k]` and
:math:`C_{nk} = \operatorname{Cov}[x_n \mid x_{n,o}, k]`, zero where an entry is seen,

.. math::
    \mu_k \leftarrow \frac{\sum_n r_{nk} \hat x_{nk}}{\sum_n r_{nk}}, \qquad
    \Sigma_k \leftarrow \frac{S_0 + \sum_n r_{nk} \big((\hat x_{nk} - \mu_k)(\hat x_{nk} - \mu_k)^\top + C_{nk}\big)}
    {1 + \sum_n r_{nk}} ,

where :math:`S_0 = \operatorname{diag}(s^2) / K^{2/D}`, of the data's variances :math:`s^2`, is worth one datum: it
gives a component with few data the shape of a part of the whole (Fraley & Raftery, 2007). Tied, all are summed.

References:
    | Supervised learning from incomplete data via an EM approach (Ghahramani & Jordan, 1994)
    | Bayesian Regularization for Normal Mixture Estimation and Model-Based Clustering (Fraley & Raftery, 2007)
    | https://doi.org/10.1007/s00357-007-0004-5
"""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.gaussian import condition_factor
from pyro_gen.models.mixture.base import Mixture
from pyro_gen.registry import model

__all__ = ["GaussianMixture"]

COVARIANCES = ("full", "tied", "diagonal")


@model(
    "Gaussian mixture",
    paper="Ghahramani & Jordan (1994)",
    small={c: lambda c=c: (GaussianMixture(4, 3, c), normal_rows(12, 4)) for c in COVARIANCES},  # type: ignore[misc]
)
class GaussianMixture(Mixture):
    r"""Creates a Gaussian mixture.

    Arguments:
        features: The number of entries :math:`D` of one datum.
        components: The number of components :math:`K`.
        covariance: ``"full"``, ``"tied"`` (one for all components) or ``"diagonal"``.
        min_scale: The least standard deviation :math:`\varepsilon`.

    Attributes:
        logits: The logarithms of the weights :math:`\pi`, up to a constant, with shape :math:`(K,)`.
        loc: The means :math:`\mu`, with shape :math:`(K, D)`.
        scale_tril: The factors :math:`L`, with shape :math:`(K, D, D)`, :math:`(1, D, D)` if tied; if diagonal:
        scale: Their diagonals, with shape :math:`(K, D)`.

    Raises:
        ValueError: There is no component, or no covariance of that name.

    Example:
        >>> side = torch.arange(40) % 2  # two clouds
        >>> x = (4.0 * side - 2).unsqueeze(1) + normal_rows(40, 2) / 2
        >>> mixture = GaussianMixture(2, components=2).initialise(x)
        >>> mixture.loc.sort(0).values.round().tolist()
        [[-2.0, -2.0], [2.0, 2.0]]
        >>> r = mixture.responsibilities(torch.tensor([[1.0, torch.nan], [-1.0, torch.nan]]))
        >>> bool((r[0] - r[1]).abs().min() > 0.98)
        True
    """

    def __init__(self, features: int, components: int, covariance: str = "full", min_scale: float = 1e-3) -> None:
        super().__init__(features, components)
        if covariance not in COVARIANCES:
            raise ValueError(f"GaussianMixture(covariance={covariance!r}): give one of {', '.join(COVARIANCES)}.")
        self.covariance, self.min_scale = covariance, min_scale
        self.loc = nn.Parameter(torch.randn(components, features))
        if covariance == "diagonal":
            self.scale: Any = PyroParam(torch.ones(components, features), constraint=constraints.positive)
        else:
            count = 1 if covariance == "tied" else components
            factor = torch.eye(features).repeat(count, 1, 1)
            self.scale_tril: Any = PyroParam(factor, constraint=constraints.lower_cholesky)

    def covariances(self) -> Tensor:
        r"""The matrices :math:`\Sigma_k`, with shape :math:`(K, D, D)`."""
        floor = self.min_scale**2 * torch.eye(self.loc.shape[1]).to(self.loc)
        if self.covariance == "diagonal":
            return torch.diag_embed(self.scale.square()) + floor
        factor = self.scale_tril
        return (factor @ factor.mT + floor).expand(self.components, -1, -1)  # type: ignore[no-any-return]

    def component(self, k: Any = slice(None)) -> Any:
        if self.covariance == "diagonal":
            return dist.Normal(self.loc[k], (self.scale[k].square() + self.min_scale**2).sqrt()).to_event(1)
        return dist.MultivariateNormal(self.loc[k], self.covariances()[k])

    def maximise(self, x: Tensor, r: Tensor) -> None:
        mean, factor = condition_factor(x, self.loc, torch.linalg.inv(self.covariances()))  # (K, N, D), (K, N, D, D)
        weight = r.T.unsqueeze(-1)  # (K, N, 1)
        n = r.sum(0)
        loc = (weight * mean).sum(1) / n.clamp(min=1e-10).unsqueeze(1)
        loc = torch.where(n.unsqueeze(1) > 1e-10, loc, self.loc)
        centred = mean - loc.unsqueeze(1)
        scatter = (weight * centred).mT @ centred + torch.einsum("kn,knij,knlj->kil", r.T, factor, factor)
        variance = (x - x.nanmean(0)).square().nanmean(0).nan_to_num(1.0)
        prior = torch.diag(variance) / self.components ** (2 / x.shape[1])  # S_0
        if self.covariance == "tied":
            scatter, n = scatter.sum(0, keepdim=True), n.sum(0, keepdim=True)
        sigma = (prior + scatter) / (1 + n).view(-1, 1, 1)
        self.loc.copy_(loc)
        floor = self.min_scale**2
        if self.covariance == "diagonal":
            self.scale = (sigma.diagonal(dim1=1, dim2=2) - floor).clamp(min=floor).sqrt()
        else:
            self.scale_tril = torch.linalg.cholesky(sigma)
