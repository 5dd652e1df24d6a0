r"""Likelihoods by importance sampling, and the one door to all likelihood estimates.

With draws :math:`z_k \sim q(z | x)` of the guide and weights :math:`w_k = p(x, z_k) / q(z_k | x)`,

.. math::
    \mathbb{E} \log w_1 \le \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K w_k \le \log p(x) :

the evidence lower bound and the importance-weighted one, which rises with K.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016)
    | https://arxiv.org/abs/1509.00519
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import (
    ProgramDensity,
    any_missing,
    as_inputs,
    entries_per_datum,
    evaluation,
    local_site,
    row_chunks,
    rows_of,
    rows_per_chunk,
)
from pyro_gen.density.base import vmap_or_loop
from pyro_gen.density.finite import MAX_SUMMED, FiniteSite, finite_sites, joint_values, present_units
from pyro_gen.density.missing import active, latent_missing, missing_site, propose_missing
from pyro_gen.inference.finite import GuideDraws, Summed, enumerated, is_enumerable, probe
from pyro_gen.inference.likelihood import LogLikelihood
from pyro_gen.inference.model_log_prob import ModelLogProb
from pyro_gen.inference.weights import effective_sample_size, log_mean_exp, psis_khat
from pyro_gen.observation import no_completion
from pyro_gen.program import Program
from pyro_gen.traces import data_dim, data_frame, per_datum_log_prob, sample_sites, site_log_prob, structure

__all__ = [
    "GuideDraws",
    "draws_for",
    "effective_sample_size",
    "entries_seen",
    "enumerated",
    "guide_draws",
    "guide_obstacle",
    "guide_on",
    "guide_trace",
    "is_annealed",
    "is_enumerable",
    "joint_guide_draws",
    "log_likelihood",
    "log_mean_exp",
    "psis_khat",
]

METHODS = ("auto", "exact", "elbo", "iwae", "ais", "bdmc", "smc")


def log_likelihood(
    program: Program,
    x: Tensor,
    *context: Any,
    method: str = "auto",
    num_particles: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_n)` of each datum under a program.

    Arguments:
        program: The program.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; what was seen is scored.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        method: ``"exact"`` for programs without latent variables, with a closed-form ``marginal()``, or with discrete
            local latent variables only, summed over their joint values (at most 16384 per datum); ``"elbo"`` and
            ``"iwae"`` by importance sampling from the guide; ``"ais"`` by annealed importance sampling and ``"bdmc"``
            by the same with an upper bound on simulated data in the diagnostics, see :mod:`pyro_gen.inference.ais`;
            ``"smc"`` by sequential Monte Carlo, :mod:`pyro_gen.inference.smc`. ``"auto"`` takes ``"exact"`` where it
            applies, else ``"ais"``.
        num_particles: The number K of draws of the guide per datum, by default 64 for the ELBO and 1000 for IWAE.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done, now and then.
        options: Passed to :func:`pyro_gen.inference.ais.ais` or its sandwich, or to
            :func:`pyro_gen.inference.smc.smc`.

    Returns:
        The estimates with errors and diagnostics (effective sample size ``ess`` and Pareto ``khat``, per datum: above
        0.7 the guide misses part of the posterior and the error is not to be trusted).

    Raises:
        ValueError: The method does not exist or does not apply to the program.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Standard(Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             return observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
        >>> print(log_likelihood(Standard(), torch.zeros(4, 2)))
        log-likelihood -1.838 +- 0.000 nats per datum (exact; 4 data, sampling error 0.000)
    """
    from pyro_gen.inference.ais import ais, ais_with_gap  # they use this module
    from pyro_gen.inference.smc import likelihoods

    if method not in METHODS:
        raise ValueError(f"log_likelihood(method={method!r}): choose one of {', '.join(METHODS)}.")
    if method in ("exact", "elbo", "iwae") and options:
        raise ValueError(f'log_likelihood(method="{method}") has no option {next(iter(options))!r}.')
    if method in ("exact", "ais", "bdmc", "smc") and num_particles is not None:
        raise ValueError(f'log_likelihood(method="{method}") has no particles: num_particles is for "elbo" and "iwae".')
    x, *parts = as_inputs(program, x, *context)
    context = tuple(parts)
    with evaluation(program), latent_missing(program, x, *context):
        kinds = structure(program, x[:2], *rows_of(x, context, slice(2)))
        if kinds.kind in ("unnormalised", "implicit"):
            what = "a factor" if kinds.kind == "unnormalised" else "an observed site without a density"
            raise ValueError(
                f"{type(program).__name__} has {what}, so the data have no likelihood one by one that is known by any "
                "method here: where latent variables are global, pg.log_evidence takes a factor of censored data, and "
                "pg.distributions.Censored says the same without one."
            )
        if kinds.kind == "exact" and method in ("auto", "exact"):
            return _exact(program, x, context)
        if type(program).marginal is not Program.marginal and method in ("auto", "exact"):
            known = {"method": method, "num_particles": num_particles, "seed": seed, "progress": progress}
            return log_likelihood(program.marginal(), x, *context, **known, **options)  # type: ignore[arg-type]
        discrete = is_enumerable(program, x, *context)
        if discrete and method in ("auto", "exact"):
            return _by_enumeration(program, x, context, progress)
        if method == "auto":
            method = "ais" if is_annealed(program, x, *context) else "iwae"
        if kinds.global_:
            raise ValueError(
                f"{type(program).__name__} has the global latent variable '{kinds.global_[0]}', shared by all data, so "
                "the data have no likelihood one by one: no method estimates it. pyro_gen.log_evidence estimates that "
                "of the whole data set."
            )
        if method == "exact":
            return _exact(program.marginal(), x, context)  # which says why there is none
        if kinds.kind == "exact":
            raise ValueError(f'{type(program).__name__} has no latent variable: its likelihood is method="exact".')
        if method == "ais":
            return ais(program, x, *context, seed=seed, progress=progress, **options)
        if method == "bdmc":
            return ais_with_gap(program, x, *context, seed=seed, progress=progress, **options)
        if method == "smc":
            return likelihoods(program, x, *context, seed=seed, progress=progress, **options)
        if num_particles is None:
            num_particles = 64 if method == "elbo" else 1000
        return _by_guide(program, x, context, method, num_particles, seed, progress)


