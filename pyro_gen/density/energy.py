r"""The log-density of data under an unnormalised program, as a function of the data and the parameters.

A program that observes its data under a base distribution and then adds a factor,

.. math:: p(x) = \frac{1}{Z} \, p_0(x) \, e^{-E(x)}, \qquad Z = \int p_0(x) \, e^{-E(x)} \, dx ,

is known up to :math:`\log Z`. What samples from it, estimates its parameters or its :math:`Z` needs the two terms
:math:`\log p_0(x)` and :math:`-E(x)` of each datum. Of a program without a factor, the first is the log-likelihood, and
the second is 0.
"""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_gen.density.validation import no_validation
from pyro_gen.distributions import innermost
from pyro_gen.observation import assume_missing, completions
from pyro_gen.program import Program, data_size
from pyro_gen.traces import per_datum_log_prob, sample_sites, trace_side

__all__ = ["EnergyTerms", "sample_base", "unnormalised_log_prob", "unnormalised_terms"]


class EnergyTerms(NamedTuple):
    """The two terms of an unnormalised log-density.

    Attributes:
        base: The log-density of the observed sites, with shape :math:`(N,)`, in nats; 0 where there is none.
        factor: The sum of the factors, with shape :math:`(N,)`, in nats; 0 where there is none.
    """

    base: Tensor
    factor: Tensor


def unnormalised_terms(program: Program, x: Tensor, *context: Any) -> EnergyTerms:
    """Computes both terms of the unnormalised log-density of each datum; no term is scaled to a data size.

    The result is differentiable in ``x`` and in the parameters, and can be recorded as a graph.

    Arguments:
        program: A program without latent variables.
        x: Complete data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Raises:
        ValueError: The program has a latent variable, or a factor outside of the data plate.
    """
    with data_size(len(x)), assume_missing(False):
        trace = trace_side(program, "model", x, *context)
    base, factor = x.new_zeros(len(x)), x.new_zeros(len(x))
    for name, site in sample_sites(trace).items():
        if not site["is_observed"]:
            raise ValueError(
                f"{type(program).__name__} has the latent variable '{name}', so its density of x is not known up to a "
                "constant: sum the variable out and put the logarithm of the sum into a factor."
            )
        if site["infer"].get("_deterministic"):
            continue
        if isinstance(innermost(site["fn"]), dist.Unit):
            factor = factor + per_datum_log_prob(site)
        else:
            base = base + per_datum_log_prob(site)
    return EnergyTerms(base, factor)


def unnormalised_log_prob(program: Program, x: Tensor, *context: Any) -> Tensor:
    r"""Computes :math:`\log p_0(x) - E(x)`, the log-density of each datum up to :math:`-\log Z`.

    Arguments:
        program: A program without latent variables; without a factor its log-likelihood is what is computed.
        x: Complete data, with shape :math:`(N, *)`.
        context: What the model conditions on.

    Returns:
        Log-densities with shape :math:`(N,)`, in nats, differentiable in ``x`` and in the parameters.

    Raises:
        ValueError: The program has a latent variable, or a factor outside of the data plate.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Tilted(Program):  # N(0, 1) with the factor exp(3 x): N(3, 1), and log Z = 4.5
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             observe("x", dist.Normal(0.0, 1.0), x)
        ...             pyro.factor("tilt", 3 * x)
        ...             return x
        >>> x = torch.tensor([0.0, 3.0])
        >>> log_z = unnormalised_log_prob(Tilted(), x) - dist.Normal(3.0, 1.0).log_prob(x)
        >>> [round(value, 4) for value in log_z.tolist()]
        [4.5, 4.5]
    """
    terms = unnormalised_terms(program, x, *context)
    return terms.base + terms.factor


def sample_base(program: Program, x: Tensor, *context: Any) -> Tensor:
    """Draws data from the base distribution, by the global generator.

    Arguments:
        program: The program.
        x: What has the shape, dtype and device of the draws, :math:`(N, *)`; its values are not used.
        context: What the model conditions on.

    Returns:
        Draws with the shape of ``x``.

    Raises:
        ValueError: The program observes no data of that shape, so that it has no base to draw from.
    """
    nothing = torch.full_like(x, torch.nan)
    with no_validation(), torch.no_grad(), data_size(len(x)), assume_missing(True), completions() as completed:
        returned = program.model(nothing, *context)
    drawn = list(completed.values())
    draws = drawn[0].reshape(x.shape) if len(drawn) == 1 and drawn[0].numel() == x.numel() else returned
    if not drawn or not isinstance(draws, Tensor) or draws.shape != x.shape:
        raise ValueError(
            f"{type(program).__name__} has no base distribution to draw from: observe x under one in the model, as by "
            'observe("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), x), before its factor.'
        )
    return draws
