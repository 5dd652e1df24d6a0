r"""Laws of an outcome given its linear predictor :math:`\eta_n`.

====================  =================================================================================================
normal                :math:`y \sim \mathcal{N}(\eta, \sigma^2)`, :math:`\sigma \sim \mathcal{N}^+(0, s^2)`
student_t             :math:`y \sim t_\nu(\eta, \sigma)`, :math:`\nu \sim \operatorname{Gamma}(2, 0.1)`: robust to
                      outliers (Juarez & Steel, 2010)
bernoulli             :math:`y \sim \operatorname{Bernoulli}(\operatorname{logit}^{-1} \eta)`: logistic regression
poisson               :math:`y \sim \operatorname{Poisson}(e^\eta)`
negative_binomial     mean :math:`e^\eta`, variance :math:`e^\eta + e^{2\eta} / \varphi`,
                      :math:`\varphi \sim \operatorname{Gamma}(2, 0.1)`: counts that spread more than Poisson's
ordinal               :math:`P(y \le k) = \operatorname{logit}^{-1}(c_k - \eta)`, levels :math:`0, \ldots, K - 1`: the
                      proportional odds of McCullagh (1980). At :math:`\eta = 0` the levels have the shares
                      :math:`\pi \sim \operatorname{Dirichlet}(1, \ldots, 1)`, so
                      :math:`c_k = \operatorname{logit} \sum_{j \le k} \pi_j`
====================  =================================================================================================
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.distributions import LevelCategorical

__all__ = ["LIKELIHOODS", "Law", "check_likelihood", "ordinal_logits", "sample_law"]

Law = Callable[[Tensor], Any]  # of the linear predictors, with shape (N,), to the distribution of N outcomes

LIKELIHOODS = ("normal", "student_t", "bernoulli", "poisson", "negative_binomial", "ordinal")


def check_likelihood(name: str, likelihood: str, levels: int | None) -> None:
    """Refuses what is no likelihood, and numbers of levels that do not fit it; ``name`` is that of the class."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"{name}(likelihood={likelihood!r}): choose one of {', '.join(LIKELIHOODS)}.")
    if (likelihood == "ordinal") != (levels is not None) or (levels is not None and levels < 2):
        raise ValueError(
            f"{name}(likelihood={likelihood!r}, levels={levels!r}): an ordinal outcome has a number of levels, 2 or "
            "more, and others have none."
        )


def sample_law(likelihood: str, scale: Tensor, levels: int = 0) -> Law:
    """Draws what a likelihood has for all data, and returns the law of outcomes given it.

    Arguments:
        likelihood: One of :data:`LIKELIHOODS`.
        scale: The scale :math:`s` of the noise's prior, a scalar; dtype and device of all draws are those of it.
        levels: The number of levels of an ordinal outcome.
    """
    two, tenth = 2 * torch.ones_like(scale), 0.1 * torch.ones_like(scale)
    if likelihood == "normal":
        sigma = pyro.sample("sigma", dist.HalfNormal(scale))
        return lambda eta: dist.Normal(eta, sigma)
    if likelihood == "student_t":
        sigma = pyro.sample("sigma", dist.HalfNormal(scale))
        nu = pyro.sample("nu", dist.Gamma(two, tenth))
        return lambda eta: dist.StudentT(nu, eta, sigma)
    if likelihood == "bernoulli":
        return lambda eta: dist.Bernoulli(logits=eta)
    if likelihood == "poisson":
        return lambda eta: dist.Poisson(eta.exp())
    if likelihood == "negative_binomial":
        phi = pyro.sample("phi", dist.Gamma(two, tenth))
        return lambda eta: dist.NegativeBinomial(phi, logits=eta - phi.log())
    shares = pyro.sample("shares", dist.Dirichlet(scale.new_ones(levels)))  # pi, (K,)
    cutpoints = shares.cumsum(-1)[..., :-1].logit(eps=1e-6)  # c, (K - 1,)
    return lambda eta: LevelCategorical(logits=ordinal_logits(eta, cutpoints))


def ordinal_logits(eta: Tensor, cutpoints: Tensor) -> Tensor:
    r"""The log-probabilities of the levels, :math:`\log [\sigma(c_k - \eta) - \sigma(c_{k-1} - \eta)]`.

    By :math:`\sigma(a) - \sigma(b) = \sigma(a) \, \sigma(-b) \, (1 - e^{b - a})`, which is right in the tails too.

    Arguments:
        eta: Linear predictors, with shape :math:`(N,)`.
        cutpoints: Increasing, with shape :math:`(K - 1,)`.

    Returns:
        A tensor with shape :math:`(N, K)`.
    """
    at = cutpoints - eta.unsqueeze(-1)  # (N, K - 1)
    below, above = F.logsigmoid(at), F.logsigmoid(-at)
    inner = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-cutpoints.diff()))
    return torch.cat([below[..., :1], inner, above[..., -1:]], -1)