# ----------------------------------------------------------------------------------------------------------------------
# Exact


def _exact(program: Program, x: Tensor, context: tuple[Any, ...]) -> LogLikelihood:
    with torch.no_grad(), evaluation(program), no_completion():
        first = pyro.poutine.trace(program.model).get_trace(x[:1], *rows_of(x, context, slice(1)))
        values = []
        for rows in row_chunks(len(x), rows_per_chunk(entries_per_datum(first), x.device)):
            trace = pyro.poutine.trace(program.model).get_trace(x[rows], *rows_of(x, context, rows))
            trace.compute_log_prob()
            sites = [s for s in sample_sites(trace).values() if not s["infer"].get("_deterministic")]
            values.append(sum(per_datum_log_prob(local_site(site)).double() for site in sites))
        value = torch.cat(values)  # type: ignore[arg-type]
    return LogLikelihood(value, torch.zeros_like(value), "exact", "exact", entries_seen(x))


def entries_seen(x: Tensor) -> float:
    """How many numbers of a datum were seen, in the mean over the data."""
    return float((~torch.isnan(x)).sum()) / len(x)


# ----------------------------------------------------------------------------------------------------------------------
# Sums over discrete latent variables


def is_annealed(program: Program, x: Tensor, *context: Any) -> bool:
    """Whether annealed importance sampling takes the missing entries that are latent variables, or there are none."""
    latent = _latent(probe(program, x, *context))
    missing = {n: s for n, s in latent.items() if missing_site(s)}
    discrete = [n for n, s in missing.items() if s["fn"].support.is_discrete]
    finite = {n: f for n, f in finite_sites(probe(program, x, *context)).items() if n in discrete}
    if len(finite) < len(discrete) or (missing and all(s["fn"].support.is_discrete for s in latent.values())):
        return False
    return not finite or bool((joint_values(finite, present_units(finite, program, x, *context)) <= MAX_SUMMED).all())


def _by_enumeration(
    program: Program, x: Tensor, context: tuple[Any, ...], progress: Callable[[float], None] | None
) -> LogLikelihood:
    value, done = torch.zeros(len(x), dtype=torch.float64, device=x.device), 0
    for sums in enumerated(program, x, *context):
        value[sums.rows] = sums.log_weights.logsumexp(0)
        done += sums.log_weights.shape[1]
        if progress is not None:
            progress(done / len(x))
    return LogLikelihood(value, torch.zeros_like(value), "exact", "exact", entries_seen(x))


# ----------------------------------------------------------------------------------------------------------------------
# Importance sampling from the guide


