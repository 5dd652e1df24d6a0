r"""The conformance suite: does a program keep the contract that every tool of this package relies on?

:func:`check_program` puts a model/guide pair through small independent checks on a few rows of data. Most of them hold
the latent variables fixed, so that both log-densities,

.. math:: \log p(x, z, w) \quad \text{and} \quad \log q(z, w \mid x) ,

must be functions of the data and the parameters alone, and compare two ways of getting the same number: a minibatch
with the full data, one row in different company, a vectorised run with a loop, a loaded program with the saved one.
No statistics are involved: a check that fails has found a defect, with the site's name and the way out.
"""

from pyro_gen.evaluation.conformance.case import Case
from pyro_gen.evaluation.conformance.check import Check
from pyro_gen.evaluation.conformance.report import Report, Result
from pyro_gen.evaluation.conformance.suite import CHECKS, check_program

__all__ = ["CHECKS", "Case", "Check", "Report", "Result", "check_program"]
