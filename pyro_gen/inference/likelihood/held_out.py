r"""The log predictive density of data that a posterior did not see, and of data left out of it.

Of a datum :math:`x_n` under a program with global latent variables :math:`w`, whose posterior given other data D is
known by draws,

.. math::
    \log p(x_n \mid D) = \log \int p(x_n \mid w) \, p(w \mid D) \, dw
    \approx \log \frac{1}{S} \sum_s p(x_n \mid w_s) ,

the logarithm of the mean likelihood, which is larger than the mean of the logarithms. Local latent variables are
integrated out of each :math:`p(x_n \mid w_s)`. Where D has :math:`x_n` in it, draws weighted by
:math:`1 / p(x_n \mid w_s)` are of the posterior without it, so leaving each datum out once needs no new posterior;
the weights are Pareto-smoothed, and the shape of their tail says whether that holds.

References:
    | Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari, Gelman & Gabry, 2017)
    | https://arxiv.org/abs/1507.04544
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen._random import seeded
from pyro_gen.density import as_inputs, entries_per_datum, evaluation, row_chunks, rows_of, rows_per_chunk
from pyro_gen.density.finite import finite_sites, joint_values, present_units
from pyro_gen.density.missing import latent_missing
from pyro_gen.density.sites import ImproperAnywhere
from pyro_gen.inference.global_draws import Given, GlobalDraws, global_draws
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.likelihood.ais import ais, is_annealed
from pyro_gen.inference.likelihood.enumeration import MAX_ASSIGNMENTS, Summed, probe
from pyro_gen.inference.likelihood.guide_bounds import guide_bound
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.weights import psis, psis_khat
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.proposals import guide_obstacle
from pyro_gen.packing import packed_inputs, packs
from pyro_gen.program import Program
from pyro_gen.traces import Structure, latent_sites, structure, trace_side

__all__ = ["RELIABLE", "leave_one_out", "loo", "predictive_density"]

NUMBERS = 2**24  # log-likelihoods of all data at all draws, at most
ANNEALED_DRAWS, WEIGHED_DRAWS = 20, 200  # draws of the posterior, where each needs an estimate of its own
PARTICLES = 64  # of the guide at each of these draws
RELIABLE = 0.7  # the Pareto shape up to which importance sampling can be trusted


def predictive_density(
    program: Program,
    kinds: Structure,
    x: Tensor,
    context: tuple[Any, ...],
    posterior: Any,
    method: str = "auto",
    num_particles: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    """The log predictive density of each datum: :func:`pyro_gen.log_likelihood` with ``posterior``.

    Arguments:
        program: The program, in evaluation mode.
        kinds: What is known of its sites.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        posterior: Draws of the global latent variables, as for :func:`pyro_gen.inference.global_draws.global_draws`.
        method: How local latent variables are integrated out.
        num_particles: Draws of the guide for each draw of the posterior.
        seed: Seeds the draws.
        progress: Called with the fraction done.
        options: Of annealed importance sampling.

    Raises:
        ValueError: The program has no global latent variable, or the draws do not fit it.
    """
    how = (method, num_particles, seed, progress, options)
    draws, log_p = _pointwise(program, kinds, x, context, posterior, "log_likelihood", *how)
    value, error, of_mean = draws.log_mean(log_p)
    return LogLikelihood(
        value,
        error,
        "estimate",
        "predictive",
        entries_seen(x),
        diagnostics={"draws": torch.tensor(len(draws))},
        error_of_mean=of_mean,
    )


@packs
def loo(
    program: Program | Callable[..., Any],
    x: Any,
    *context: Any,
    posterior: Any,
    method: str = "auto",
    num_particles: int | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> LogLikelihood:
    r"""Leaves each datum out once: :math:`\log p(x_n \mid x_{-n})` by Pareto-smoothed importance sampling.

    Local latent variables are integrated out, which keeps the weights of a hierarchical program even; ArviZ's ``loo``
    of the group ``log_likelihood`` takes them as given, and knows nothing of weighted draws.

    Arguments:
        program: The program, or a plain Pyro model function.
        x: The data of the posterior, with shape :math:`(N, *)`.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        posterior: What :func:`pyro_gen.posterior` found for these data, or draws of the global latent variables by
            name, each with shape :math:`(S, *)`.
        method: How local latent variables are integrated out, as in :func:`pyro_gen.log_likelihood`.
        num_particles: Draws of the guide for each draw of the posterior, where that is how.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        options: Of annealed importance sampling, where that is how.

    Returns:
        The values with Monte Carlo errors, in nats; diagnostics ``khat``, the Pareto shape of each datum's weights,
        and ``p_loo``, by how much leaving it out lowers its density. Above a shape of 0.7 a warning says which data
        are too influential for the value to be trusted.

    Raises:
        ValueError: The program has no global latent variable, or the draws do not fit it.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> mean = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0)).double()  # of p(mean | x)
        >>> found = loo(model, torch.zeros(100), posterior={"mean": mean})
        >>> round(found.mean(), 2), bool(found.diagnostics["khat"].max() < 0.7)
        (-0.92, True)
    """
    if isinstance(posterior, str):
        raise ValueError(
            f"loo(posterior={posterior!r}): weights against a posterior without one datum need draws of the posterior "
            "itself, and those of a guide are none: give the result of pg.posterior."
        )
    program, x = packed_inputs(program if isinstance(program, Program) else Program.from_functions(program), x)
    x, *rest = as_inputs(program, x, *context)
    with evaluation(program), ImproperAnywhere(), latent_missing(program, x, *rest):
        kinds = structure(program, x, *rest)
        if kinds.kind == "implicit":
            raise not_for(program, kinds.kind, "loo")
        with progress_bar("loo", progress) as report:
            how = (method, num_particles, seed, report, options)
            draws, log_p = _pointwise(program, kinds, x, tuple(rest), posterior, "loo", *how)
    found = leave_one_out(draws, log_p, entries_seen(x))
    if len(bad := (found.diagnostics["khat"] > RELIABLE).nonzero()[:, 0]):
        warn(
            f"loo: Pareto k-hat is above {RELIABLE} for {len(bad)} of {len(x)} data (the first is row {int(bad[0])}, "
            "counted from 0): the posterior without such a datum is too far from the one with it, so its value is not "
            "to be trusted. Leave these data out of pg.posterior, and score them by pg.log_likelihood(posterior=...)."
        )
    return found


def leave_one_out(draws: GlobalDraws, log_p: Tensor, event_dims: float) -> LogLikelihood:
    r"""Leaves each datum out once, given its log-likelihood under each draw: what :func:`loo` returns.

    Arguments:
        draws: The draws, for their chains and weights.
        log_p: The log-likelihoods :math:`\log p(x_n \mid w_s)`, float64 with shape :math:`(S, N)`.
        event_dims: How many numbers of a datum were seen, in the mean over them.
    """
    value, error, of_mean = draws.log_ratio(log_p, psis(-log_p))
    diagnostics = {
        "khat": psis_khat(-log_p),
        "p_loo": draws.log_mean(log_p)[0] - value,
        "draws": torch.tensor(len(draws)),
    }
    return LogLikelihood(
        value, error, "estimate", "psis-loo", event_dims, diagnostics=diagnostics, error_of_mean=of_mean
    )


def _pointwise(
    program: Program,
    kinds: Structure,
    x: Tensor,
    context: tuple[Any, ...],
    posterior: Any,
    verb: str,
    method: str,
    num_particles: int | None,
    seed: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> tuple[GlobalDraws, Tensor]:
    """Draws of the global latent variables, and log p(x_n | w_s), local ones integrated out: float64 (S, N)."""
    if not kinds.global_:
        raise ValueError(
            f"{verb}: {type(program).__name__} has no global latent variable, so its data are independent, and "
            "pg.log_likelihood(program, x) needs no posterior."
        )
    if kinds.kind in ("unnormalised", "implicit"):
        raise ValueError(
            f"{verb}: {type(program).__name__} is {kinds.kind}, so a datum has no likelihood given the global latent "
            "variables; pg.distributions.Censored writes censored data without a factor."
        )
    if method not in ("auto", "exact", "iwae", "ais"):
        raise ValueError(f'{verb}(method={method!r}) with posterior=: choose "auto", "exact", "iwae" or "ais".')
    with seeded(seed), torch.no_grad(), pyro.validation_enabled(False):
        draws = global_draws(program, kinds, x, context, posterior, verb)
        known = method in ("auto", "exact") and _summed(program, kinds, x, context)
        if known and options:
            raise ValueError(
                f"{verb} of {type(program).__name__} is exact given the posterior, and has no option "
                f"{next(iter(options))!r}."
            )
        if known:
            return (draws := draws.at_most(max(1, NUMBERS // len(x)))), _exactly(program, x, context, draws, progress)
        if method == "exact":
            raise ValueError(
                f'{verb}(method="exact"): given the global latent variables, {type(program).__name__} has the local '
                f"one '{kinds.local[0]}' of each datum, which cannot be summed out: leave method out."
            )
        guided = guide_obstacle(program, x, *context) is None and _guides_local(program, kinds, x, context)
        how = method if method != "auto" else "iwae" if guided or not is_annealed(program, x, *context) else "ais"
        if how == "iwae" and options:
            raise ValueError(
                f'{verb} of {type(program).__name__} given the posterior is method="iwae", which has no option '
                f'{next(iter(options))!r}: give method="ais", or leave it out.'
            )
        draws = draws.at_most(WEIGHED_DRAWS if how == "iwae" else ANNEALED_DRAWS)
        parts = []
        for s in range(len(draws)):
            given = Given(program, {name: v[s] for name, v in draws.values.items()}).eval()
            with latent_missing(given, x, *context):
                if how == "iwae":
                    found = guide_bound(given, x, context, "iwae", num_particles or PARTICLES, seed + s, None)
                else:
                    found = ais(given, x, *context, seed=seed + s, **({"start": "prior"} | options))
            parts.append(found.value)
            if progress is not None:
                progress((s + 1) / len(draws))
        return draws, torch.stack(parts)


def _guides_local(program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...]) -> bool:
    guided = latent_sites(trace_side(program, "guide", x[:1], *rows_of(x, context, slice(1))))
    return set(kinds.local) <= guided.keys()


def _summed(program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether local latent variables, if any, have few joint values."""
    finite = finite_sites(probe(program, x, *context))
    if set(finite) != set(kinds.local):
        return False
    return not finite or bool(
        (joint_values(finite, present_units(finite, program, x, *context)) <= MAX_ASSIGNMENTS).all()
    )


def _exactly(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    draws: GlobalDraws,
    progress: Callable[[float], None] | None,
) -> Tensor:
    first = probe(program, x, *context)
    entries, finite = entries_per_datum(first), finite_sites(first)
    out = torch.zeros(len(draws), len(x), dtype=torch.float64)
    most = rows_per_chunk(entries, x.device)
    rows_at_once = max(1, min(len(x), most // min(len(draws), 64)))
    for rows in row_chunks(len(x), rows_at_once):
        data = (x[rows], *rows_of(x, context, rows))
        model = Summed(program, finite, data, without=list(draws.values))
        size = max(1, most // len(data[0]))
        for part in row_chunks(len(draws), size):
            values = {name: v[part] for name, v in draws.values.items()}
            out[part, rows] = model.log_prob(values, len(range(len(draws))[part])).cpu()
        if progress is not None:
            progress(rows.stop / len(x))
    return out
