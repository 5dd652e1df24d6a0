"""Silent broadcasts: a site that scores its value more than once.

Where a value of shape (N,) meets a mean of shape (N, 1), torch makes N x N terms of N observations, with a posterior
that is far too narrow and an evidence that is far too low, and nothing is said. A site may have more terms than its
value has entries along plates alone, which say that they repeat what they hold.
"""

from itertools import zip_longest
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace

from pyro_gen.density.sites import frames, is_deterministic
from pyro_gen.distributions.innermost import innermost
from pyro_gen.traces import is_factor, sample_sites


def check_broadcasts(trace: Trace) -> None:
    """Refuses sites that score an observation, or a latent variable, more than once.

    Arguments:
        trace: A trace in which no variable is enumerated, with log-densities computed.

    Raises:
        ValueError: There is such a site; the message names it, the shapes and the dimension.
    """
    for site in sample_sites(trace).values():
        if not is_deterministic(site):
            _check_event(site)
            _check_batch(site)


def _check_event(site: Any) -> None:
    """Distributions made of single numbers by ``to_event`` take events of any shape that broadcasts, unlike others."""
    fn, value = site["fn"], torch.as_tensor(site["value"])
    if is_factor(site) or innermost(fn).event_shape or value.numel() <= 1:
        return
    given = value.shape[max(0, value.dim() - fn.event_dim) :]
    if given != fn.event_shape:
        batch = fn.batch_shape
        raise ValueError(
            f"Site '{site['name']}': the value has shape {tuple(value.shape)}, and the distribution batch shape "
            f"{tuple(batch)} and event shape {tuple(fn.event_shape)}. The last {fn.event_dim} dimensions of the value "
            f"are to be the event, and differ from it, so that entries would be scored against each other{_MET}"
        )


def _check_batch(site: Any) -> None:
    fn, found = site["fn"], site["log_prob"].shape
    value = torch.as_tensor(site["value"])
    plates = {f.dim: f.size for f in frames(site)}
    batch = value.shape[: max(0, value.dim() - fn.event_dim)]
    sizes = [tuple(shape)[::-1] for shape in (found, batch, fn.batch_shape)]
    for i, (n, of_value, of_fn) in enumerate(zip_longest(*sizes, fillvalue=1)):
        if is_factor(site):
            repeated = bool(plates)  # without plates it may have any shape
        else:
            # A single observed number may stand for many.
            repeated = n != of_value and not (site["is_observed"] and value.numel() == 1)
            repeated = repeated or (bool(plates) and n != of_fn)
        if n > 1 and -1 - i not in plates and repeated:
            where = f"in plates of sizes {plates} by dimension" if plates else "in no plate"
            raise ValueError(
                f"Site '{site['name']}': dimension {-1 - i}, of size {n}, is a batch dimension without a plate: the "
                f"value has shape {tuple(value.shape)}, the distribution batch shape {tuple(fn.batch_shape)}, and the "
                f"site stands {where}, so that log_prob has shape {tuple(found)} and entries are scored more than "
                f"once{_MET}"
            )


_MET = (
    ", as where an (N, 1) meets an (N,). Give both the same shape (weights of shape (D,) in X @ w, squeeze(-1)), "
    "enclose batch dimensions in a pyro.plate, or declare event dimensions with .to_event(...)."
)
