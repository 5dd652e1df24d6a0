r"""Annealed importance sampling, and the sandwich of bidirectional Monte Carlo.

Chains move from a base density to a posterior, that of one datum or of all of them, through

.. math:: \pi_\beta(z) \propto q_0(z)^{1 - \beta} \, p(x, z)^\beta, \qquad 0 = \beta_0 < \dots < \beta_T = 1 ,

by Hamiltonian Monte Carlo, in unconstrained space. The weights

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \left[ \log p(x, z_{t-1}) - \log q_0(z_{t-1}) \right]

have expectation :math:`\mathbb{E} \, w = p(x)`, exactly, as long as schedule and step sizes are fixed before the chains
start. So they are tuned in pilot rounds, and the weights come from one more run with random numbers of its own.

The base is the prior, a Gaussian fitted to draws of the guide, or a distribution of the user's
(:mod:`pyro_gen.inference.paths`); chains move between temperatures by Hamiltonian Monte Carlo, or by a kernel of the
user's own.

The pilot rounds double the number of temperatures, and place them so that every step adds the same divergence: the
length of the path, or barrier, :math:`\Lambda`, is measured by :math:`\log \mathbb{E} g^2 - 2 \log \mathbb{E} g` of
the weights :math:`g` of each step, and :math:`\operatorname{sd}(\log w) \approx \Lambda / \sqrt{T}`.

Two more estimates fall out of a run. Thermodynamic integration,
:math:`\log p(x) = \int_0^1 \mathbb{E}_\beta \, s(z) \, d\beta` with the slope :math:`s = \log p(x, z) - \log q_0(z)`,
by the trapezoidal rule and its correction of the second order. And from the prior, the rate-distortion curve: at each
:math:`\beta` the codes with the distortion :math:`D = -\mathbb{E}_\beta \log p(x | z)` cost the rate
:math:`R = \mathrm{KL}(\pi_\beta \| p(z)) = -\beta D - \log Z_\beta`.

For data simulated from the program, a chain that starts at the latent variables that made the datum starts at an exact
draw of its posterior. Run backwards it gives an upper bound: with one backward weight among K, the others forward,

.. math::
    \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K w_k \le \log p(x) \le
    \mathbb{E} \log \frac{1}{K} \Big( w_1' + \sum_{k=2}^K w_k \Big) .

References:
    | Annealed Importance Sampling (Neal, 2001)
    | https://arxiv.org/abs/physics/9803008
    | Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015)
    | https://arxiv.org/abs/1511.02543
    | On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017)
    | https://arxiv.org/abs/1611.04273
    | Evaluating Lossy Compression Rates of Deep Generative Models (Huang et al., 2020)
    | https://arxiv.org/abs/2008.06653
    | Improving power posterior estimation of statistical evidence (Friel et al., 2014)
    | https://arxiv.org/abs/1209.3198
    | Optimised Annealed Sequential Monte Carlo Samplers (Syed et al., 2024)
    | https://arxiv.org/abs/2408.12057
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen._random import seeded
from pyro_gen.density import Density, ProgramDensity, density, evaluation, row_chunks, rows_of, rows_per_chunk
from pyro_gen.inference.importance import entries_seen
from pyro_gen.inference.likelihood import LogLikelihood
from pyro_gen.inference.mcmc.hmc import Metric, Point
from pyro_gen.inference.paths import (
    DENSE,
    Correlated,
    Engine,
    Hamiltonian,
    Particles,
    Path,
    as_target,
    cholesky_factors,
    correlations,
    covariances,
    engine_of,
    resample,
    unit_of,
)
from pyro_gen.inference.weights import effective_sample_size, left_out, log_mean_exp, psis_khat
from pyro_gen.program import Program, structure

__all__ = ["ais", "ais_with_gap", "anneal", "bdmc", "evidence_with_gap", "posterior_draws"]

FEWEST = 8  # chains of a pilot round, below which their spread says nothing
MOST = 256  # chains of a pilot round, above which they say no more
PILOT = 32  # temperatures of the last pilot round, unless it shows that more than four times as many are needed
LONGEST = 1000  # temperatures of the longest final run that is chosen automatically
SPREAD = 0.5  # standard deviation of log w that the automatic number of temperatures aims at
OFF = 1e4  # nats that stand for infinitely many in a pilot round
LEAN = 5  # effective draws that what a variance leans on counts as much as
CHAINS = (16, 1024)  # of each target of many, and of a single one


@dataclass(frozen=True)
class _Options:
    chains: int | None = None
    temperatures: int | None = None
    schedule: str | Tensor | Sequence[float] = "equalised"
    leapfrog: int = 1
    start: str | Distribution = "guide"
    precondition: bool = True
    target_acceptance: float = 0.75

    @staticmethod
    def of(preset: str | None, **options: Any) -> "_Options":
        if preset == "wu2017":
            fixed = {"chains": 16, "temperatures": 10_000, "schedule": "sigmoid", "leapfrog": 10, "start": "prior"}
            options = {**fixed, "precondition": False, "target_acceptance": 0.65, **options}
        elif preset is not None:
            raise ValueError(f'ais(preset={preset!r}): the only preset is "wu2017".')
        if unknown := [name for name in options if name not in _Options.__dataclass_fields__]:
            raise ValueError(
                f"ais has no option {unknown[0]!r}: choose from {', '.join(_Options.__dataclass_fields__)}."
            )
        return _Options(**options)

    def __post_init__(self) -> None:
        for name in ("chains", "temperatures", "leapfrog"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"ais({name}={value}): give a positive number.")
        if not isinstance(self.start, Distribution) and self.start not in ("prior", "guide"):
            raise ValueError(
                f'ais(start={self.start!r}): choose "prior" or "guide", or give a distribution of torch\'s.'
            )
        if isinstance(self.schedule, str):
            if self.schedule not in ("equalised", "sigmoid", "linear"):
                raise ValueError(
                    f'ais(schedule={self.schedule!r}): choose "equalised", "sigmoid", "linear" or a sequence of betas.'
                )
            return
        betas = torch.as_tensor(self.schedule).detach().to("cpu", torch.float64)
        object.__setattr__(self, "schedule", betas)
        if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or bool((betas.diff() <= 0).any()):
            raise ValueError("ais(schedule=...): betas rise from 0 to 1, in one dimension.")
        if self.temperatures is not None:
            raise ValueError("ais: a schedule of betas fixes the number of temperatures, so leave temperatures out.")

    def chains_for(self, engine: Engine) -> int:
        return self.chains or CHAINS[engine.n == 1 and not engine.batch_shape]


def ais(
    program: Program,
    x: Tensor,
    *context: Any,
    preset: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_n)` of each datum by annealed importance sampling.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        preset: ``"wu2017"`` for the protocol of Wu et al.: 16 chains from the prior, 10000 temperatures on a sigmoid,
            10 leapfrog steps. Options given besides it take precedence.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done, after each temperature.
        options: ``chains`` per datum (16); ``temperatures``, chosen so that the standard deviation of a log-weight is
            about 0.5 when it is left out; ``schedule``, ``"equalised"`` (every step adds the same divergence, measured
            in the pilot rounds), ``"sigmoid"``, ``"linear"`` or a sequence of betas; ``leapfrog`` steps per
            temperature; ``start``, ``"guide"``, ``"prior"`` or a distribution of torch's over unconstrained points, of
            shape :math:`(N, D)` in all; ``precondition``, whether coordinates are scaled by the standard deviations
            found in the pilot rounds; ``target_acceptance`` (0.75).

    Returns:
        The logarithms of the mean weights: stochastic lower bounds whose bias vanishes with chains and temperatures;
        ``lower`` is the mean log-weight, the looser bound of one chain. Diagnostics per datum: ``ess``, ``khat`` (from
        21 chains on, else of all weights together, each relative to the mean of its datum), ``start_khat`` (the same
        of the weights without annealing, where the base is not the prior), ``acceptance``, ``barrier``,
        ``thermodynamic`` (the estimate by thermodynamic integration); and ``betas``, from the prior also the mean
        ``rate`` and ``distortion`` at each of them, and ``gradients``, how many were evaluated per datum in all.

    Raises:
        ValueError: An option does not exist, or :func:`pyro_gen.density.density` does not apply to the program.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Sum(Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             return observe("x", dist.Normal(z, 1.0), x)
        >>> result = ais(Sum(), torch.zeros(100), start="prior")
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(0.0)).item()
        >>> abs(result.mean() - exact) < 0.05
        True
    """
    settings = _Options.of(preset, **options)
    with seeded(seed), torch.no_grad(), evaluation(program):
        collect = _Collect(_Rows(program, x, context, settings), settings, progress)
        log_w = torch.cat([run.log_weights.cpu() for run in collect], 1)
    return collect.result(log_w, "ais", entries_seen(x))


