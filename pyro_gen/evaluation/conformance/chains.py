"""The check that many chains at once are as many chains one by one."""

import torch
from torch import Tensor

from pyro_gen.density import any_missing
from pyro_gen.density.chains import mapped
from pyro_gen.evaluation.conformance.case import SIDES, Case, Latents, trace_of
from pyro_gen.evaluation.conformance.check import Failed, Skipped, check
from pyro_gen.evaluation.conformance.error_place import first_line, place_of
from pyro_gen.evaluation.conformance.scores import close, density_sites, differing, gap, score
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.program import fixed

__all__ = ["vmap"]


@check
def vmap(case: Case) -> str | None:
    """Log-densities vectorised over chains by vmap equal those of a loop."""
    chains = [case.draw(case.seed + k) for k in range(3)]
    if not chains[0]["model"]:
        raise Skipped("There is no latent variable to run chains of.")
    missing = any_missing(case.x, *case.context)
    for side in SIDES:
        if not chains[0][side]:
            continue
        looped = [case.scores(side, latents=c[side]) for c in chains]
        stacked = {n: torch.stack([c[side][n] for c in chains]) for n in chains[0][side]}

        def scores(latents: Latents, side: str = side) -> dict[str, Tensor]:
            with no_completion(), assume_missing(missing), fixed(latents):
                trace = trace_of(case.program, side, case.x, case.context)
                return {n: score(s) for n, s in density_sites(trace).items()}

        try:
            with torch.no_grad():
                vectorised = mapped(scores, stacked)
        except Exception as error:
            raise Skipped(
                f"The {side} cannot be vectorised, at {place_of(error)}: {first_line(error)} Training works without; "
                "samplers will loop over chains."
            ) from None
        looped_together = {n: torch.stack([s[n] for s in looped]) for n in looped[0]}
        if (name := differing(vectorised, looped_together, close)) is not None:
            raise Failed(
                f"Site '{name}' of the {side}: vectorised over 3 chains, its log-density differs from that of a loop "
                f"by {gap(vectorised[name], looped_together[name])}.",
                "Look for state that the model keeps between calls.",
            )
    return None
