"""Programs for the rows of tables: mixed columns with holes, and parameters with a posterior."""

from pyro_gen.models.tabular.copula import TableCopula
from pyro_gen.models.tabular.deep import DeepLatentTable
from pyro_gen.models.tabular.factors import TableFactors
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.mixture import TableMixture
from pyro_gen.models.tabular.mnar import NotMIWAE
from pyro_gen.models.tabular.selection import TableSelection
from pyro_gen.models.tabular.student import TableStudent
from pyro_gen.models.tabular.table import TableProgram

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
    "student": TableStudent,
    "factors": TableFactors,
    "copula": TableCopula,
    "mixture": TableMixture,
    "deep": DeepLatentTable,
    "selection": TableSelection,
    "not_miwae": NotMIWAE,
}
"""Programs by the name that :class:`pyro_gen.imputation.Imputer` knows them by."""
