"""What a verb that cannot serve a kind of program says, and what does apply: one sentence for each pair.

A verb asks :func:`pyro_gen.traces.structure` once, does what is right for the kind, or raises what :func:`not_for`
returns.
"""

from collections.abc import Callable
from typing import Any

import pyro

from pyro_gen.density import evaluation
from pyro_gen.density.requirements import NoLatentError
from pyro_gen.program import Program
from pyro_gen.traces import structure

__all__ = ["WHY", "not_for", "without_latents"]

WHY = {  # by kind, what makes a program one of it
    "exact": "no latent variable",
    "bound": "latent variables",
    "unnormalised": "a factor site",
    "implicit": "an observed site that is a Delta",
}

_CENSORED = (
    "a factor that scores censored data can be written as a distribution, pg.distributions.Censored in pg.observe"
)
_GLOBAL = (
    "its data are known up to a constant that moves with its latent variables: pg.posterior draws these, and "
    f"{_CENSORED}"
)

_NOISE = "under an observation noise that you state it has a density"

_INSTEAD = {  # by verb and kind
    ("sample", "unnormalised"): _GLOBAL,
    ("impute", "unnormalised"): _GLOBAL,
    ("predict", "unnormalised"): _GLOBAL,
    ("reconstruct", "unnormalised"): (
        "what its model draws does not follow its density: pg.impute draws missing entries given the seen ones, "
        f"pg.posterior its latent variables, and {_CENSORED}"
    ),
    ("posterior", "unnormalised"): (
        "without latent variables there is no posterior: pg.impute draws missing entries given the seen ones, "
        "pg.sample generates, pg.log_partition estimates log Z"
    ),
    ("sbc", "unnormalised"): (
        "what its model draws does not follow its density, so no data are simulated with the latent variables that "
        "made them: pg.log_partition says by its gap how well annealing works, pg.posterior draws latent variables, "
        f"and {_CENSORED}"
    ),
    ("bdmc", "unnormalised"): (
        "what its model draws does not follow its density: pg.log_partition puts log Z between two bounds, "
        f"pg.posterior draws latent variables, and {_CENSORED}"
    ),
    ("log_evidence", "unnormalised"): (
        'without latent variables there is nothing to integrate: pg.log_likelihood(method="ais") gives the density of '
        "each datum, pg.log_partition the constant log Z"
    ),
    ("impute", "implicit"): (
        "nothing follows of missing entries from the seen ones, or of global latent variables from the data; "
        f"{_NOISE}, pg.impute(pg.with_noise(program, 0.1), x), and pg.sample generates whole data"
    ),
    ("latents", "implicit"): (
        f"nothing follows of its latent variables from data; {_NOISE}, pg.latents(pg.with_noise(program, 0.1), x)"
    ),
    ("log_likelihood", "implicit"): f"almost no datum is one of its values; {_NOISE}, pg.log_likelihood(noise=0.1)",
    ("loo", "implicit"): (
        f"almost no datum is one of its values; {_NOISE}, pg.loo(pg.with_noise(program, 0.1), x, posterior=...)"
    ),
    ("check_guide", "implicit"): (
        f"it has no posterior for a guide to come near to; {_NOISE}, pg.with_noise(program, 0.1)"
    ),
    ("log_partition", "exact"): "its densities are normalised, so log Z = 0",
    ("log_partition", "bound"): "its densities are normalised, so log Z = 0",
    ("log_partition", "implicit"): "it has no density, normalised or not: pg.sample draws from it",
}


def not_for(program: Program, kind: str, verb: str, why: str | None = None) -> ValueError:
    """The error of a verb for a kind of program that it does not serve.

    Arguments:
        program: The program.
        kind: Its kind, see :class:`pyro_gen.traces.Structure`.
        verb: The name of the function.
        why: What makes it one of that kind, where more is known than :data:`WHY` says.

    Example:
        >>> print(not_for(Program(), "bound", "log_partition"))
        log_partition: Program is bound (latent variables): its densities are normalised, so log Z = 0.
    """
    return ValueError(f"{verb}: {type(program).__name__} is {kind} ({why or WHY[kind]}): {_INSTEAD[verb, kind]}.")


def without_latents(
    program: Program | Callable[..., Any], data: tuple[Any, ...], verb: str, error: NoLatentError
) -> ValueError:
    """What a verb for latent variables says of a program that has none: the sentence for its kind, or the error."""
    if not isinstance(program, Program):
        return error
    with evaluation(program), pyro.validation_enabled(False):
        kind = structure(program, *data).kind
    return not_for(program, kind, verb) if (verb, kind) in _INSTEAD else error
