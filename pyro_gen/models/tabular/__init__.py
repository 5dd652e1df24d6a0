"""Programs for the rows of tables: mixed columns with holes, and parameters with a posterior."""

from pyro_gen.models.tabular.copula import TableCopula
from pyro_gen.models.tabular.factors import TableFactors
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.table import TableProgram

__all__ = ["METHODS", "TableCopula", "TableFactors", "TableGaussian", "TableProgram"]

METHODS: dict[str, type[TableProgram]] = {
    "gaussian": TableGaussian,
    "factors": TableFactors,
    "copula": TableCopula,
}
