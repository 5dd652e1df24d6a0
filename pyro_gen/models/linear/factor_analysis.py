r"""Factor analysis and probabilistic PCA: the models whose every quantity is known.

.. math::
    z_n \sim \mathcal{N}(0, I_K), \qquad x_n \mid z_n \sim \mathcal{N}(W z_n + \mu, \; \Psi)

with loadings :math:`W \in \mathbb{R}^{D \times K}` and diagonal noise :math:`\Psi`: free in factor analysis,
:math:`\Psi = \sigma^2 I` in probabilistic PCA, where the columns of :math:`W` span the principal subspace at the
maximum of the likelihood. The latent variable integrates out,

.. math:: x_n \sim \mathcal{N}(\mu, \; W W^\top + \Psi) ,

and so do missing entries: rows :math:`o` of :math:`W, \mu, \Psi` are the same model of the seen entries. The posterior
given what was seen is

.. math::
    z_n \mid x_{n,o} \sim \mathcal{N}\big(M^{-1} W_o^\top \Psi_o^{-1} (x_{n,o} - \mu_o), \; M^{-1}\big), \qquad
    M = I + W_o^\top \Psi_o^{-1} W_o .

With this posterior as the guide (``guide="exact"``) the ELBO equals :math:`\log p(x)` for *every* draw of :math:`z`,
so SVI follows the exact gradient of the likelihood. ``guide="amortised"`` is a mean-field encoder instead, as a
variational autoencoder has one: its ELBO is a strict bound, for estimators to be measured on.

References:
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999)
    | https://doi.org/10.1111/1467-9868.00196
    | EM algorithms for ML factor analysis (Rubin & Thayer, 1982)
    | https://doi.org/10.1007/BF02293851
"""

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.nets import MissingInput
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["FactorAnalysis", "ProbabilisticPCA"]


class _LinearFactors(Program):
    """What both models share; they differ in the shape of ``log_scale``, () or (D,)."""

    def __init__(self, features: int, rank: int, guide: str, noise_shape: tuple[int, ...]) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"{type(self).__name__}(rank={rank}): give at least one latent dimension.")
        if guide not in ("exact", "amortised"):
            raise ValueError(f'{type(self).__name__}(guide={guide!r}): give "exact" or "amortised".')
        self.event_shape = torch.Size((features,))
        self.rank = rank
        self.loc = nn.Parameter(torch.zeros(features))
        self.loadings = nn.Parameter(torch.randn(features, rank) / features**0.5)
        self.log_scale = nn.Parameter(torch.zeros(noise_shape))
        self.encoder = MissingInput(nn.Linear(features, 2 * rank)) if guide == "amortised" else None

    def model(self, x: Tensor) -> Tensor:
        r"""The joint density :math:`p(x, z)` of data with shape :math:`(N, D)`; returns it completed."""
        with self.plate(x):
            prior = dist.Normal(self.loc.new_zeros(self.rank), 1.0).to_event(1)
            z = pyro.sample("z", prior)  # (N, K)
            return observe("x", dist.Normal(z @ self.loadings.T + self.loc, self.log_scale.exp()).to_event(1), x)

    def guide(self, x: Tensor) -> None:
        r"""The posterior :math:`p(z \mid x_o)`, or the encoder's mean-field approximation of it."""
        with self.plate(x):
            pyro.sample("z", self._posterior(x) if self.encoder is None else self._encode(x))

    def _posterior(self, x: Tensor) -> Any:
        w = self.loadings  # (D, K)
        seen = ~torch.isnan(x)
        weight = seen * (-2 * self.log_scale).exp()  # diagonal of Psi^-1 on the seen entries, (N, D)
        outer = w.unsqueeze(-1) * w.unsqueeze(-2)  # (D, K, K)
        precision = torch.eye(self.rank).to(w) + (weight @ outer.flatten(1)).unflatten(-1, outer.shape[1:])  # M
        projected = (weight * (x - self.loc).masked_fill(~seen, 0.0)) @ w  # W_o^T Psi_o^-1 (x_o - mu_o), (N, K)
        loc = torch.cholesky_solve(projected.unsqueeze(-1), torch.linalg.cholesky(precision)).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def _encode(self, x: Tensor) -> Any:
        loc, raw_scale = self.encoder(x - self.loc).chunk(2, -1)  # type: ignore[misc]
        return dist.Normal(loc, 1e-4 + F.softplus(raw_scale)).to_event(1)

    def marginal(self) -> Program:
        r"""Returns the exact density :math:`\mathcal{N}(\mu, W W^\top + \Psi)` as a program, on the same parameters."""
        return _Marginal(self.loc, self.loadings, self.log_scale)


class _Marginal(Program):
    """The latent-free form of a linear factor model, on parameters of shapes (D,), (D, K), () or (D,)."""

    def __init__(self, loc: nn.Parameter, loadings: nn.Parameter, log_scale: nn.Parameter) -> None:
        super().__init__()
        self.event_shape = loc.shape
        self.loc, self.loadings, self.log_scale = loc, loadings, log_scale

    def model(self, x: Tensor) -> Tensor:
        variance = (2 * self.log_scale).exp().expand_as(self.loc)
        with self.plate(x):
            return observe("x", dist.LowRankMultivariateNormal(self.loc, self.loadings, variance), x)


