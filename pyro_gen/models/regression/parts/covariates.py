r"""Covariates with a law of their own, so that missing ones are variables that the outcome tells of.

.. math::
    u_n \sim \mathcal{N}(m, \; \operatorname{diag}(s) \, R \, \operatorname{diag}(s)), \qquad
    m_p \sim \mathcal{N}(0, 1), \quad s_p \sim \mathcal{N}^+(0, 2^2), \quad R \sim \operatorname{LKJ}(1)

for standardised covariates. Missing ones :math:`u_{nm}` are latent variables with the posterior
:math:`p(u_{nm} \mid u_{no}, y_n) \propto p(u_{nm} \mid u_{no}) \, p(y_n \mid u_n)`. A normal outcome needs none: with
:math:`\mu_n` and :math:`C_n` mean and covariance of :math:`u_n` given :math:`u_{no}`,

.. math:: y_n \mid u_{no} \sim \mathcal{N}(\alpha + \beta^\top \mu_n, \; \sigma^2 + \beta^\top C_n \beta) .
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.distributions.gaussian import condition_factor

__all__ = ["integrated", "sample_covariate_law"]


def sample_covariate_law(u: Tensor) -> dist.MultivariateNormal:
    """Draws mean and covariance of covariates with shape (N, P), and returns the law of one row."""
    p = u.shape[-1]
    mean = pyro.sample("covariate_mean", dist.Normal(u.new_zeros(p), 1.0).to_event(1))
    scale = pyro.sample("covariate_scale", dist.HalfNormal(2 * u.new_ones(p)).to_event(1))
    if p == 1:
        return dist.MultivariateNormal(mean, scale_tril=scale.unsqueeze(-1))
    factor = pyro.sample("covariate_correlation", dist.LKJCholesky(p, u.new_ones(())))
    return dist.MultivariateNormal(mean, scale_tril=torch.diag_embed(scale) @ factor)


def integrated(u: Tensor, law: dist.MultivariateNormal, beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean :math:`\beta^\top \mu_n` and variance :math:`\beta^\top C_n \beta` of linear predictors, (N,) each.

    Arguments:
        u: Covariates, with shape :math:`(N, P)` and NaN where not known.
        law: The law of one row.
        beta: Weights, with shape :math:`(P,)`.
    """
    mean, factor = condition_factor(u, law.loc, torch.cholesky_inverse(law.scale_tril))  # (N, P), (N, P, P)
    return mean @ beta, (beta @ factor).square().sum(-1)
