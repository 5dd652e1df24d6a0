"""Completed data: what the observe statements of a model made of data with missing entries.

A model may go on with the value that an observe statement returns, or with its argument, as in
``observe("x", base, x); pyro.factor("energy", -energy(x))``. In the second case the factor has seen NaN where an entry
was missing, and the model runs once more, with the completed data, for its factors.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen.density.sites import is_deterministic
from pyro_gen.observation import assume_missing
from pyro_gen.program import Program, fixed
from pyro_gen.traces import is_factor, latent_sites, sample_sites, site_log_prob

__all__ = ["completed_data", "reads_missing", "reread"]


def completed_data(x: Tensor, returned: Any, completed: Mapping[str, Tensor]) -> Tensor:
    """The data with what was missing in its place.

    Arguments:
        x: The data, with shape :math:`(N, *)`.
        returned: What the model returned.
        completed: The completed values by observe statement.

    Raises:
        ValueError: The data were observed in parts, and the model does not return them.
    """
    whole = [value for value in completed.values() if value.numel() == x.numel()]
    if len(completed) == 1 and whole:
        return torch.where(torch.isnan(x), whole[0].reshape(x.shape).to(x.dtype), x)
    if not isinstance(returned, Tensor) or returned.shape != x.shape:
        raise ValueError(
            f"The data, of shape {tuple(x.shape)}, are observed in parts ({', '.join(completed) or 'none'}), and the "
            "model does not return them completed: return what the observe statements return, put together."
        )
    return torch.where(torch.isnan(x), returned.to(x.dtype), x)


def reads_missing(program: Any, trace: Trace) -> bool:
    """Whether a factor of a program has read missing entries of its data, in place of their completed values."""
    factors = [s for s in sample_sites(trace).values() if s["is_observed"] and is_factor(s)]
    return isinstance(program, Program) and any(bool(site_log_prob(s).isnan().any()) for s in factors)


def reread(run: Callable[..., Any], trace: Trace, x: Tensor, context: tuple[Any, ...]) -> None:
    """Puts factors and deterministic values that read the completed data into the trace of a model.

    Arguments:
        run: The model.
        trace: Its trace with missing entries, which is changed.
        x: The completed data.
        context: What the model conditions on.
    """
    values = {name: site["value"] for name, site in latent_sites(trace).items()}
    with pyro.poutine.trace() as tape, assume_missing(False), fixed(values):
        run(x, *context)
    for name, site in sample_sites(tape.trace).items():
        if site["is_observed"] and (is_factor(site) or is_deterministic(site)):
            trace.nodes[name] = site