@model(
    "factor analysis",
    paper="Rubin & Thayer (1982)",
    small={
        "exact guide": lambda: (FactorAnalysis(5, 2), normal_rows(9, 5)),
        "amortised guide": lambda: (FactorAnalysis(5, 2, guide="amortised"), normal_rows(9, 5)),
        "marginal": lambda: (FactorAnalysis(5, 2).marginal(), normal_rows(9, 5)),
    },
)
class FactorAnalysis(_LinearFactors):
    r"""Creates a factor analysis model, :math:`\Psi = \operatorname{diag}(\sigma_1^2, \ldots, \sigma_D^2)`.

    Arguments:
        features: The number of entries :math:`D` of one datum.
        rank: The number of factors :math:`K`.
        guide: ``"exact"`` for the posterior in closed form, ``"amortised"`` for a mean-field encoder.

    Attributes:
        loc: The mean :math:`\mu`, with shape :math:`(D,)`.
        loadings: The matrix :math:`W`, with shape :math:`(D, K)`.
        log_scale: The logarithms :math:`\log \sigma_d`, with shape :math:`(D,)`.

    Raises:
        ValueError: The rank is not positive, or there is no guide of that name.

    Example:
        >>> FactorAnalysis(features=5, rank=2).model(torch.zeros(3, 5)).shape
        torch.Size([3, 5])
    """

    def __init__(self, features: int, rank: int, guide: str = "exact") -> None:
        super().__init__(features, rank, guide, noise_shape=(features,))


@model(
    "probabilistic principal components",
    paper="Tipping & Bishop (1999)",
    small={
        "exact guide": lambda: (ProbabilisticPCA(5, 2), normal_rows(9, 5)),
        "amortised guide": lambda: (ProbabilisticPCA(5, 2, guide="amortised"), normal_rows(9, 5)),
        "marginal": lambda: (ProbabilisticPCA(5, 2).marginal(), normal_rows(9, 5)),
    },
)
class ProbabilisticPCA(_LinearFactors):
    r"""Creates a probabilistic PCA model, :math:`\Psi = \sigma^2 I`.

    Arguments:
        features: The number of entries :math:`D` of one datum.
        rank: The number of components :math:`K`.
        guide: ``"exact"`` for the posterior in closed form, ``"amortised"`` for a mean-field encoder.

    Attributes:
        loc: The mean :math:`\mu`, with shape :math:`(D,)`.
        loadings: The matrix :math:`W`, with shape :math:`(D, K)`.
        log_scale: The logarithm :math:`\log \sigma`, with shape :math:`()`.

    Raises:
        ValueError: The rank is not positive, or there is no guide of that name.

    Example:
        >>> x = torch.tensor([[1.0, 0.1], [-1.0, -0.1], [0.0, 0.2], [0.0, -0.2]])
        >>> ppca = ProbabilisticPCA.from_data(x, rank=1)
        >>> [round(v, 3) for v in (ppca.loadings / ppca.loadings[0]).flatten().tolist()]  # direction
        [1.0, 0.104]
    """

    def __init__(self, features: int, rank: int, guide: str = "exact") -> None:
        super().__init__(features, rank, guide, noise_shape=())

    @classmethod
    def from_data(cls, x: Tensor, rank: int, guide: str = "exact") -> Self:
        r"""Creates the model at the maximum of the likelihood.

        With :math:`\lambda_1 \ge \ldots \ge \lambda_D` and :math:`U` the eigenvalues and eigenvectors of the sample
        covariance, :math:`\hat\sigma^2 = \frac{1}{D - K} \sum_{d > K} \lambda_d` and
        :math:`\hat W = U_K (\Lambda_K - \hat\sigma^2 I)^{1/2}` (Tipping & Bishop, 1999, equations 7 and 8).

        Arguments:
            x: Complete data, with shape :math:`(N, D)`.
            rank: The number of components :math:`K < D`.
            guide: As in the constructor; an encoder is not trained by this.

        Raises:
            ValueError: The data is not a complete matrix, or leaves no variance to the noise.
        """
        if x.dim() != 2 or not bool(torch.isfinite(x).all()):
            raise ValueError("from_data: give a complete (N, D) matrix; with missing entries, train by pg.fit instead.")
        model = cls(x.shape[1], rank, guide).to(x)
        loc = x.double().mean(0)
        centred = x.double() - loc
        eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
        variance = eigenvalues[:-rank].mean() if rank < x.shape[1] else eigenvalues.new_zeros(())
        if not variance > 1e-10 * eigenvalues[-1]:
            raise ValueError(
                f"from_data: {rank} components explain {len(x)} rows of {x.shape[1]} columns without noise, and the "
                "likelihood has no maximum: lower the rank."
            )
        with torch.no_grad():
            model.loc.copy_(loc)
            model.loadings.copy_(eigenvectors[:, -rank:].flip(1) * (eigenvalues[-rank:].flip(0) - variance).sqrt())
            model.log_scale.copy_(variance.log() / 2)
        return model
