"""Programs for the rows of tables: mixed columns with holes, and parameters with a posterior."""

from pyro_gen.models.tabular.copula import TableCopula
from pyro_gen.models.tabular.deep import DeepLatentTable
from pyro_gen.models.tabular.factor_analysis import TableFactors
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.mixture import TableMixture
from pyro_gen.models.tabular.not_miwae import NotMIWAE
from pyro_gen.models.tabular.parts.table_program import TableProgram
from pyro_gen.models.tabular.selection import TableSelection
from pyro_gen.models.tabular.student_t import TableStudent

__all__ = [
    "METHODS",
    "DeepLatentTable",
    "NotMIWAE",
    "TableCopula",
    "TableFactors",
    "TableGaussian",
    "TableMixture",
    "TableProgram",
    "TableSelection",
    "TableStudent",
]

METHODS: dict[str, type[TableProgram]] = {
    "gaussian": TableGaussian,
    "student_t": TableStudent,
    "factor_analysis": TableFactors,
    "copula": TableCopula,
    "mixture": TableMixture,
    "deep": DeepLatentTable,
    "selection": TableSelection,
    "not_miwae": NotMIWAE,
}
"""Programs by the name that :class:`pyro_gen.imputation.Imputer` knows them by."""
