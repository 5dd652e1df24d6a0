"""Whether draws can be believed: what is to be known of each parameter, and a verdict in words."""

from pyro_gen.inference.diagnose.statistics import bfmi, effective_draws, nested_rhat, summary
from pyro_gen.inference.diagnose.verdict import Diagnosis, Problem, diagnose

__all__ = ["Diagnosis", "Problem", "bfmi", "diagnose", "effective_draws", "nested_rhat", "summary"]
