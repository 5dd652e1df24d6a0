"""One page about an imputation, for people: what was missing, what was chosen, and whether to believe the draws."""

from pyro_gen.imputation.report.over_imputation import over_impute
from pyro_gen.imputation.report.page import report

__all__ = ["over_impute", "report"]
