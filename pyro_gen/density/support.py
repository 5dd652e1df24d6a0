"""Observations that no values of the latent variables explain: outside of the support, on its edge, or out of reach.

A datum on the edge of a support, 0 under a beta or a gamma distribution, has density 0 or infinity whatever the
parameters are, and no place in latent space is one to start from. What is to be said names the site and the value.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen.density.masks import along, masked_out
from pyro_gen.density.sites import is_data
from pyro_gen.distributions import elements
from pyro_gen.traces import is_factor, sample_sites

if TYPE_CHECKING:
    from pyro_gen.density.joint import ProgramDensity

DRAWS = 16  # of the prior: a support, or a density at its edge, may depend on latent variables


def check_observations(prototype: Trace, draw: Callable[[], Trace]) -> None:
    """Refuses observations outside of their support or on its edge.

    Arguments:
        prototype: A trace of the model with log-densities computed.
        draw: Makes another one, at other draws of the prior.

    Raises:
        ValueError: In all of the traces an observation is outside, or on the edge with no finite density.
    """
    wrong = _wrong(prototype)
    for _ in range(DRAWS - 1):
        if not wrong:
            return
        found = _wrong(draw())
        wrong = {key: bad & found[key] for key, bad in wrong.items() if key in found and bad.shape == found[key].shape}
        wrong = {key: bad for key, bad in wrong.items() if bool(bad.any())}
    for (name, kind, support), bad in wrong.items():
        site: Any = prototype.nodes[name]
        family = type(elements(site["fn"])).__name__
        what = _entry(site["value"], bad)
        if kind == "outside":
            hint = "; mark what was not observed by NaN and pg.observe" if "nan" in what else ""
            raise ValueError(
                f"Site '{name}': the observed value {what} is outside of the support of {family}, {support}{hint}."
            )
        raise ValueError(
            f"Site '{name}': the observed value {what} lies on the edge of the support of {family}, where its density "
            "is 0 or infinite whatever the latent variables are: move it inside, by half of the unit in which it was "
            "measured say, or give such values a probability of their own (a mixture, censoring)."
        )


def _wrong(trace: Trace) -> dict[tuple[str, str, str], Tensor]:
    """Where observations are outside of their support, or on its edge without a finite density.

    By site, what it is, and the support: one that moves with latent variables is another.
    """
    out: dict[tuple[str, str, str], Tensor] = {}
    for name, site in sample_sites(trace).items():
        if not is_data(site) or not isinstance(site["value"], Tensor):
            continue
        fn, value, log_prob = site["fn"], site["value"], site["log_prob"]
        masked = masked_out(site)
        with suppress(NotImplementedError, ValueError):  # no support is known, or one number stands for an event
            outside = ~fn.support.check(value)
            if masked is not None:
                outside = outside & ~along(masked, outside.dim(), fn.event_dim)
            if bool(outside.any()):
                out[name, "outside", str(fn.support)] = outside
            elif not fn.support.is_discrete and bool((bad := ~log_prob.isfinite()).any()):
                edge = _on_edge(fn.support, value)
                edge = edge.flatten(bad.dim()).any(-1) if edge.dim() > bad.dim() else edge
                if bool((edge & bad).any()):
                    out[name, "edge", str(fn.support)] = edge & bad
    return out


def _on_edge(support: Any, value: Tensor) -> Tensor:
    """Whether the next number below or above is outside, of values inside."""
    while isinstance(support, torch.distributions.constraints.independent):
        support = support.base_constraint
    limits = (torch.full_like(value, sign * torch.inf) for sign in (-1, 1))
    below, above = (~support.check(value.nextafter(limit)) for limit in limits)
    return below | above  # type: ignore[no-any-return]


def _entry(value: Tensor, bad: Tensor) -> str:
    """The first entry that is wrong, and its place."""
    place = bad.nonzero()[0].tolist()
    if tuple(value.shape[: bad.dim()]) != tuple(bad.shape):
        return str(value.flatten()[0].item()) if value.numel() == 1 else f"of shape {tuple(value.shape)}"
    entry = value[tuple(place)]
    shown = f"{entry.item():.6g}" if entry.dim() == 0 else str(entry.tolist())
    return f"{shown} (entry {place[0] if len(place) == 1 else place})" if place else shown


def obstacle(target: "ProgramDensity", z: Tensor, held: Mapping[str, Tensor] | None = None) -> str | None:
    """What has no finite log-density at any of some points, as part of a sentence; ``None`` where nothing has none.

    Arguments:
        target: The density.
        z: Unconstrained points, with shape :math:`(C, *batch, D)`.
        held: Values of the held sites.
    """
    infinite = [name for name, value in target.observed.items() if bool(torch.as_tensor(value).isinf().any())]
    if infinite:
        return (
            f"the observed values of {infinite[0]!r} hold infinities, which few models can explain; mark what is not "
            "known as NaN"
        )
    with torch.no_grad():
        evaluate = target.pointwise_log_likelihood if target.sums_out else target.site_log_probs
        terms = evaluate(z, held=held)
    for name, log_prob in terms.items():
        bad = (~log_prob.isfinite()).all(0)
        if not bool(bad.any()):
            continue
        shown = log_prob[:, bad].flatten()[0].item()
        site: Any = target.prototype.nodes.get(name)
        if site is not None and is_factor(site):
            return (
                f"the factor '{name}' is {shown} at all of them: a probability that is 0 in floating point, as 1 - cdf "
                "far out, or one that the data contradict; pg.distributions.Censored keeps the tails of censored data"
            )
        if name in target.observed:
            what = _entry(target.observed[name], bad)
            return (
                f"the observed value {what} of '{name}' has log-density {shown} at all of them: it is out of the "
                "model's reach, or the density underflows"
            )
        return f"the latent variable '{name}' has log-density {shown} at all of them"
    return None
