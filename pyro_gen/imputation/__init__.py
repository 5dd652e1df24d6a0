"""Multiple imputation of tables: draws from generative programs, analyses pooled, answers checked."""

from pyro_gen.imputation.amputation import (
    MAR,
    MCAR,
    MNAR,
    Censoring,
    Dropout,
    Gaps,
    HardSelfMasking,
    HolesOf,
    Mechanism,
    Patterns,
    SelfMasking,
    ampute,
)
from pyro_gen.imputation.completed import Analyses, Completed
from pyro_gen.imputation.evaluation import Evaluation, evaluate_imputer
from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.little import little_test
from pyro_gen.imputation.partitions import impute_partitions
from pyro_gen.imputation.pooling import (
    Pooled,
    draws_needed,
    likelihood_ratio_test,
    pool,
    pool_correlations,
    stack_posteriors,
)
from pyro_gen.imputation.reference_based import impute_by_reference
from pyro_gen.imputation.report import over_impute, report
from pyro_gen.imputation.sensitivity import TippingPoint

__all__ = [
    "MAR",
    "MCAR",
    "MNAR",
    "Analyses",
    "Censoring",
    "Completed",
    "Dropout",
    "Evaluation",
    "Gaps",
    "HardSelfMasking",
    "HolesOf",
    "Imputer",
    "Mechanism",
    "Patterns",
    "Pooled",
    "SelfMasking",
    "TippingPoint",
    "ampute",
    "draws_needed",
    "evaluate_imputer",
    "impute_by_reference",
    "impute_partitions",
    "likelihood_ratio_test",
    "little_test",
    "over_impute",
    "pool",
    "pool_correlations",
    "report",
    "stack_posteriors",
]
