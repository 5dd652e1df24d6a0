"""Multiple imputation of tables: draws from generative programs, analyses pooled, answers checked."""

from pyro_gen.imputation.amputation import ampute, little_test
from pyro_gen.imputation.completed import Analyses, Completed
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.pooling import Pooled, pool
from pyro_gen.imputation.scores import evaluate_imputer

__all__ = [
    "Analyses",
    "Completed",
    "Imputer",
    "Pooled",
    "ampute",
    "evaluate_imputer",
    "little_test",
    "pool",
]