def anneal(
    target: Density | Path | Program | Callable[..., Any],
    *data: Any,
    preset: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Particles:
    r"""Annealed importance sampling of any density: global latent variables, and kernels of the user's own.

    Arguments:
        target: A density, whose targets each get an evidence: one of a joint density, N of a density per datum, S of
            a stacked one. A program or a model function, of which :func:`pyro_gen.density.density` makes one. Or a
            :class:`~pyro_gen.inference.paths.Path`, with moves of its own.
        data: What the program or function is called with.
        preset: As in :func:`ais`.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done, after each temperature.
        options: As in :func:`ais`. There are 1024 chains by default where there is a single target, and ``start`` is
            ``"prior"``. A path has no other options than ``chains``, ``temperatures`` and ``schedule``.

    Returns:
        The chains' ends with their weights, and the evidence: its diagnostics are those of :func:`ais`.

    Raises:
        ValueError: An option does not exist or does not apply.

    Example:
        >>> import torch
        >>> from pyro_gen.density import Density
        >>> def kernel(z):  # of a Gaussian in three dimensions: its integral is pi^(3/2)
        ...     return -z.square().sum(-1)
        >>> base = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        >>> result = anneal(Density.from_functions(kernel, 3), start=base)
        >>> abs(result.evidence.mean() - 1.7171) < 0.05
        True
    """
    settings = _Options.of(preset, **{"start": "prior", **options})
    if isinstance(target, Path) and (wrong := sorted(set(options) - {"chains", "temperatures", "schedule"})):
        raise ValueError(f"A Path has moves and a start of its own: anneal takes no {wrong[0]} with it.")
    goal = as_target(target, data)
    with seeded(seed), torch.no_grad():
        collect = _Collect(_Single(goal, settings), settings, progress)
        (run,) = collect
        evidence = collect.result(run.log_weights.cpu(), "ais", *unit_of(goal))
        states, log_w = run.engine.unflatten(run.point.z), run.log_weights.reshape(-1, *run.engine.batch_shape)
    return Particles(evidence, states, log_w, goal)


def bdmc(
    program: Program,
    n: int,
    *,
    sets: int = 8,
    context: tuple[Any, ...] = (),
    preset: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Measures how sharp annealed importance sampling is, on data simulated from the program.

    Arguments:
        program: A program with continuous latent variables and an ``event_shape``.
        n: The number of data to simulate: N targets where all latent variables are local, else the size of a data set.
        sets: How many data sets to simulate, where there are global latent variables.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        preset: As in :func:`ais`.
        seed: Seeds data and draws; the caller's generators are left alone.
        progress: As in :func:`ais`.
        options: As in :func:`ais`; from the prior where there are global latent variables.

    Returns:
        A sandwich: ``lower`` as by :func:`ais`, ``upper`` with one backward weight in the place of one forward weight,
        and ``value`` half-way. Diagnostics: ``gap``, upper - lower, whose mean bounds the bias of :func:`ais` here;
        ``jeffreys``, backward minus mean forward log-weight, whose mean bounds the Jeffreys divergence between the law
        of a chain's end and the posterior (BREAD, Grosse et al. 2016).

    Raises:
        ValueError: As in :func:`ais`, the program does not know the shape of a datum, or it observes its context.
    """
    return _sandwich(program, n, sets, context, None, seed, progress, preset, options)


def _sandwich(
    program: Program,
    n: int,
    sets: int,
    context: tuple[Any, ...],
    missing: Tensor | None,
    seed: int,
    progress: Callable[[float], None] | None,
    preset: str | None,
    options: dict[str, Any],
) -> LogLikelihood:
    """:func:`bdmc`, with holes in the simulated data where ``missing`` says so.

    The latent variables that made a datum are an exact draw of the posterior given any part of it.
    """
    with seeded(seed), torch.no_grad(), evaluation(program):
        simulated = _simulate(program, n, sets, context, missing)
        if simulated.stacked and options.get("start", "prior") != "prior":
            raise ValueError(
                f"{type(program).__name__} has global latent variables: bdmc anneals from the prior, whose draws made "
                'the data: leave start out, or start="prior".'
            )
        settings = _Options.of(preset, **({"start": "prior", **options} if simulated.stacked else options))
        source: _Rows | _Single
        if simulated.stacked:
            target = density(program, simulated.x, *simulated.context, stacked=True)
            source, event_dims, unit = _Single(target, settings), entries_seen(simulated.x), "nats per data set"
        else:
            source = _Rows(program, simulated.x, context, settings)
            event_dims, unit = entries_seen(simulated.x), "nats per datum"
        forward, backward = [], []
        collect = _Collect(source, settings, progress)
        for run in collect:
            assert isinstance(run.engine, Hamiltonian) and isinstance(run.engine.density, ProgramDensity)
            exact = run.engine.density.unconstrain(simulated.latents(run.rows))
            backward.append(_backward(run.engine, exact.reshape(1, run.engine.n, run.engine.dim), run.plan).cpu())
            forward.append(run.log_weights.cpu())
    log_w, log_v = torch.cat(forward, 1), torch.cat(backward, 1)
    lower = collect.result(log_w, "bdmc", event_dims, unit)
    upper, _ = log_mean_exp(torch.cat([log_v, log_w[1:]]))
    return LogLikelihood(
        value=(lower.value + upper) / 2,
        standard_error=_sandwich_error(log_w, log_v),
        kind="sandwich",
        method="bdmc",
        event_dims=lower.event_dims,
        lower=lower.value,
        upper=upper,
        diagnostics={**lower.diagnostics, "gap": upper - lower.value, "jeffreys": log_v[0] - log_w.mean(0)},
        unit=unit,
    )


class _Simulated(NamedTuple):
    """Data and the latent variables that made them: N data, or S data sets of n data."""

    x: Tensor  # (N, *) or (S, n, *)
    context: tuple[Any, ...]
    values: dict[str, Tensor]
    data_dims: dict[str, int]  # of local sites, counted from the left
    stacked: bool

    def latents(self, rows: slice) -> dict[str, Tensor]:
        """The values as one chain, of some rows where there are no global ones: (1, *)."""
        if self.stacked:
            return {name: v.unsqueeze(0) for name, v in self.values.items()}
        dims = self.data_dims
        return {n: v.movedim(dims[n], 0)[rows].movedim(0, dims[n]).unsqueeze(0) for n, v in self.values.items()}


def _simulate(program: Program, n: int, sets: int, context: tuple[Any, ...], missing: Tensor | None) -> _Simulated:
    from pyro_gen.inference.predictive import given_site, simulate, simulate_sets

    if program.event_shape is None or not structure(program, *_nothing(program, 1, context)).global_:
        x, values, dims = simulate(program, n, context)  # which says so where the shape of a datum is not known
        stacked = False
    else:
        x, values = simulate_sets(program, sets, *_nothing(program, n, context))
        dims, stacked = {}, True
    # Latent variables of the prior are no exact draw given what the model observes besides.
    if (name := given_site(program, *_nothing(program, 1, context))) is not None:
        raise ValueError(
            f"The model of {type(program).__name__} observes '{name}', which is given and not simulated, so the "
            'simulated latent variables are no exact draws of the posterior: use method="ais", without a sandwich.'
        )
    if missing is not None:
        x = x.masked_fill(missing, math.nan)
    if stacked:
        context = tuple(c.expand(sets, *c.shape) if isinstance(c, Tensor) else c for c in context)
    return _Simulated(x, context, values, dims, stacked)


def _nothing(program: Program, n: int, context: tuple[Any, ...]) -> tuple[Any, ...]:
    """Data of which nothing was seen, and the first rows of the context."""
    assert program.event_shape is not None
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    rows = next((len(c) for c in context if isinstance(c, Tensor) and c.dim()), n)
    full = torch.full((rows, *program.event_shape), math.nan, dtype=like.dtype, device=like.device)
    return (full[:n], *rows_of(full, context, slice(n)))


def _sandwich_error(log_w: Tensor, log_v: Tensor) -> Tensor:
    """The standard error of half of lower plus upper bound, which share all forward weights but one.

    By the jackknife over all weights (K, N) and the backward one (1, N), taken for one more of their kind.
    """
    n = len(log_w)
    if n == 1:
        return torch.full_like(log_w[0], math.nan)
    lower, upper = (left_out(w) - left_out(w).mean(0) for w in (log_w, torch.cat([log_v, log_w[1:]])))
    change = torch.cat([lower[:1], upper[:1], lower[1:] + upper[1:]]) / 2
    return ((n - 1) / n * change.square().sum(0)).sqrt()


def ais_with_gap(
    program: Program,
    x: Tensor,
    *context: Any,
    simulated: int = 100,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    """Runs :func:`ais` on the data, and :func:`bdmc` on as many simulated ones to say how sharp it is.

    The simulated data have the missing entries of the first rows. The upper bound holds for them, not for ``x``: real
    data may be harder for the sampler.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on; simulated data are given that of the first rows.
        simulated: How many data to simulate, at most as many as there are rows.
        seed: Seeds the draws.
        progress: As in :func:`ais`.
        options: As in :func:`ais`.

    Returns:
        The result of :func:`ais`, with ``gap`` and ``jeffreys`` of the simulated data among the diagnostics.
    """
    n = min(simulated, len(x))
    first, second = _halves(progress, 1 - n / (n + len(x)))
    result = ais(program, x, *context, seed=seed, progress=first, **options)
    few = (x[:n], *rows_of(x, context, slice(n)))
    return _with_gap(result, program, few, 1, seed, second, options)


def evidence_with_gap(
    program: Program,
    target: ProgramDensity,
    *,
    sets: int = 8,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    """Runs :func:`anneal` on a data set, and :func:`bdmc` on simulated ones of its size, with its missing entries.

    Arguments:
        program: A program with global latent variables.
        target: Its joint density, with the data.
        sets: How many data sets to simulate.
        seed: Seeds the draws.
        progress: As in :func:`ais`.
        options: As in :func:`anneal`.

    Returns:
        The evidence by :func:`anneal`, with ``gap`` and ``jeffreys`` of the simulated data sets among the diagnostics.
    """
    first, second = _halves(progress, 1 / (1 + sets))
    result = anneal(target, seed=seed, progress=first, **options).evidence
    if options.get("preset") is None:
        options = {"chains": CHAINS[1], **options}  # those of the data, for each of the simulated sets
    return _with_gap(result, program, target.data, sets, seed, second, options)


def _halves(
    progress: Callable[[float], None] | None, cut: float
) -> tuple[Callable[[float], None] | None, Callable[[float], None] | None]:
    """Reports of two tasks as one: the first takes the share ``cut`` of the time."""
    if progress is None:
        return None, None
    return lambda f: progress(cut * f), lambda f: progress(cut + (1 - cut) * f)


def _with_gap(
    result: LogLikelihood,
    program: Program,
    data: tuple[Any, ...],
    sets: int,
    seed: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> LogLikelihood:
    """A result with the gap on simulated data like these."""
    x, *context = data
    known = program.event_shape
    program.event_shape = torch.Size(x.shape[1:])
    options = dict(options)
    preset = options.pop("preset", None)
    try:
        gap = _sandwich(program, len(x), sets, tuple(context), torch.isnan(x), seed + 1, progress, preset, options)
    finally:
        program.event_shape = known
    extra = {name: gap.diagnostics[name] for name in ("gap", "jeffreys")}
    return replace(result, method="bdmc", diagnostics={**result.diagnostics, **extra})


def posterior_draws(
    program: Program, x: Tensor, *context: Any, draws: int, moves: int = 10, **options: Any
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Draws from the posterior of each datum: the chains' ends resampled by weight, then moved on.

    Draws by the global generators. The program is in evaluation mode, given by the caller.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        draws: The number S of draws, which is also the least number of chains.
        moves: HMC moves at the end, which part draws that come from one chain.
        options: As in :func:`ais`.

    Yields:
        Rows of the data, and draws by name of the site with shape :math:`(S, *)`.
    """
    settings = _Options.of(None, **{**options, "chains": max(draws, options.get("chains", 16))})
    for run in _Collect(_Rows(program, x, context, settings), settings, None):
        assert isinstance(run.engine, Hamiltonian)
        point = run.engine.take(run.point, resample(run.log_weights, draws))
        for _ in range(moves):
            point, _ = run.engine.move(point, 1.0, *run.plan.tuning(-1))
        yield run.rows, run.engine.density.constrain(run.engine.unflatten(point.z))


# ----------------------------------------------------------------------------------------------------------------------
# Chains along a path


@dataclass(frozen=True)
class _Plan:
    """All that is fixed before a run.

    Move t = 1, ..., T is at inverse temperature betas[t], with step_sizes[t - 1] and metrics(t - 1).
    """

    betas: Tensor  # (T + 1,) float64
    step_sizes: Tensor  # (T, N)
    scales: Tensor  # standard deviations of the coordinates, (T, N, D)
    factors: Tensor | None  # Cholesky factors of the correlations that all targets share, (T, D, D)

    def tuning(self, t: int) -> tuple[Tensor, Metric]:
        if self.factors is None:
            return self.step_sizes[t], Metric.diagonal(self.scales[t])
        return self.step_sizes[t], Correlated(self.scales[t], self.factors[t])


# One leapfrog step is the default by measurement. Mean error of a log-weight in nats for PPCA (20 dimensions, rank 4)
# at equal cost, 480 gradients from the prior | 48 from the guide: L = 1: 0.11 | 0.02; L = 2: 0.25 | 0.10 (steps not
# jittered: 1.68 | 0.21); L = 4: 0.55 | 0.12.


class _Pilot(NamedTuple):
    """What a pilot round saw at its temperatures."""

    intensity: Tensor  # (T, N): the divergence of each step, whose sum is the barrier
    variances: Tensor  # (T, N, D), weighted over chains
    correlations: Tensor  # (T, D, D), in the mean over targets
    effective: Tensor  # (T, N)
    log_steps: Tensor  # (T, N): step sizes used, corrected by the acceptance they met


class _Curve(NamedTuple):
    """What a final run saw along the path."""

    acceptance: Tensor  # (N,)
    barrier: Tensor  # (N,)
    thermodynamic: Tensor  # (N,)
    start: Tensor | None  # log-weights of the base without annealing, (C, N), where it is not the prior
    rate: Tensor  # (T + 1,): the sum over targets
    distortion: Tensor  # (T + 1,): the sum over targets


def _intensity(log_weights: Tensor, increment: Tensor) -> Tensor:
    """The divergence of a step: log E g^2 - 2 log E g of its weights g is about the square of its length."""
    normalised = log_weights.log_softmax(0)
    once, twice = ((normalised + power * increment).logsumexp(0) for power in (1, 2))
    return (twice - 2 * once).clamp(min=0).sqrt().nan_to_num(nan=math.inf, posinf=math.inf)


def _mean(log_weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean and variance over chains, each (N,). What has no weight counts nothing, finite or not."""
    w = log_weights.softmax(0)
    mean = torch.where(w > 0, w * values, 0.0).sum(0)
    return mean, torch.where(w > 0, w * (values - mean).square(), 0.0).sum(0)


def _explore(
    engine: Engine, plan: _Plan, chains: int, acceptance: float, tick: Callable[[], None] | None
) -> tuple[Tensor, _Pilot]:
    """A pilot round: step sizes follow the wanted acceptance along the way. Also its log-weights (C, N)."""
    point = engine.start(chains)
    log_w = point.log_density.new_zeros(chains, engine.n, dtype=torch.float64)
    drift = torch.zeros_like(plan.step_sizes[0])
    rows: list[list[Tensor]] = [[], [], [], [], []]
    for t in range(1, len(plan.betas)):
        # A point off the support has weight 0. Tuning needs finite numbers, and the weight of a pilot is not used.
        increment = engine.rise(point, float(plan.betas[t - 1]), float(plan.betas[t]))
        increment = increment.nan_to_num(nan=-OFF, posinf=OFF, neginf=-OFF)
        rows[0].append(_intensity(log_w, increment))
        log_w = log_w + increment
        step_size, metric = plan.tuning(t - 1)
        step_size = step_size * drift.exp()
        point, probability = engine.move(point, float(plan.betas[t]), step_size, metric)
        error = probability.mean(0) - acceptance
        effective = effective_sample_size(log_w)
        # Where few weights count, lean on the chains as they are.
        share = effective / (effective + LEAN)
        leaning = (share * log_w.softmax(0) + (1 - share) / chains).log()
        z = engine.coordinates(point)
        rows[1].append(covariances(z, leaning if engine.n == 1 else log_w))  # many targets lean on one another
        rows[2].append(correlations(z, leaning) if engine.dim <= DENSE else z.new_zeros(0, 0))
        rows[3].append(effective.to(step_size.dtype))
        rows[4].append(step_size.log() + error)
        drift = drift + 0.7 * error
        if tick is not None:
            tick()
    return log_w, _Pilot(*(torch.stack(r) for r in rows))


def _forward(
    engine: Engine, plan: _Plan, chains: int, tick: Callable[[], None] | None = None
) -> tuple[Tensor, Point, _Curve]:
    """Runs chains from the base to the target, with nothing adapted: log-weights (C, N), and their ends."""
    point = engine.start(chains)
    log_w = point.log_density.new_zeros(chains, engine.n, dtype=torch.float64)
    acceptance, barrier, thermodynamic = (torch.zeros_like(log_w[0]) for _ in range(3))
    first = engine.rise(point, 0.0, 1.0)
    distortion, rate = [-_mean(log_w, first)[0].sum()], [log_w.new_zeros(())]
    for t in range(1, len(plan.betas)):
        low, high = float(plan.betas[t - 1]), float(plan.betas[t])
        increment = engine.rise(point, low, high)
        barrier += _intensity(log_w, increment)
        mean, variance = _mean(log_w, increment)
        log_w = log_w + increment
        point, probability = engine.move(point, high, *plan.tuning(t - 1))
        acceptance += probability.mean(0)
        after, variance_after = _mean(log_w, engine.rise(point, low, high))
        thermodynamic += (mean + after) / 2 - (variance_after - variance) / 12
        slope = after / (high - low)
        distortion.append(-slope.sum())
        rate.append((high * slope - log_mean_exp(log_w)[0]).sum())
        if tick is not None:
            tick()
    curve = _Curve(
        (acceptance / (len(plan.betas) - 1)).cpu(),
        barrier.cpu(),
        thermodynamic.cpu(),
        None if engine.from_prior else first.cpu(),
        torch.stack(rate).cpu(),
        torch.stack(distortion).cpu(),
    )
    return log_w, point, curve


def _backward(engine: Hamiltonian, z: Tensor, plan: _Plan) -> Tensor:
    """Runs chains from exact draws of the target, with shape (C, N, D), to the base: log-weights with shape (C, N)."""
    point = engine.place(z)
    log_w = torch.zeros_like(point.log_density, dtype=torch.float64)
    for t in range(len(plan.betas) - 1, 0, -1):
        low, high = float(plan.betas[t - 1]), float(plan.betas[t])
        point, _ = engine.move(point, high, *plan.tuning(t - 1))
        log_w = log_w + engine.rise(point, low, high)
    return log_w


# ----------------------------------------------------------------------------------------------------------------------
# Pilot rounds


class _Tuner:
    """What the pilot rounds learn: a schedule, and for each position in it step sizes and spreads of each target."""

    def __init__(self, engine: Engine, settings: _Options, chains: int, knots: Tensor | None) -> None:
        self.settings = settings
        self.fixed = knots is not None
        self.knots = _first_schedule(settings.schedule) if knots is None else knots
        z = engine.coordinates(engine.start(chains))
        n, dim = z.shape[1:]
        self.positions = torch.tensor([0.0, 1.0], dtype=torch.float64)  # where the two below are known, as betas
        self.log_steps = z.new_full((2, n), -0.25 * math.log(max(dim, 1)))
        # The correlations of targets in the mean, where there are chains enough to know them.
        self.correlated = settings.precondition and 1 < dim <= DENSE and chains * n >= 10 * dim
        self.scales = z.std((0, 1)).expand(2, n, dim) if settings.precondition and dim else torch.ones_like(z[:2])
        self.factors = torch.eye(dim).to(z).expand(2, dim, dim) if self.correlated else None

    def plan(self, temperatures: int) -> _Plan:
        betas = _interpolate(torch.linspace(0, 1, temperatures + 1, dtype=torch.float64), self.knots)
        betas[0], betas[-1] = 0.0, 1.0
        return _Plan(
            betas,
            _at(betas[1:], self.positions, self.log_steps).exp(),
            _at(betas[1:], self.positions, self.scales),
            None if self.factors is None else _at(betas[1:], self.positions, self.factors),
        )

    def learn(self, plan: _Plan, seen: _Pilot) -> None:
        temperatures = len(plan.betas) - 1
        window = temperatures // 8
        self.positions = plan.betas[1:]
        self.log_steps = _smooth(seen.log_steps, window)
        if self.settings.precondition:
            # A few chains know a variance badly: lean on the neighbouring temperatures and on the other targets.
            variances = _smooth(seen.variances, window)
            pooled, effective = variances.mean(1, keepdim=True), seen.effective.unsqueeze(-1)
            self.scales = ((effective * variances + LEAN * pooled) / (effective + LEAN)).sqrt().clamp(min=1e-6)
        else:
            self.scales = torch.ones_like(seen.variances)
        if self.correlated:
            self.factors = cholesky_factors(_smooth(seen.correlations, window), (seen.effective + LEAN).sum(1))
        if self.settings.schedule == "equalised" and not self.fixed:
            length = seen.intensity.square().mean(1).sqrt().cpu()
            length = length + 0.05 * length.mean() + 1e-6  # a step that showed nothing still needs a look
            barrier = torch.cat([length.new_zeros(1), length.cumsum(0)])
            grid = torch.linspace(0, 1, 257, dtype=torch.float64)
            self.knots = _at(grid * barrier[-1], barrier, plan.betas)


def _first_schedule(schedule: str | Tensor | Sequence[float]) -> Tensor:
    u = torch.linspace(0, 1, 1025, dtype=torch.float64)
    if isinstance(schedule, Tensor):
        return schedule
    if schedule == "sigmoid":
        s = torch.sigmoid(8 * u - 4)
        return (s - s[0]) / (s[-1] - s[0])
    return u if schedule == "linear" else u.square()


def _interpolate(u: Tensor, knots: Tensor) -> Tensor:
    return _at(u, torch.linspace(0, 1, len(knots), dtype=torch.float64), knots)


def _at(points: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of values (K, *), known at increasing positions (K,), constant outside of them."""
    right = torch.searchsorted(positions, points).clamp(1, len(positions) - 1)
    left = right - 1
    share = ((points - positions[left]) / (positions[right] - positions[left]).clamp(min=1e-300)).clamp(0, 1)
    share = share.to(values).reshape(-1, *(1 for _ in values.shape[1:]))
    left, right = left.to(values.device), right.to(values.device)
    return values[left] * (1 - share) + values[right] * share


def _smooth(values: Tensor, window: int) -> Tensor:
    """Moving average over the first dimension."""
    total = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
    at = torch.arange(len(values), device=values.device)
    low, high = (at - window).clamp(min=0), (at + window + 1).clamp(max=len(values))
    return (total[high] - total[low]) / (high - low).reshape(-1, *(1 for _ in values.shape[1:]))


# ----------------------------------------------------------------------------------------------------------------------
# Runs


class _Run(NamedTuple):
    """A final run on some rows of the data."""

    rows: slice
    engine: Engine
    plan: _Plan
    log_weights: Tensor  # (C, n) float64
    point: Point


class _Rows:
    """A target per datum of a program: engines for chunks of the data."""

    def __init__(self, program: Program, x: Tensor, context: tuple[Any, ...], settings: _Options) -> None:
        self.program, self.x, self.context, self.settings = program, x, context, settings

    def chunks(self) -> list[slice]:
        probe = density(self.program, self.x[:1], *rows_of(self.x, self.context, slice(1)), per_datum=True)
        if probe.unnormalised:
            raise ValueError(
                f"{type(self.program).__name__} has a factor, so it gives no normalised density of data and latents, "
                "and the integral is no likelihood: leave the factor out, or use anneal(density(program, x)) for it."
            )
        chains = max(self.settings.chains or CHAINS[0], FEWEST)
        return list(row_chunks(len(self.x), max(1, rows_per_chunk(probe.entries, self.x.device) // chains)))

    def engine(self, rows: slice) -> Engine:
        data = (self.x[rows], *rows_of(self.x, self.context, rows))
        return engine_of(density(self.program, *data, per_datum=True), self.settings.start, self.settings.leapfrog)


class _Single:
    """A density or path, all its targets at once."""

    def __init__(self, target: Density | Path, settings: _Options) -> None:
        self.target, self.settings = target, settings

    def chunks(self) -> list[slice]:
        return [slice(None)]

    def engine(self, rows: slice) -> Engine:
        return engine_of(self.target, self.settings.start, self.settings.leapfrog)


class _Collect:
    """Tunes and runs the chains, chunk by chunk of the data; the schedule is that of the first chunk."""

    def __init__(self, source: _Rows | _Single, settings: _Options, progress: Callable[[float], None] | None) -> None:
        self.source, self.settings, self.progress = source, settings, progress
        self.curves: list[_Curve] = []
        self.engines: list[Engine] = []
        self.betas = torch.zeros(0, dtype=torch.float64)

    def __iter__(self) -> Iterator[_Run]:
        chunks = self.source.chunks()
        temperatures, knots = self.settings.temperatures, None
        if isinstance(self.settings.schedule, Tensor):
            temperatures = len(self.settings.schedule) - 1
        for i, chunk in enumerate(chunks):
            engine = self.source.engine(chunk)
            self.engines.append(engine)
            tuner, temperatures = self._pilot(engine, temperatures, knots, i / len(chunks), len(chunks))
            knots = tuner.knots
            plan = tuner.plan(temperatures)
            tick = self._ticker((i + 0.3) / len(chunks), 0.7 / len(chunks) / temperatures, (i + 1) / len(chunks))
            log_w, point, curve = _forward(engine, plan, self.settings.chains_for(engine), tick)
            self.curves.append(curve)
            self.betas = plan.betas
            yield _Run(chunk, engine, plan, log_w, point)

    def _ticker(self, at: float, each: float, until: float) -> Callable[[], None] | None:
        if self.progress is None:
            return None
        report, done = self.progress, [at]

        def tick() -> None:
            done[0] += each
            report(min(done[0], until))

        return tick

    def _pilot(
        self, engine: Engine, temperatures: int | None, knots: Tensor | None, at: float, chunks: int
    ) -> tuple[_Tuner, int]:
        settings = self.settings
        tick = self._ticker(at, 0.3 / chunks / (2 * PILOT - 4), at + 0.3 / chunks)
        chains = min(max(settings.chains_for(engine), FEWEST), MOST)
        tuner = _Tuner(engine, settings, chains, knots)
        size = 4
        while True:
            plan = tuner.plan(size)
            log_w, seen = _explore(engine, plan, chains, settings.target_acceptance, tick)
            tuner.learn(plan, seen)
            # The variance of log w falls like 1 / T. A quantile, since a few data that lost a mode never have enough.
            spread = float(log_w.var(0).quantile(0.75).sqrt())
            needed = int(min(max(size * (spread / SPREAD) ** 2, PILOT), LONGEST))
            if size >= PILOT and (temperatures is not None or needed <= 4 * size):
                break
            size *= 2
        return tuner, needed if temperatures is None else temperatures

    def result(self, log_w: Tensor, method: str, event_dims: float, unit: str = "nats per datum") -> LogLikelihood:
        """The estimates from the weights (C, N) of all targets."""
        value, error = log_mean_exp(log_w)
        n = log_w.shape[1]
        diagnostics = {
            "ess": effective_sample_size(log_w),
            "khat": _khat(log_w),
            **{name: torch.cat([getattr(c, name) for c in self.curves]) for name in _Curve._fields[:3]},
            "betas": self.betas,
            "gradients": torch.tensor(sum(e.gradients * e.n for e in self.engines) / n),
        }
        if all(engine.from_prior for engine in self.engines):
            for name in ("rate", "distortion"):
                diagnostics[name] = torch.stack([getattr(c, name) for c in self.curves]).sum(0) / n
        starts = [c.start for c in self.curves if c.start is not None]
        if starts:
            diagnostics["start_khat"] = _khat(torch.cat(starts, 1))
        return LogLikelihood(
            value,
            error,
            "stochastic lower bound",
            method,
            event_dims,
            lower=log_w.mean(0),
            diagnostics=diagnostics,
            unit=unit,
        )


def _khat(log_w: Tensor) -> Tensor:
    """Of each target where there are chains enough, else of all weights together relative to those of their target."""
    khat = psis_khat(log_w)
    if bool(khat.isnan().all()):
        khat = psis_khat((log_w - log_mean_exp(log_w)[0]).reshape(-1, 1))
    return khat
