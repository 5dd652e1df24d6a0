r"""What a ``pyro.factor`` statement takes away: a program with factors says what weighs a value, not how to draw it.

A factor of global latent variables alone is a term of their prior, known up to a constant. A factor of the data is one
of two things that no trace tells apart for certain: a normalised likelihood of what no observed site scores (a censored
row, by :math:`\log(1 - F)`), or an energy of data that an observed site scores too, whose constant depends on the
latent variables.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._internals import site_mask
from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity
from pyro_gen.density.sites import Constrained, is_data
from pyro_gen.inference.kinds import not_for
from pyro_gen.observation import no_completion
from pyro_gen.program import Program
from pyro_gen.traces import is_factor, is_local, sample_sites, site_log_prob, trace_side

__all__ = ["energy_of", "refuse_data_factors", "refuse_factors"]


def refuse_factors(program: Program, x: Tensor, *context: Any, verb: str) -> None:
    """Raises where the model has a factor, for verbs that draw all of its variables from its distributions.

    Arguments:
        program: The program.
        x: Some data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        verb: What was called, for the message.

    Raises:
        ValueError: The model has a factor; the message names it and what does apply.
    """
    _refuse(program, verb, list(_factors(_trace(program, x, *context))))


def refuse_data_factors(program: Program, x: Tensor, *context: Any, verb: str) -> None:
    """Raises where a factor weighs data, for verbs that draw data from the model given global latent variables.

    Arguments:
        program: The program.
        x: Some data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        verb: What was called, for the message.

    Raises:
        ValueError: A factor stands in the data plate, or moves with the data.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_() if x.is_floating_point() else x
        factors = _factors(_trace(program, leaf, *context))
        _refuse(program, verb, [n for n, s in factors.items() if is_local(s) or _moves(site_log_prob(s), [leaf])])


def _refuse(program: Program, verb: str, names: list[str]) -> None:
    if names:
        raise not_for(program, "unnormalised", verb, f"the factor '{names[0]}'")


def _trace(program: Program, x: Tensor, *context: Any) -> Trace:
    with seeded(0), pyro.validation_enabled(False):
        return trace_side(program, "model", x, *context)


def _factors(trace: Trace) -> dict[str, Any]:
    return {n: s for n, s in sample_sites(trace).items() if s["is_observed"] and is_factor(s)}


def _moves(value: Tensor, leaves: list[Tensor]) -> bool:
    return any(g is not None for g in _gradients(value, leaves))


def _gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    if not value.requires_grad or not leaves:
        return []
    return list(torch.autograd.grad(value.sum(), leaves, allow_unused=True, retain_graph=True))


def energy_of(target: ProgramDensity) -> str | None:
    """The name of a factor that is no normalised likelihood of data, as far as one trace of the model tells.

    It stands outside of all plates, a term of the prior; or it moves with an entry of the data that an observed site
    scores too; or it cannot be seen what it moves with, as where a function encloses its data.
    """
    if not target.unnormalised:
        return None
    leaves = [d.detach().clone() for d in target.data_set(0) if isinstance(d, Tensor) and d.is_floating_point()]
    with torch.enable_grad(), seeded(0), target.ready():
        floating = iter([leaf.requires_grad_() for leaf in leaves])
        data = tuple(
            next(floating) if isinstance(d, Tensor) and d.is_floating_point() else d for d in target.data_set(0)
        )
        with no_completion():
            sites = sample_sites(target.run(data, Constrained({}, target.hold)))
        scored = [torch.zeros_like(leaf, dtype=torch.bool) for leaf in leaves]
        for site in (s for s in sites.values() if is_data(s)):
            found = _gradients(torch.where(_is_scored(site), site["value"], 0.0), leaves)
            if not any(g is not None for g in found):
                scored = []  # data from elsewhere: nothing can be told
                break
            scored = [s if g is None else s | (g != 0) for s, g in zip(scored, found, strict=True)]
        for name, site in sites.items():
            if not (site["is_observed"] and is_factor(site)):
                continue
            found = _gradients(site_log_prob(site), leaves)
            plain = not any(f.vectorized for f in site["cond_indep_stack"])
            both = any(bool((s & (g != 0)).any()) for s, g in zip(scored, found, strict=False) if g is not None)
            if not scored or both or (plain and not any(g is not None for g in found)):
                return name
    return None


def _is_scored(site: Any) -> Tensor:
    """Where an observed site's value counts, with the shape of the value: not where it is masked."""
    fn, value = site["fn"], site["value"]
    scored = torch.ones_like(value, dtype=torch.bool)
    levels = [(site["mask"], fn.event_dim)]
    while hasattr(fn, "base_dist"):
        levels.append((site_mask(fn) if isinstance(fn, dist.MaskedDistribution) else None, fn.event_dim))
        fn = fn.base_dist
    for mask, event_dim in levels:
        if mask is not None:
            mask = torch.as_tensor(mask, device=value.device)
            scored = scored & mask.reshape(mask.shape + (1,) * event_dim)
    return scored
