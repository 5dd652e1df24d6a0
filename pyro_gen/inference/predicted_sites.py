"""Prediction by models in Pyro's own order, covariates first and the outcome, ``None`` where it is not known, behind.

A site that was observed in the posterior's data and is not in the new call is what is predicted. Latent variables that
share a plate with it are of the new rows, and drawn anew; the others have the values of the posterior.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen.density import as_arguments, evaluation
from pyro_gen.density.sites import frames
from pyro_gen.inference.global_draws import GlobalDraws, global_draws
from pyro_gen.program import Program, fixed
from pyro_gen.traces import Structure, sample_sites

__all__ = ["leaves_outcome_out", "predicted_sites"]


def leaves_outcome_out(model: Callable[..., Any], x: Any, context: tuple[Any, ...]) -> bool:
    """Whether a plain model function is called with its covariates alone: an argument behind them is ``None``."""
    if isinstance(model, Program) or x is None:
        return False
    try:
        bound = inspect.signature(model).bind(x, *context)
    except TypeError:
        return False
    bound.apply_defaults()
    return any(value is None for value in bound.args[1:])


def predicted_sites(
    model: Callable[..., Any], arguments: tuple[Any, ...], posterior: Any, draws: int, expectation: bool
) -> dict[str, Tensor]:
    """Draws of the sites that are not observed in a new call, by the global generators.

    Arguments:
        model: The model function.
        arguments: What it is called with.
        posterior: The ``InferenceData`` of :func:`pyro_gen.posterior`.
        draws: How many.
        expectation: Whether to give the means of the sites' distributions instead.

    Returns:
        By name of the site, with shape :math:`(S, *site)`.

    Raises:
        ValueError: It is not known which sites were observed, or none of them is open in this call.
    """
    known = getattr(posterior, "observed_data", None)
    if known is None:
        raise ValueError(
            "predict: where the outcome is not the first argument of the model, posterior= is to be what pg.posterior "
            "found: it tells which sites are the outcome."
        )
    arguments = as_arguments(model, *arguments)

    def trace() -> dict[str, Any]:
        with pyro.poutine.trace() as tape:
            model(*arguments)
        return sample_sites(tape.trace)

    with evaluation(model), torch.no_grad(), pyro.validation_enabled(False):
        sites = trace()
        open_ = {n: s for n, s in sites.items() if n in known and not s["is_observed"]}
        if not open_:
            raise ValueError(
                f"predict: the model observes all of {', '.join(map(str, known.data_vars))} in this call, so nothing "
                "is to be predicted: give None for the outcome."
            )
        of_rows = {f.name for s in open_.values() for f in frames(s)}
        latent = {n: s for n, s in sites.items() if not s["is_observed"] and n not in open_}
        shared = tuple(n for n, s in latent.items() if not of_rows & {f.name for f in frames(s)})
        local = tuple(n for n in latent if n not in shared)
        kinds = Structure(local=local, global_=shared, observed=tuple(open_), kind="bound")
        program = Program.from_functions(lambda *data: model(*data))
        found: GlobalDraws | None = None
        if shared:
            first, *rest = arguments
            found = global_draws(program, kinds, first, tuple(rest), posterior, "predict").equal(draws)
        parts: list[dict[str, Tensor]] = []
        for s in range(draws):
            with fixed({} if found is None else {n: v[s] for n, v in found.values.items()}):
                drawn = trace()
            parts.append({n: _of(drawn[n], expectation) for n in open_})
    return {n: torch.stack([p[n] for p in parts]) for n in open_}


def _of(site: Any, expectation: bool) -> Tensor:
    if not expectation:
        return torch.as_tensor(site["value"])
    try:
        return site["fn"].mean.expand(site["value"].shape)  # type: ignore[no-any-return]
    except NotImplementedError:
        raise ValueError(
            f"predict(returns=\"mean\"): the distribution of '{site['name']}' has no mean in closed form: take draws."
        ) from None
