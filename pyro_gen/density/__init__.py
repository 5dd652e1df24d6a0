r"""A program and its data as a pure function of tensors.

Every continuous latent variable is mapped to an unconstrained one, :math:`z = T(u)`, and :class:`Density` gives the two
terms of the joint density of data and latent variables,

.. math::
    \log \pi_0(u) = \log p(T(u)) + \log \left| \det \frac{\partial T}{\partial u} \right|, \qquad
    \ell(u) = \log p(x \mid T(u)),

and their gradients, for many chains at once. The transforms are recomputed at every evaluation, since the support of
a variable may depend on other variables. Discrete latent variables are summed out. For a program with local latent
variables only, the joint density factorises over the data, :math:`p(x, z) = \prod_n p(z_n) \, p(x_n \mid z_n)`,
and both terms are given per datum.

Pyro's handlers run once: the function is vectorised over chains by ``torch.func.vmap`` and recorded as a graph of plain
tensor operations. The graph is compared with the function it came from before it is used.
"""

from pyro_gen.density.api import density
from pyro_gen.density.base import Density, Terms
from pyro_gen.density.errors import first_line
from pyro_gen.density.inputs import (
    any_missing,
    as_arguments,
    as_context,
    as_inputs,
    entries_per_datum,
    evaluation,
    local_site,
    row_chunks,
    rows_of,
    rows_per_chunk,
    sampling,
)
from pyro_gen.density.joint import ProgramDensity
from pyro_gen.density.sites import HeldSite
from pyro_gen.density.tempered import Base, Tempered

__all__ = [
    "Base",
    "Density",
    "HeldSite",
    "ProgramDensity",
    "Tempered",
    "Terms",
    "any_missing",
    "as_arguments",
    "as_context",
    "as_inputs",
    "density",
    "entries_per_datum",
    "evaluation",
    "first_line",
    "local_site",
    "row_chunks",
    "rows_of",
    "rows_per_chunk",
    "sampling",
]
