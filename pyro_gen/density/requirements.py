"""What a program needs to have a density of continuous latent variables."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.poutine.trace_struct import Trace

from pyro_gen._errors import AdviceError
from pyro_gen.density.sites import is_data
from pyro_gen.distributions import elements, innermost
from pyro_gen.program import Program
from pyro_gen.traces import data_frame, is_local, is_subsample, sample_sites

__all__ = ["NoLatentError", "check_structure", "first_global", "name_of"]


class NoLatentError(AdviceError):
    """A program has no latent variable."""


def name_of(program: Program | Callable[..., Any]) -> str:
    """What a program, or a plain model function, is called in messages."""
    return type(program).__name__ if isinstance(program, Program) else getattr(program, "__name__", "The model")


def first_global(prototype: Trace) -> str | None:
    """The first latent site that is shared by all data; ``None`` where there is none."""
    sites = sample_sites(prototype).items()
    return next((n for n, s in sites if not s["is_observed"] and not is_local(s)), None)


def check_structure(program: Program | Callable[..., Any], prototype: Trace, hold: Sequence[str]) -> bool:
    """Refuses what has no density; returns whether all latent sites are local."""
    for name, site in prototype.nodes.items():
        if site["type"] == "sample" and is_subsample(site):
            plate: Any = site["fn"]
            if plate.subsample_size is not None and plate.subsample_size < plate.size:
                raise ValueError(
                    f"The plate '{name}' takes a random subsample of its data, so there is no density of all of them: "
                    "leave subsample_size out."
                )
    sites = sample_sites(prototype)
    latent = {n: s for n, s in sites.items() if not s["is_observed"]}
    if unknown := [name for name in hold if name not in latent]:
        raise ValueError(f"density(hold=...): there is no latent site {unknown[0]!r}; there are {', '.join(latent)}.")
    for name, site in sites.items():
        if is_data(site) and isinstance(innermost(site["fn"]), dist.Delta):
            raise ValueError(
                f"{name_of(program)} has an observed site without a density, '{name}': a Delta. Under an observation "
                "noise that you state it has one: pg.with_noise(program, 0.1) is a program that this applies to."
            )
    if not latent:
        raise NoLatentError(
            f"{name_of(program)} has no latent variable, so no posterior: its likelihood is {{method}}.",
            method="exact",
        )
    discrete = [n for n, s in latent.items() if s["fn"].support.is_discrete and n not in hold]
    for name in discrete:
        fn = latent[name]["fn"]
        if not fn.has_enumerate_support and getattr(elements(fn), "has_enumerate_support", False):
            raise ValueError(
                f"The latent variable '{name}' is an event of several discrete ones (to_event), which are not summed "
                "out: put them in a plate, where one does not depend on another, or sample them by a Gibbs block, "
                f'pg.posterior(..., method="gibbs", blocks={{{name!r}: "enumerate"}}).'
            )
        if not fn.has_enumerate_support:
            raise ValueError(
                f"The latent variable '{name}' is discrete, has no gradient, and infinitely many values or too many to "
                'be summed out: use pg.posterior(method="gibbs") with a block for it.'
            )
    if len(discrete) == len(latent):
        raise ValueError(
            f"The latent variable '{discrete[0]}' is discrete and has no gradient, and there is no continuous one: use "
            'pg.log_likelihood(method="exact"), which sums over its values, or draw it by a Gibbs block, '
            f'pg.posterior(..., method="gibbs", blocks={{{discrete[0]!r}: "enumerate"}}).'
        )
    return all(is_local(site) and data_frame(site).vectorized for site in latent.values())
