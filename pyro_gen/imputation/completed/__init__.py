"""Tables completed many times: the draws, analyses of them, and files."""

from pyro_gen.imputation.completed.analyses import Analyses
from pyro_gen.imputation.completed.tables import Completed

__all__ = ["Analyses", "Completed"]
