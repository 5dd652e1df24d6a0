r"""Pooling: one estimate, and one honest interval, from the analyses of m completed tables.

Each completed table k is analysed as if it had been observed, which gives an estimate :math:`\hat Q_k` and its variance
:math:`U_k`. Rubin's rules make one of them:

.. math::
    \bar Q = \frac{1}{m} \sum_k \hat Q_k , \quad
    \bar U = \frac{1}{m} \sum_k U_k , \quad
    B = \frac{1}{m - 1} \sum_k (\hat Q_k - \bar Q)^2 , \quad
    T = \bar U + \left( 1 + \tfrac{1}{m} \right) B .

The interval is :math:`\bar Q \pm t_\nu \sqrt T`. With the share :math:`\lambda = (1 + 1/m) B / T` of the variance that
comes from what is missing, and :math:`\nu_c` degrees of freedom had nothing been missing, Barnard & Rubin's are

.. math::
    \frac{1}{\nu} = \frac{\lambda^2}{m - 1} + \frac{\nu_c + 3}{(1 - \lambda) \, \nu_c \, (\nu_c + 1)} ,

and the fraction of missing information, the share of what the whole data would have told that is lost, is
:math:`\lambda + (1 - \lambda) \, 2 / (\nu + 3)`. The rules are right where imputations are *proper*, that is, where
their spread contains the uncertainty of the parameters that made them.

**Several parameters at once.** D1 is the Wald test of :math:`Q = Q_0` for a vector of k parameters, with the increase
in variance :math:`r = (1 + 1/m) \, \mathrm{tr}(B \bar U^{-1}) / k` taken to be the same in all directions. D2 needs
only the m chi-square statistics, and is rougher. D3 and D4 compare likelihoods:
:mod:`pyro_gen.imputation.pooling.likelihood_ratio`.

**How many draws.** Another m draws give another standard error; its coefficient of variation is about
:math:`\mathrm{FMI} \sqrt{1 / (2 (m - 1))}`, so :math:`m = 1 + \tfrac{1}{2} (\mathrm{FMI} / \mathrm{CV})^2` draws make
it repeatable to within CV.

**Stacking posteriors.** Where the analyses are themselves Bayesian, the posterior given what was observed is the
mixture of the m posteriors, with no approximation by a t-distribution. With m draws its variance is
:math:`\bar U + \frac{m - 1}{m} B`, where Rubin's rules, which allow for m being finite, have
:math:`\bar U + \frac{m + 1}{m} B`: from about a hundred draws on they agree.

References:
    | Multiple Imputation for Nonresponse in Surveys (Rubin, 1987)
    | https://doi.org/10.1002/9780470316696
    | Small-sample degrees of freedom with multiple imputation (Barnard & Rubin, 1999)
    | https://doi.org/10.1093/biomet/86.4.948
    | Large-sample significance levels from multiply imputed data using moment-based statistics and an F reference
      distribution (Li, Raghunathan & Rubin, 1991)
    | https://doi.org/10.1080/01621459.1991.10475152
    | Significance levels from repeated p-values with multiply-imputed data (Li, Meng, Raghunathan & Rubin, 1991)
    | https://www.jstor.org/stable/24303994
    | Small-sample degrees of freedom for multi-component significance tests with multiple imputation for missing data
      (Reiter, 2007)
    | https://doi.org/10.1093/biomet/asm028
    | How many imputations do you need? A two-stage calculation using a quadratic rule (von Hippel, 2020)
    | https://arxiv.org/abs/1608.05406
    | A note on Bayesian inference after multiple imputation (Zhou & Reiter, 2010)
    | https://doi.org/10.1198/tast.2010.09109
"""

from pyro_gen.imputation.pooling.correlations import pool_correlations
from pyro_gen.imputation.pooling.degrees_of_freedom import barnard_rubin
from pyro_gen.imputation.pooling.likelihood_ratio import d3, d4, likelihood_ratio_test
from pyro_gen.imputation.pooling.posteriors import StackedPosterior, stack_posteriors
from pyro_gen.imputation.pooling.rubin import Pooled, draws_needed, pool
from pyro_gen.imputation.pooling.wald import PooledTest, d1, d2

__all__ = [
    "Pooled",
    "PooledTest",
    "StackedPosterior",
    "barnard_rubin",
    "d1",
    "d2",
    "d3",
    "d4",
    "draws_needed",
    "likelihood_ratio_test",
    "pool",
    "pool_correlations",
    "stack_posteriors",
]
