r"""The normalising constant of an unnormalised program, and with it the likelihood of data.

Of :math:`p(x) = p_0(x) \, e^{-E(x)} / Z` with a base :math:`p_0` that integrates to one,

.. math:: Z = \int p_0(x) \, e^{-E(x)} \, dx , \qquad \log p(x) = \log p_0(x) - E(x) - \log Z .

Where x has few values, the integral is a sum over them. Else annealed importance sampling goes from the base to the
density, whose weights have the mean Z: :math:`\mathbb{E} \log \hat Z \le \log Z`. Chains that start at draws of the
density and go back to the base have weights with the mean 1 / Z, so that the same of them is an upper bound,

.. math::
    \log \Big( \frac{1}{K} \sum_{k=1}^K w_k \Big) \; \lesssim \; \log Z \; \lesssim \;
    -\log \Big( \frac{1}{K} \sum_{k=1}^K \frac{1}{w'_k} \Big) .

Where the factors forbid values, some chains from the base get the weight 0, and the mean over the chains back is the
share of those that do not, over Z. The draws that the chains back start from are those at which other chains there have
ended, resampled by their weights and moved on: the upper bound is as good as they are, and a mode that none of them
found is in neither bound. Where both directions agree, and many of the weights count, the number can be trusted as far
as the base reaches all modes.

References:
    | Annealed Importance Sampling (Neal, 2001)
    | https://arxiv.org/abs/physics/9803008
    | On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008)
    | https://doi.org/10.1145/1390156.1390266
    | Accurate and Conservative Estimates of MRF Log-likelihood using Reverse Annealing (Burda et al., 2015)
    | https://arxiv.org/abs/1412.8566
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen._random import seeded
from pyro_gen.density import evaluation, row_chunks, rows_of
from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.density.missing import find_every_missing, latent_missing
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.likelihood.annealing import Rows, Run, Runs, Single, descend
from pyro_gen.inference.likelihood.entries import path_of_entries
from pyro_gen.inference.likelihood.enumeration import is_enumerable
from pyro_gen.inference.likelihood.exact import enumerated_likelihood
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.schedules import Options
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.simulate import nothing_seen
from pyro_gen.packing import packs
from pyro_gen.program import Program
from pyro_gen.traces import Structure, structure

__all__ = ["log_partition", "normalised_likelihood", "unnormalised_likelihood"]

CHAINS = (64, 1024)  # of each target of many, and of a single one
SPREAD = 0.25  # of the log-weights: those of chains back have a heavy tail where it is larger
MOVES = 20  # by which the starts of the chains back forget that they are ends of chains
FLOOR = 0.05  # share of the chains that is to count by their weights
FEWEST = 16  # chains that are to count: with 10 of 32 an error of 1.9 nats was stated as 0.3 (an Ising model, critical)
ROWS = 1024


@packs
def log_partition(
    program: Program,
    *context: Any,
    method: str = "auto",
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates log Z, the normalising constant of an unnormalised program.

    Arguments:
        program: A program that observes its data under a base and has a factor; its ``event_shape`` is known.
        context: What the model conditions on, each with shape :math:`(N, *)`: there is a constant for each row of it.
        method: ``"exact"`` sums over all values of x, as the program knows (:meth:`~pyro_gen.Program.log_sum`) or one
            by one (at most 16384); ``"ais"``; ``"auto"`` takes the first where it applies.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        options: As in :func:`pyro_gen.inference.likelihood.ais.ais`: ``chains`` (1024, or 64 for each of many rows),
            ``temperatures`` or the ``spread`` of the log-weights (0.25) that they are chosen for, ``schedule``, ...
            ``kernel`` moves the chains, forward and back: a sampler where the entries are real numbers, else a function
            as :meth:`~pyro_gen.Program.kernel`, which is the default where a program has one.

    Returns:
        One number in nats, or one for each row of the context. By AIS a sandwich: ``lower`` from the base to the
        density, ``upper`` back from there, ``value`` half-way, with the mean of the standard errors of both
        directions, which is cautious. Diagnostics:
        ``gap``, upper - lower; ``ess`` and ``ess_back``, the effective sample sizes of both; and those of AIS.

    Raises:
        ValueError: The program is not unnormalised, has global latent variables, or no base; the method does not
            apply; or of the chains fewer than 16, or 5 percent, count by their weights.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Tilted(Program):  # N(0, 1) with the factor exp(3 x): log Z = 4.5
        ...     event_shape = torch.Size([])
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             x = observe("x", dist.Normal(0.0, 1.0), x)
        ...             pyro.factor("tilt", 3 * x)
        ...             return x
        >>> result = log_partition(Tilted())
        >>> abs(result.mean() - 4.5) < 0.1, bool(result.diagnostics["gap"] < 0.1)
        (True, True)
    """
    rows = next((len(c) for c in context if isinstance(c, Tensor) and c.dim()), 1)
    x = nothing_seen(program, rows, *context)
    with evaluation(program), latent_missing(program, x, *context, every=True):
        with pyro.validation_enabled(False):  # a factor may read what is missing
            kinds = structure(program, x[:2], *rows_of(x, context, slice(2)))
        if kinds.kind != "unnormalised":
            plain = all(n.endswith(".missing") for n in (*kinds.local, *kinds.global_))
            raise not_for(program, "exact" if kinds.kind == "bound" and plain else kinds.kind, "log_partition")
        refuse_global(program, kinds, "log_partition")
        with progress_bar("log Z", progress) as report:
            return _partition(program, x, context, method, seed, report, options)


