"""An imputer judged: entries hidden on purpose or known from elsewhere, imputed, and scored column by column.

References:
    | A unified approach to measurement error and missing data: overview and applications (Blackwell, Honaker & King,
      2017), for over-imputation
    | https://doi.org/10.1177/0049124115585360
"""

from pyro_gen.imputation.evaluation.evaluate import evaluate_imputer
from pyro_gen.imputation.evaluation.result import Evaluation

__all__ = ["Evaluation", "evaluate_imputer"]
