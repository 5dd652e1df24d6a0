r"""Bayesian regression with a linear predictor: linear, logistic, ordinal, Poisson, negative binomial, robust.

.. math::
    \eta_n = \alpha + \beta^\top u_n, \qquad y_n \sim p(y \mid \eta_n, \varphi), \qquad
    \alpha \sim \mathcal{N}(0, s^2), \quad \beta_p \sim \mathcal{N}(0, s^2)

of an outcome :math:`y_n` given covariates :math:`u_n \in \mathbb{R}^P`; the laws :math:`p(y \mid \eta, \varphi)` and
their parameters :math:`\varphi` are in :mod:`pyro_gen.models.regression.parts.likelihoods`. The intercept, the weights
and :math:`\varphi` are global latent variables: :func:`pyro_gen.posterior` draws them, :func:`pyro_gen.fit` trains a
normal in their place, :func:`pyro_gen.predict` averages over them at new covariates.

The prior is weakly informative for covariates of about unit scale, and for a normal outcome of about unit scale too
(Gelman et al., 2008): standardise them. An ordinal outcome has its intercept in its cutpoints.

An outcome that is not known, NaN, says nothing of the parameters and is drawn given its covariates. A covariate that
is not known is served where covariates are modelled (``missing=True``): it has a normal law, and is integrated out of a
normal outcome, a latent variable of any other, see :mod:`pyro_gen.models.regression.parts.covariates`.

References:
    | Generalized Linear Models (McCullagh & Nelder, 1989)
    | A weakly informative default prior distribution for logistic and other regression models (Gelman et al., 2008)
    | https://doi.org/10.1214/08-AOAS191
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.data.small import binary_rows, level_rows, normal_rows
from pyro_gen.models.regression.parts.covariates import integrated, sample_covariate_law
from pyro_gen.models.regression.parts.guided import GuidedRegression, check_covariates, check_positive
from pyro_gen.models.regression.parts.likelihoods import check_likelihood, sample_law
from pyro_gen.observation import observe
from pyro_gen.registry import model

__all__ = ["Regression"]


@model(
    "Bayesian regression: linear, logistic, ordinal, counts, robust",
    paper="McCullagh & Nelder (1989)",
    small={
        "normal": lambda: (Regression(3), normal_rows(9), normal_rows(9, 3)),
        "student_t": lambda: (Regression(3, "student_t"), normal_rows(9), normal_rows(9, 3)),
        "bernoulli": lambda: (Regression(3, "bernoulli"), binary_rows(9), normal_rows(9, 3)),
        "poisson": lambda: (Regression(3, "poisson"), level_rows(5, 9), normal_rows(9, 3)),
        "negative_binomial": lambda: (Regression(3, "negative_binomial"), level_rows(5, 9), normal_rows(9, 3)),
        "ordinal": lambda: (Regression(3, "ordinal", levels=4), level_rows(4, 9), normal_rows(9, 3)),
        "modelled covariates": lambda: (Regression(3, missing=True), normal_rows(9), normal_rows(9, 3)),
    },
)
class Regression(GuidedRegression):
    r"""Creates a Bayesian regression; data are outcomes ``y`` (N,), context the covariates ``u`` (N, P).

    Arguments:
        covariates: The number :math:`P` of covariates.
        likelihood: ``"normal"``, ``"student_t"``, ``"bernoulli"``, ``"poisson"``, ``"negative_binomial"`` or
            ``"ordinal"``.
        levels: The number :math:`K` of levels 0, ..., K - 1 of an ordinal outcome.
        scale: The scale :math:`s` of the priors.
        missing: Whether covariates are modelled too, so that NaN among them is "not known".

    Raises:
        ValueError: There is no such likelihood, or an argument does not fit it.

    Example:
        >>> import pyro_gen as pg
        >>> u = torch.linspace(-1, 1, 30).unsqueeze(-1)
        >>> y = 1 + 2 * u.squeeze(-1) + 0.1 * torch.sin(50 * u.squeeze(-1))
        >>> program = Regression(1)
        >>> idata = pg.posterior(program, y, u, chains=16, draws=100, compile="off", progress=False)
        >>> bool(abs(idata.posterior["beta"].mean() - 2) < 0.1)
        True
        >>> mean = pg.predict(program, None, torch.tensor([[0.5]]), posterior=idata, returns="mean")
        >>> bool((mean - 2).abs() < 0.1)
        True
    """

    def __init__(
        self,
        covariates: int,
        likelihood: str = "normal",
        *,
        levels: int | None = None,
        scale: float = 2.5,
        missing: bool = False,
    ) -> None:
        super().__init__()
        check_likelihood(type(self).__name__, likelihood, levels)
        check_positive(self, covariates=covariates, scale=scale)
        self.covariates, self.likelihood, self.levels = covariates, likelihood, levels
        self.scale, self.missing = scale, missing

    def model(self, y: Tensor, u: Tensor) -> Tensor:
        r"""The joint density of outcomes (N,) given covariates (N, P), and of what they share; returns them completed.

        Raises:
            ValueError: The covariates have another number of columns.
        """
        check_covariates(self, u, self.covariates)
        s = torch.full((), self.scale, dtype=u.dtype, device=u.device)
        law_of_covariates = sample_covariate_law(u) if self.missing else None
        beta = pyro.sample("beta", dist.Normal(s.new_zeros(self.covariates), s).to_event(1))  # (P,)
        alpha = s.new_zeros(())
        if self.likelihood != "ordinal":
            alpha = pyro.sample("alpha", dist.Normal(alpha, s))
        law = sample_law(self.likelihood, s, self.levels or 0)
        with self.plate(y):
            if law_of_covariates is None:
                return observe("y", law(alpha + u @ beta), y)
            completed = observe("u", law_of_covariates, u)
            if self.likelihood != "normal":
                return observe("y", law(alpha + completed @ beta), y)
            mean, variance = integrated(u, law_of_covariates, beta)
            return observe("y", dist.Normal(alpha + mean, (law(mean).variance + variance).sqrt()), y)