def refuse_global(program: Program, kinds: Structure, verb: str) -> None:
    """Raises where a constant depends on global latent variables, or nothing is observed that has one."""
    if kinds.global_:
        raise ValueError(
            f"{verb}: {type(program).__name__} has a factor and the global latent variable '{kinds.global_[0]}', on "
            "which log Z of the data depends: no one number is it. pg.posterior draws the variable, up to that "
            "constant; a factor that scores censored data is written as a distribution, pg.distributions.Censored."
        )
    if not any(n.endswith(".missing") for n in kinds.local):
        raise ValueError(
            f"{verb}: {type(program).__name__} has a factor and no base distribution for its data: observe them before "
            'it, as by x = observe("x", dist.Normal(0.0, 1.0).expand(x.shape).to_event(1), x).'
        )


def _partition(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    method: str,
    seed: int,
    progress: Callable[[float], None] | None,
    options: Mapping[str, Any],
) -> LogLikelihood:
    """Log Z of rows of which nothing was seen; of others the integral over what is missing. All missing is latent."""
    if method not in ("auto", "exact", "ais"):
        raise ValueError(f'log_partition(method={method!r}): choose "auto", "exact" or "ais".')
    unit = "nats" if len(x) == 1 else "nats per row"
    if method != "ais" and not options:
        with torch.no_grad():
            known = program.log_sum(x, *context)
        if known is not None:
            dims = float(x[0].numel())
            return LogLikelihood(known, torch.zeros_like(known), "exact", "exact", dims, unit=unit, quantity="log Z")
    summed = method != "ais" and not options and is_enumerable(program, x, *context)
    if summed:
        found = enumerated_likelihood(program, x, context, progress)
        return replace(found, event_dims=float(x[0].numel()), unit=unit, quantity="log Z")
    if method == "exact":
        raise AdviceError(
            f"x of {type(program).__name__} has continuous entries or too many values to sum over: use {{method}}.",
            method="ais",
        )
    chains = CHAINS[len(x) == 1]
    settings = Options.of(None, **{"start": "prior", "chains": chains, "spread": SPREAD, **options})
    forward, back, diagnostics = [], [], []
    with seeded(seed), torch.no_grad():
        chunks = list(row_chunks(len(x), max(1, 2**16 // (settings.chains or chains))))
        for rows in chunks:
            data = (x[rows], *rows_of(x, context, rows))
            path = path_of_entries(program, data, settings.kernel)
            source = Rows(program, data[0], data[1:], settings) if path is None else Single(path, settings)
            runs = Runs(source, settings, progress if len(chunks) == 1 else None)
            for run in runs:
                forward.append(run.log_weights.cpu())
                back.append(_back(run).cpu())
            diagnostics.append(runs.result(torch.cat(forward[-len(runs.engines) :], 1), "ais", 1.0).diagnostics)
            if progress is not None:
                progress(rows.stop / len(x))
    log_w, log_v = torch.cat(forward, 1), torch.cat(back, 1)
    (lower, error), (inverse, error_back) = log_mean_exp(log_w), log_mean_exp(-log_v)
    ess, ess_back = effective_sample_size(log_w), effective_sample_size(-log_v)
    _refuse_few(torch.minimum(ess, ess_back), len(log_w))
    # Chains back never go where chains forward have died, on values that the factors forbid: they see Z without these.
    alive = log_w.isfinite().double().mean(0)
    upper = -inverse + alive.log()
    error_back = (error_back.square() + (1 - alive) / (alive * len(log_w))).sqrt()
    names = ("acceptance", "barrier", "khat")
    return LogLikelihood(
        (lower + upper) / 2,
        (error + error_back) / 2,  # as if they were one: the chains back start where those forward have ended
        "sandwich",
        "ais",
        float(x[0].numel()),
        lower=lower,
        upper=upper,
        diagnostics={
            "gap": upper - lower,
            "ess": ess,
            "ess_back": ess_back,
            **{n: torch.cat([d[n] for d in diagnostics]) for n in names},
            "chains": torch.tensor(len(log_w)),
            "temperatures": torch.tensor([len(d["betas"]) - 1 for d in diagnostics]),
        },
        unit=unit,
        quantity="log Z",
    )


def _refuse_few(ess: Tensor, chains: int) -> None:
    """Raises where so few chains count that neither the number nor its stated error is to be trusted."""
    floor = max(FLOOR * chains, min(FEWEST, chains / 2))
    if bool((few := ~(ess >= floor)).any()):
        where = "" if len(ess) == 1 else f" for {int(few.sum())} of {len(ess)} rows"
        raise ValueError(
            f"log Z by AIS: of {chains} chains only {float(ess.min()):.1f} count by their weights{where}, and at least "
            f"{floor:.0f} are to, for below that the error that it states is too small: give more temperatures=, a "
            "kernel that mixes better, or a base nearer to the density."
        )


def _back(run: Run) -> Tensor:
    """Log-weights (C, N) of chains from the density to the base, which start where those of a run have ended."""
    engine, plan = run.engine, run.plan
    point = engine.take(run.point, resample(run.log_weights, len(run.log_weights)))
    for _ in range(MOVES):
        point, _ = engine.move(point, 1.0, *plan.tuning(-1))
    return descend(engine, point, plan)


def normalised_likelihood(
    program: Program,
    kinds: Structure,
    x: Tensor,
    context: tuple[Any, ...],
    method: str,
    seed: int,
    progress: Callable[[float], None] | None,
    options: Mapping[str, Any],
) -> LogLikelihood:
    """The log-likelihood of data under an unnormalised program: its unnormalised log-density minus log Z.

    Arguments:
        program: The program, in evaluation mode; all missing entries are latent where this is called.
        kinds: What is known of it.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        method: ``"auto"``, ``"exact"`` or ``"ais"``.
        seed: Seeds the draws.
        progress: Called with the fraction done.
        options: Of AIS.

    Raises:
        ValueError: The program has latent variables, so that a factor may also be the likelihood of censored data.
    """
    latent = [n for n in (*kinds.global_, *kinds.local) if not n.endswith(".missing")]
    if latent:
        raise ValueError(
            f"{type(program).__name__} has a factor beside the latent variable '{latent[0]}', so no method knows the "
            "likelihood of its data one by one: where it is an energy, sum the variable out of the model and put the "
            "logarithm of the sum into it; where it scores censored data, pg.distributions.Censored says the same "
            "without a factor, and pg.log_evidence takes it where the variables are global."
        )
    if method not in ("auto", "exact", "ais"):
        raise AdviceError(
            f"{type(program).__name__} is unnormalised: its likelihood needs log Z, by {{method}} or {{method_}}.",
            method="ais",
            method_="exact",
        )
    value, error, exact = unnormalised_likelihood(program, x, context, method, seed, options)
    shared = not any(isinstance(c, Tensor) and c.shape[:1] == x.shape[:1] for c in context)
    nothing = torch.full_like(x[:1] if shared else x, math.nan)
    with find_every_missing(program, nothing, *context):  # of several variables some may have been seen in x
        constant = _partition(program, nothing, context, method, seed + 1, progress, options)
    # All data of one context share the error of its constant.
    own_error = float((error if shared else (error.square() + constant.standard_error.square()).sqrt()).square().sum())
    error_of_mean = (own_error / len(x) ** 2 + (float(constant.standard_error.square()) if shared else 0.0)) ** 0.5
    diagnostics = {"log_partition": constant.value, "log_partition_error": constant.standard_error}
    # A log Z that is too small makes the likelihood too large: its bounds change their places.
    lower, upper = (value - z if exact and z is not None else None for z in (constant.upper, constant.lower))
    return LogLikelihood(
        value - constant.value,
        (error.square() + constant.standard_error.square()).sqrt(),
        constant.kind if exact else "estimate",
        constant.method if exact else "ais",
        entries_seen(x),
        lower=lower,
        upper=upper,
        diagnostics=diagnostics
        | {f"log_partition_{n}": t for n, t in constant.diagnostics.items() if n in ("gap", "ess")},
        error_of_mean=error_of_mean,
    )


def unnormalised_likelihood(
    program: Program, x: Tensor, context: tuple[Any, ...], method: str, seed: int, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, bool]:
    """The log-likelihood of what was seen up to log Z, its error, each (N,), and whether it is exact.

    The arguments are those of :func:`normalised_likelihood`.
    """
    value, error = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    holes = torch.isnan(x).reshape(len(x), -1).any(1)
    whole = (~holes).nonzero()[:, 0]
    with torch.no_grad():
        for part in row_chunks(len(whole), ROWS):
            rows = whole[part]
            value[rows.cpu()] = unnormalised_log_prob(program, x[rows], *rows_of(x, context, rows)).double().cpu()
    if not bool(holes.any()):
        return value, error, True
    rows = holes.nonzero()[:, 0]
    found = _partition(program, x[rows], rows_of(x, context, rows), method, seed, None, options)
    value[rows.cpu()], error[rows.cpu()] = found.value, found.standard_error
    return value, error, found.kind == "exact"
