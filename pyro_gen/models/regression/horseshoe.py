r"""Regression with many covariates of which few matter: the regularised horseshoe.

.. math::
    \eta_n = \alpha + \beta^\top u_n, \qquad
    \beta_p \sim \mathcal{N}(0, \; \tau^2 \tilde\lambda_p^2), \qquad
    \tilde\lambda_p^2 = \frac{c^2 \lambda_p^2}{c^2 + \tau^2 \lambda_p^2}, \qquad
    \lambda_p \sim \mathcal{C}^+(0, 1), \quad \tau \sim \mathcal{C}^+(0, \tau_0), \quad
    c^2 \sim \operatorname{InvGamma}(2, 2 s^2)

The global scale :math:`\tau` draws all weights to zero, the heavy tails of the local ones :math:`\lambda_p` let some go
free, and the slab of width :math:`c` keeps these from growing without bound, as they would where a likelihood is flat
(separated classes). With :math:`p_0` covariates of :math:`P` expected to matter among :math:`N` data,

.. math:: \tau_0 = \frac{p_0}{P - p_0} \frac{\sigma}{\sqrt N} ,

where :math:`\sigma` is the noise of a normal or Student-t outcome, and 2 for a logistic one, 1 for counts (pseudo
standard deviations of a datum's information, section 3.5 of the paper). Weights are drawn as
:math:`\beta_p = z_p \tau \tilde\lambda_p` from standard normal :math:`z_p`: not centred, for most data are weak here.

References:
    | Sparsity information and regularization in the horseshoe and other shrinkage priors (Piironen & Vehtari, 2017)
    | https://arxiv.org/abs/1707.01694
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.data.small import binary_rows, normal_rows
from pyro_gen.models.regression.parts.guided import GuidedRegression, check_covariates, check_positive
from pyro_gen.models.regression.parts.likelihoods import check_likelihood, sample_law
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Horseshoe"]

# Pseudo standard deviations of a datum, where a likelihood has no noise of its own.
INFORMATION = {"bernoulli": 2.0, "ordinal": 2.0, "poisson": 1.0, "negative_binomial": 1.0}


@model(
    "regression with the regularised horseshoe",
    paper="Piironen & Vehtari (2017)",
    small={
        "normal": lambda: (Horseshoe(5, relevant=2, rows=9), normal_rows(9), normal_rows(9, 5)),
        "bernoulli": lambda: (Horseshoe(5, 2, 9, likelihood="bernoulli"), binary_rows(9), normal_rows(9, 5)),
    },
)
class Horseshoe(GuidedRegression):
    r"""Creates a sparse regression; data are outcomes ``y`` (N,), context the covariates ``u`` (N, P), standardised.

    Arguments:
        covariates: The number :math:`P` of covariates.
        relevant: The number :math:`p_0 < P` of them that are expected to matter.
        rows: The number :math:`N` of data.
        likelihood: The law of the outcome, see :class:`~pyro_gen.models.regression.generalised_linear.Regression`.
        levels: The number of levels of an ordinal outcome.
        scale: The scale :math:`s` of the slab and of the priors of intercept and noise.

    Raises:
        ValueError: There is no such likelihood, or an argument is not positive or leaves nothing to shrink.

    Example:
        >>> y, u = torch.zeros(4), torch.zeros(4, 10)
        >>> Horseshoe(10, relevant=2, rows=4).model(y, u).shape
        torch.Size([4])
    """

    def __init__(
        self,
        covariates: int,
        relevant: float,
        rows: int,
        likelihood: str = "normal",
        *,
        levels: int | None = None,
        scale: float = 2.5,
    ) -> None:
        super().__init__()
        check_likelihood(type(self).__name__, likelihood, levels)
        check_positive(self, relevant=relevant, rows=rows, scale=scale)
        if not relevant < covariates:
            raise ValueError(
                f"Horseshoe({covariates}, relevant={relevant}): give less than {covariates}, or use Regression."
            )
        self.covariates, self.likelihood, self.levels, self.scale = covariates, likelihood, levels, scale
        self.tau_0 = relevant / (covariates - relevant) / math.sqrt(rows)

    def model(self, y: Tensor, u: Tensor) -> Tensor:
        r"""The joint density of outcomes (N,) given covariates (N, P), and of what they share; returns them completed.

        Raises:
            ValueError: The covariates have another number of columns.
        """
        check_covariates(self, u, self.covariates)
        s = torch.full((), self.scale, dtype=u.dtype, device=u.device)
        law = sample_law(self.likelihood, s, self.levels or 0)
        sigma = INFORMATION.get(self.likelihood) or law(s.new_zeros(())).scale
        tau = self.tau_0 * sigma * pyro.sample("tau", dist.HalfCauchy(s.new_ones(())))
        local = pyro.sample("lambda", dist.HalfCauchy(s.new_ones(self.covariates)).to_event(1))  # (P,)
        slab = pyro.sample("slab", dist.InverseGamma(2 * s.new_ones(()), 2 * s.square()))  # c^2
        z = pyro.sample("z", dist.Normal(s.new_zeros(self.covariates), 1.0).to_event(1))  # (P,)
        regularised = (slab / (slab + (tau * local).square())).sqrt() * local
        beta = pyro.deterministic("beta", z * tau * regularised, event_dim=1)
        alpha = s.new_zeros(())
        if self.likelihood != "ordinal":
            alpha = pyro.sample("alpha", dist.Normal(alpha, s))
        with self.plate(y):
            return observe("y", law(alpha + u @ beta), y)