def guide_draws(program: Program, x: Tensor, *context: Any, num_particles: int) -> Iterator[GuideDraws]:
    r"""Draws from the guide, with log-weights :math:`\log p(x_n, z_n) - \log q(z_n | x_n)`, chunk by chunk of the data.

    Draws by the global generators (see :func:`pyro_gen._random.seeded`) and without gradients.

    Arguments:
        program: A program with local latent variables only, in evaluation mode.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        num_particles: The number K of draws per datum.

    Yields:
        The draws, for consecutive rows of the data.

    Raises:
        ValueError: Model and guide do not have the same latent sites, the guide is a point, or it has parameters for
            another number of data.
    """
    with torch.no_grad():
        rows, entries = _plan(program, x, context, num_particles)
        summed = _left_to_sums(program, x, context)
        for chunk in row_chunks(len(x), rows):
            data = (x[chunk], *rows_of(x, context, chunk))
            guide = _Guide(program, data, summed)
            model = Summed(program, summed, data)
            size = max(1, rows_per_chunk(entries, x.device) // len(data[0]))
            weights, draws = [], []
            for start in range(0, num_particles, size):
                values, log_q = guide.draw(min(size, num_particles - start))
                weights.append(model.log_prob(values, len(log_q)) - log_q.double())
                draws.append(values)
            yield GuideDraws(
                chunk,
                torch.cat(weights),
                {n: torch.cat([d[n] for d in draws]) for n in guide.data_dims},
                guide.data_dims,
            )


def _plan(program: Program, x: Tensor, context: tuple[Any, ...], num_particles: int) -> tuple[int, int]:
    """Checks guide against model, and finds how many rows to take at once and the entries per row."""
    model = pyro.poutine.trace(program.model).get_trace(x[:1], *rows_of(x, context, slice(1)))
    entries = entries_per_datum(model)
    # Rows for which many particles fit, since the guide's network runs once per chunk.
    rows = min(len(x), max(1, rows_per_chunk(entries, x.device) // min(num_particles, 64)))
    summed = _left_to_sums(program, x, context)
    guide = guide_trace(program, x[:rows], *rows_of(x, context, slice(rows)), leave_out=summed)
    latent, guided = _latent(model), _latent(guide)
    if absent := sorted(set(latent) - set(guided) - set(summed)):
        other = "exact" if is_enumerable(program, x, *context) else 'ais", start="prior'
        raise ValueError(
            f"The guide of {type(program).__name__} does not sample the latent variable '{absent[0]}': give it a guide "
            f'that does, pg.with_guide say, or use a method without one (for a likelihood: method="{other}").'
        )
    if point := _point(program, guide, x[:rows], rows_of(x, context, slice(rows))):
        raise ValueError(
            f"The guide of {type(program).__name__} is a point at '{point}' (a Delta), which has no density: use "
            'pg.log_likelihood(method="ais", start="prior"), pg.impute(method="ais"), or give it a guide with a '
            "spread, as AutoNormal is."
        )
    for name, site in guided.items():
        if name not in latent and not site["infer"].get("is_auxiliary"):
            raise ValueError(f"The guide of {type(program).__name__} samples '{name}', which the model does not have.")
        frame = data_frame(site)
        if frame is None:
            raise ValueError(
                f"The guide's site '{name}' stands outside of the data plate, so it has no density per datum: use "
                'method="ais", start="prior", or a guide that samples inside the plate.'
            )
        if frame.size != rows:  # an autoguide: one set of parameters per datum of its training
            if frame.size != len(x):
                raise ValueError(
                    f"The guide of {type(program).__name__} has parameters for {frame.size} data and was given "
                    f'{len(x)}: it knows no other data than it was trained on. Use method="ais", start="prior", or a '
                    "guide that reads x."
                )
            rows = len(x)
    return rows, entries


def guide_trace(program: Program, *data: Any, leave_out: Collection[str] = ()) -> Trace:
    """A trace of the guide, in which missing entries that are latent variables and that it knows nothing of are draws
    of the model given the rest.

    Arguments:
        program: The program.
        data: What it is called with.
        leave_out: Latent variables for which no proposal is made.
    """
    trace = pyro.poutine.trace(program.guide).get_trace(*data)
    return propose_missing(program, trace, data, leave_out)


def _left_to_sums(program: Program, x: Tensor, context: tuple[Any, ...]) -> dict[str, FiniteSite]:
    """The discrete latent variables that the guide leaves out, where they are few enough to be summed over."""
    data = (x[:1], *rows_of(x, context, slice(1)))
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        guide = guide_on(program, *data) or guide_on(program, x, *context)
    guided = {} if guide is None else _latent(guide)
    trace = probe(program, x, *context)
    finite = finite_sites(trace, guided)
    if not finite or len(finite) == len(_latent(trace)):
        return {}
    few = joint_values(finite, present_units(finite, program, x, *context)) <= MAX_SUMMED
    return finite if bool(few.all()) else {}


def joint_guide_draws(
    program: Program, x: Tensor, *context: Any, num_particles: int
) -> tuple[dict[str, Tensor], Tensor]:
    r"""Draws all latent variables, local and global, from the guide, with weights :math:`\log p(x, z) - \log q(z)`.

    Draws by the global generators and without gradients.

    Arguments:
        program: A program in evaluation mode, whose guide samples what its model does.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        num_particles: The number K of draws.

    Returns:
        The draws by name of the site, with shape :math:`(K, *)`, and the log-weights in float64, with shape
        :math:`(K,)`.

    Raises:
        ValueError: Model and guide do not have the same latent sites, or the guide is a point.
    """
    data = (x, *context)

    def one(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        trace = guide_trace(program, *data)
        sites = _latent(trace)
        return {n: s["value"] for n, s in sites.items()}, torch.stack(
            [site_log_prob(s).sum() for s in sites.values()]
        ).sum(0)

    with torch.no_grad(), pyro.validation_enabled(False):
        prototype = pyro.poutine.trace(program.model).get_trace(*data)
        guide = guide_trace(program, *data)
        model, guided = _latent(prototype), _latent(guide)
        name = type(program).__name__
        if absent := [n for n in model if n not in guided]:
            raise ValueError(
                f"The guide of {name} does not sample the latent variable '{absent[0]}': give it a guide that does "
                '(an autoguide, say), or start from the prior: start="prior".'
            )
        if point := _point(program, guide, x, context):
            raise ValueError(
                f"The guide of {name} is a point at '{point}' (a Delta), which has no density: use what needs no "
                'guide, pg.posterior(method="hmc") or pg.log_evidence(method="smc"), start="prior" where that is an '
                "option, or give it a guide with a spread, as AutoNormal is."
            )
        for n, site in guided.items():
            if n not in model and not site["infer"].get("is_auxiliary"):
                raise ValueError(f"The guide of {name} samples '{n}', which the model does not have.")
        parts = []
        log_p = ModelLogProb(program, any_missing(x, *context), joint=True)
        entries = max([1, *(s["value"].numel() for s in sample_sites(prototype).values())])
        size = rows_per_chunk(entries, x.device)
        for start in range(0, num_particles, size):
            count = min(size, num_particles - start)
            values, log_q = vmap_or_loop(one, torch.zeros(count), draws=True)
            parts.append((values, log_p(data, values).double().sum(1) - log_q.double()))
    return {n: torch.cat([p[0][n] for p in parts]) for n in guided}, torch.cat([p[1] for p in parts])


def draws_for(target: ProgramDensity, num_particles: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws from the guide of a density's program, for all of its targets at once.

    Draws by the global generators and without gradients.

    Arguments:
        target: The density of a program, which is in evaluation mode.
        num_particles: The number K of draws for each target.

    Returns:
        The draws by name of the site, with shape :math:`(K, *)`, and the log-weights in float64, with shape
        :math:`(K, *batch)`.

    Raises:
        ValueError: As by :func:`guide_draws` and :func:`joint_guide_draws`.
    """
    program = target.program
    assert isinstance(program, Program)
    if not target.per_datum:
        return joint_guide_draws(program, *target.data, num_particles=num_particles)
    parts = list(guide_draws(program, *target.data, num_particles=num_particles))  # of some rows each
    values = {n: torch.cat([p.values[n] for p in parts], dim + 1) for n, dim in parts[0].data_dims.items()}
    return values, torch.cat([p.log_weights for p in parts], 1)


def _point(program: Program, guide: Trace, x: Tensor, context: tuple[Any, ...]) -> str | None:
    """The name of a site at which the guide always takes the same values: MAP estimates and the like.

    An autoguide's Delta is no such point, since it holds the transformed value of an auxiliary site.
    """
    deltas = {n: s["value"] for n, s in _latent(guide).items() if isinstance(_innermost(s["fn"]), dist.Delta)}
    if not deltas:
        return None
    again = _latent(pyro.poutine.trace(program.guide).get_trace(x, *context))
    return next((n for n, value in deltas.items() if torch.equal(value, again[n]["value"])), None)


def _innermost(distribution: Any) -> Any:
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return distribution


def guide_obstacle(program: Program, x: Tensor, *context: Any) -> str | None:
    """What keeps the guide from proposing latent variables for any rows of the data.

    Returns:
        ``"point"``: it always takes the same values; ``"rows"``: it is not amortised, with parameters for each of these
        rows, so it runs on all of them or none; ``"other rows"``: for another number of rows; else ``None``.
    """
    few = (x[:1], *rows_of(x, context, slice(1)))
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        for data, found in ((few, None), ((x, *context), "rows")):
            if (guide := guide_on(program, *data)) is not None:
                return "point" if _point(program, guide, data[0], data[1:]) is not None else found
        return "other rows"


def guide_on(program: Program, x: Tensor, *context: Any) -> Trace | None:
    """A trace of the guide, or ``None`` where it has parameters for another number of rows than these."""
    try:
        guide = pyro.poutine.trace(program.guide).get_trace(x, *context)
    except (RuntimeError, ValueError, IndexError):
        # What else may be wrong with the guide comes out where it is used.
        return None
    for site in _latent(guide).values():
        frame = data_frame(site)
        batch = site["fn"].batch_shape
        if frame is not None and {frame.size, *batch[len(batch) + frame.dim :][:1]} - {1, len(x)}:
            return None
    return guide


class _Guide:
    """The guide for some rows of the data, as a sampler."""

    def __init__(self, program: Program, data: tuple[Any, ...], leave_out: Collection[str] = ()) -> None:
        self.program, self.data, self.leave_out = program, data, leave_out
        trace = self._trace()
        sites = _latent(trace)
        self.single = next(iter(sites.values())) if len(sites) == 1 else None
        self.data_dims = {n: data_dim(s) for n, s in sites.items()}

    def _trace(self) -> Trace:
        with pyro.validation_enabled(False):
            return guide_trace(self.program, *self.data, leave_out=self.leave_out)

    def draw(self, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draws values of shape (size, *) with their log-densities, of shape (size, n)."""
        if self.single is not None:
            # The distribution of a lone site depends on nothing random: the guide's network need not run again.
            site = self.single
            value = site["fn"].sample((size,))
            log_prob = scale_and_mask(site["fn"].log_prob(value), site["scale"], site["mask"])
            return {site["name"]: value}, log_prob.movedim(data_frame(site).dim, -1).reshape(
                size, -1, len(self.data[0])
            ).sum(1)
        handler = active(self.program)
        if handler is not None and handler.names:  # the model runs for each draw too

            def one(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
                sites = _latent(self._trace())
                log_q = torch.stack([per_datum_log_prob(s) for s in sites.values()]).sum(0)
                return {n: s["value"] for n, s in sites.items()}, log_q

            return vmap_or_loop(one, torch.zeros(size), draws=True)  # type: ignore[no-any-return]
        values, log_q = [], []
        for _ in range(size):
            trace = self._trace()
            trace.compute_log_prob()
            sites = _latent(trace)
            values.append({n: s["value"] for n, s in sites.items()})
            log_q.append(torch.stack([per_datum_log_prob(s) for s in sites.values()]).sum(0))
        return {n: torch.stack([v[n] for v in values]) for n in values[0]}, torch.stack(log_q)


def _latent(trace: Trace) -> dict[str, Any]:
    return {n: s for n, s in sample_sites(trace).items() if not s["is_observed"]}


def _by_guide(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    method: str,
    num_particles: int,
    seed: int,
    progress: Callable[[float], None] | None,
) -> LogLikelihood:
    if num_particles < 1:
        raise ValueError(f"log_likelihood(num_particles={num_particles}): give a positive number.")
    columns: dict[str, list[Tensor]] = {"value": [], "error": [], "ess": [], "khat": []}
    with seeded(seed):
        for draws in guide_draws(program, x, *context, num_particles=num_particles):
            log_w = draws.log_weights
            if method == "elbo":
                value = log_w.mean(0)
                error = ((log_w - value).square().sum(0) / (num_particles * torch.tensor(num_particles - 1.0))).sqrt()
            else:
                value, error = log_mean_exp(log_w)
            columns["value"].append(value)
            columns["error"].append(error)  # 0 / 0 = NaN for one draw
            columns["ess"].append(effective_sample_size(log_w))
            columns["khat"].append(psis_khat(log_w))
            if progress is not None:
                progress(sum(map(len, columns["value"])) / len(x))
    value, error, ess, khat = (torch.cat(columns[name]).cpu() for name in ("value", "error", "ess", "khat"))
    diagnostics = {"ess": ess, "khat": khat, "num_particles": torch.tensor(num_particles)}
    return LogLikelihood(
        value, error, "stochastic lower bound", method, entries_seen(x), lower=value, diagnostics=diagnostics
    )
