r"""What if what is missing differs from what is seen: shifts of the imputations, and the point where a conclusion tips.

Imputation given what was observed takes missing entries to be as observed ones in rows alike. No data can show whether
they are. A sensitivity analysis says how they might differ and looks at what becomes of the conclusion.

**Delta adjustment.** An imputed number becomes :math:`x + \delta` in its own unit. Of an imputed level the *log-odds*
are shifted: for an ordered column with probabilities :math:`p` of the levels,

.. math:: \mathrm{logit} \, q(x > l) = \mathrm{logit} \, p(x > l) + \delta \quad \text{for all } l ,

which for two levels is the shift of the log-odds of the second; for levels without an order
:math:`q(x = l) \propto p(x = l) \, e^{\delta_l}`. A draw keeps its level where it can: with :math:`F` the cumulative
probabilities, a draw of level l takes a uniform point between :math:`F_p(l - 1)` and :math:`F_p(l)`, which falls into a
level under :math:`F_q`; without an order it stays with probability :math:`\min(1, q_l / p_l)` and otherwise takes a
level whose probability has grown. So marginals become :math:`q`, and the dependence on the other entries of the row
remains.

The :math:`p` of a hole is known by its m draws only. Were their shares taken for it, rare levels would be moved too
little (never drawn, they could not be moved at all), and with a pseudo-count for each level too much: at
:math:`p = 0.02` and m = 20 a shift by 1 would give 0.084 instead of 0.053. So :math:`p` is drawn, for each draw anew,
from its posterior given the counts: a Dirichlet distribution, whose prior has the mean and the spread that the column's
holes show (by moments). Then the shifted levels are distributed as they should be over the holes of a column, as far as
its probabilities are Dirichlet-distributed over them.

The shift is marginal: it changes the shifted column alone, by exactly delta. Chained imputation with a shift inside its
loop feeds it back through the other columns, and what is realised is larger than delta (van Buuren, section 9.2).

The random numbers of a draw depend on the seed and the number of the draw alone, so that the tables for two values of
delta differ by delta and by nothing else, and a tipping point can be found by bisection.

References:
    | Flexible Imputation of Missing Data, section 9.2 (van Buuren, 2018)
    | https://stefvanbuuren.name/fimd/sec-sensitivity.html
    | Multiple Imputation for Nonresponse in Surveys, section 6.2 (Rubin, 1987)
    | The prevention and treatment of missing data in clinical trials (National Research Council, 2010), chapter 5
    | https://doi.org/10.17226/12955
"""

from pyro_gen.imputation.sensitivity.shifts import delta, delta_prior
from pyro_gen.imputation.sensitivity.tipping import TippingPoint, tipping_point

__all__ = ["TippingPoint", "delta", "delta_prior", "tipping_point"]
