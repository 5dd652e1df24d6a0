r"""Amputation: holes made on purpose, by a mechanism that is known.

Write :math:`r_{nd} = 1` where entry :math:`x_{nd}` is missing. Values are missing completely at random (MCAR) if
:math:`p(r)` has nothing to do with the table, at random (MAR) if it depends on what stays observed alone, not at random
(MNAR) otherwise. Most mechanisms here are logistic,

.. math:: p(r_{nd} = 1) = \sigma\big(b_d + s \, h(z_{nd})\big), \qquad z_{nd} \propto \sum_j w_{dj} \, g_j(x_{nj}) ,

with random standard normal weights :math:`w` (1 where one column decides alone), a score :math:`g_j` that standardises
a column of numbers and gives every level of any other column a random normal number (weights on its one-hot code),
:math:`z` scaled to unit variance over the rows, the ``strength`` s, and the intercept :math:`b_d` found by bisection,
so that column d loses the share that was asked for. The ``shape`` h says which rows lose most: those with high scores
(``"right"``, z), with low ones (``"left"``, -z), with extreme ones (``"tail"``, \|z\|) or with middling ones
(``"mid"``, -\|z\|).

Which entries go is then drawn by systematic sampling in random order (Madow, 1949): every entry goes with exactly its
probability, and their number is the sum of the probabilities, rounded. So a requested share is met to the entry; of the
cells that go by dropout, on average.

================================== =====================================================================================
mechanism                          what goes missing
================================== =====================================================================================
:class:`MCAR`                      any entry, whatever the table holds
:class:`MAR`                       entries, logistic in other columns, which are and stay fully observed
:class:`MNAR`                      entries, logistic in all columns, what goes missing included
:class:`SelfMasking`               entries, logistic in their own value
:class:`HardSelfMasking`           every entry that lies far enough above the mean of its column, as in not-MIWAE
:class:`Censoring`                 entries beyond a quantile of their column
:class:`Patterns`                  some columns together, logistic in the others, as in mice
:class:`HolesOf`                   what is missing in another table: each row takes the holes of one of its rows
:class:`Gaps`                      runs of successive rows, which are the times of a series
:class:`Dropout`                   of each row what comes after some visit
================================== =====================================================================================

Columns may hold numbers, booleans, text, or categories, of which ordered ones count as numbers 0, 1, ... Entries that
are missing already stay so, do not count, and are average wherever they would drive others.

References:
    | Inference and missing data (Rubin, 1976)
    | https://doi.org/10.1093/biomet/63.3.581
    | Generating missing values for simulation purposes: a multivariate amputation procedure (Schouten et al., 2018)
    | https://doi.org/10.1080/00949655.2018.1491577
    | R-miss-tastic: a unified platform for missing values methods and workflows (Mayer et al., 2019)
    | https://arxiv.org/abs/1908.04822
    | Missing data imputation using optimal transport (Muzellec et al., 2020)
    | https://arxiv.org/abs/2002.03860
    | not-MIWAE: deep generative modelling with missing not at random data (Ipsen et al., 2021)
    | https://arxiv.org/abs/2006.12871
"""

from pyro_gen.imputation.amputation.columnwise import MAR, MCAR, MNAR, Censoring, HardSelfMasking, SelfMasking
from pyro_gen.imputation.amputation.holes import ampute
from pyro_gen.imputation.amputation.in_time import Dropout, Gaps
from pyro_gen.imputation.amputation.mechanism import Mechanism
from pyro_gen.imputation.amputation.rowwise import HolesOf, Patterns

__all__ = [
    "MAR",
    "MCAR",
    "MNAR",
    "Censoring",
    "Dropout",
    "Gaps",
    "HardSelfMasking",
    "HolesOf",
    "Mechanism",
    "Patterns",
    "SelfMasking",
    "ampute",
]
