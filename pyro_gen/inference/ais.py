r"""Annealed importance sampling, and the sandwich of bidirectional Monte Carlo.

Chains move from a base density to the posterior of their datum through

.. math:: \pi_\beta(z) \propto q_0(z)^{1 - \beta} \, p(x, z)^\beta, \qquad 0 = \beta_0 < \dots < \beta_T = 1 ,

by Hamiltonian Monte Carlo, in unconstrained space. The weights

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \left[ \log p(x, z_{t-1}) - \log q_0(z_{t-1}) \right]

have expectation :math:`\mathbb{E} \, w = p(x)`, exactly, as long as schedule and step sizes are fixed before the chains
start. So they are tuned in pilot rounds, and the weights come from one more run with random numbers of its own.

The base is the prior, or a diagonal Gaussian with the mean and a multiple of the standard deviations of the guide. Each
chain caches both terms of the density and their gradients: at the next temperature they are combined anew. To keep the
combination instead, the density at the *old* temperature, is a known mistake that leaves a biased chain.

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
    | Optimised Annealed Sequential Monte Carlo Samplers (Syed et al., 2024)
    | https://arxiv.org/abs/2408.12057
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import Density, density, evaluation, row_chunks, rows_of, rows_per_chunk
from pyro_gen.inference.importance import (
    effective_sample_size,
    entries_seen,
    guide_draws,
    left_out,
    log_mean_exp,
    psis_khat,
)
from pyro_gen.inference.likelihood import LogLikelihood
from pyro_gen.likelihoods import completions, no_completion
from pyro_gen.program import Program, sample_sites

__all__ = ["ais", "ais_with_gap", "bdmc", "posterior_draws"]

FEWEST = 8  # chains of a pilot round, below which their spread says nothing
PILOT = 32  # temperatures of the last pilot round, unless it shows that more than four times as many are needed
LONGEST = 1000  # temperatures of the longest final run that is chosen automatically
SPREAD = 0.5  # standard deviation of log w that the automatic number of temperatures aims at
OFF = 1e4  # nats that stand for infinitely many in a pilot round
INFLATION = 1.25  # of the guide's standard deviations: a base needs wider tails than its target


@dataclass(frozen=True)
class _Options:
    chains: int = 16
    temperatures: int | None = None
    schedule: str | Tensor | Sequence[float] = "equalised"
    leapfrog: int = 1
    start: str = "guide"
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
        if self.start not in ("prior", "guide"):
            raise ValueError(f'ais(start={self.start!r}): choose "prior" or "guide".')
        if isinstance(self.schedule, str):
            if self.schedule not in ("equalised", "sigmoid", "linear"):
                raise ValueError(
                    f'ais(schedule={self.schedule!r}): choose "equalised", "sigmoid", "linear" or a sequence of betas.'
                )
            return
        betas = torch.as_tensor(self.schedule).detach().to("cpu", torch.float64)
        object.__setattr__(self, "schedule", betas)
        if betas.dim() != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or bool((betas.diff() < 0).any()):
            raise ValueError("ais(schedule=...): betas rise from 0 to 1, in one dimension.")
        if self.temperatures is not None:
            raise ValueError("ais: a schedule of betas fixes the number of temperatures, so leave temperatures out.")


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
            temperature; ``start``, ``"guide"`` or ``"prior"``; ``precondition``, whether coordinates are scaled by the
            standard deviations found in the pilot rounds; ``target_acceptance`` (0.75).

    Returns:
        The logarithms of the mean weights: stochastic lower bounds whose bias vanishes with chains and temperatures;
        ``lower`` is the mean log-weight, the looser bound of one chain. Diagnostics: ``ess``, ``khat`` (per datum from
        21 chains on, else of all weights together, each relative to the mean of its datum), ``acceptance`` and
        ``barrier`` per datum, ``betas``.

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
        collect = _Collect(program, x, context, settings, progress)
        log_w = torch.cat([run.log_weights.cpu() for run in collect], 1)
    return collect.result(log_w, "ais", entries_seen(x))


def bdmc(
    program: Program,
    n: int,
    *,
    context: tuple[Any, ...] = (),
    preset: str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Measures how sharp annealed importance sampling is, on data simulated from the program.

    Arguments:
        program: A program with continuous local latent variables and an ``event_shape``.
        n: The number of data to simulate.
        context: What the model conditions on, each with shape :math:`(n, *)`.
        preset: As in :func:`ais`.
        seed: Seeds data and draws; the caller's generators are left alone.
        progress: As in :func:`ais`.
        options: As in :func:`ais`.

    Returns:
        A sandwich: ``lower`` as by :func:`ais`, ``upper`` with one backward weight in the place of one forward weight,
        and ``value`` half-way. Diagnostics: ``gap``, upper - lower, whose mean bounds the bias of :func:`ais` here;
        ``jeffreys``, backward minus mean forward log-weight, whose mean bounds the Jeffreys divergence between the law
        of a chain's end and the posterior (BREAD, Grosse et al. 2016).

    Raises:
        ValueError: As in :func:`ais`, the program does not know the shape of a datum, or it observes its context.
    """
    return _sandwich(program, n, context, None, seed, progress, _Options.of(preset, **options))


def _sandwich(
    program: Program,
    n: int,
    context: tuple[Any, ...],
    missing: Tensor | None,
    seed: int,
    progress: Callable[[float], None] | None,
    settings: _Options,
) -> LogLikelihood:
    """:func:`bdmc`, with holes in the simulated data where ``missing`` says so.

    The latent variables that made a datum are an exact draw of the posterior given any part of it.
    """
    from pyro_gen.inference.predictive import simulate

    with seeded(seed), torch.no_grad(), evaluation(program):
        x, values, data_dims = simulate(program, n, context)
        _require_simulated(program, torch.full_like(x, math.nan), context)
        if missing is not None:
            x = x.masked_fill(missing, math.nan)
        forward, backward = [], []
        collect = _Collect(program, x, context, settings, progress)
        for run in collect:
            of_rows = {
                name: v.movedim(data_dims[name], 0)[run.rows].movedim(0, data_dims[name]) for name, v in values.items()
            }
            exact = run.target.density.unconstrain({name: v.unsqueeze(0) for name, v in of_rows.items()})
            backward.append(_backward(run.target, exact, run.path).cpu())
            forward.append(run.log_weights.cpu())
    log_w, log_v = torch.cat(forward, 1), torch.cat(backward, 1)
    lower = collect.result(log_w, "bdmc", entries_seen(x))
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
    )


def _require_simulated(program: Program, x: Tensor, context: tuple[Any, ...]) -> None:
    """Refuses a model that observes anything but x: latent variables of the prior are no exact draw given that."""
    with pyro.poutine.trace() as tape, completions() as seen, no_completion(), pyro.validation_enabled(False):
        program.model(x[:1], *rows_of(x, context, slice(1)))
    for name, site in sample_sites(tape.trace).items():
        observed = site["is_observed"] and not site["infer"].get("_deterministic")
        if observed and not bool(torch.isnan(seen.get(name, site["value"])).all()):
            raise ValueError(
                f"The model of {type(program).__name__} observes '{name}', which is given and not simulated, so the "
                'simulated latent variables are no exact draws of the posterior: use method="ais", without a sandwich.'
            )


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
    share = n / (n + len(x))
    scaled = [
        None if progress is None else lambda f, a=a, b=b: progress(a + (b - a) * f)
        for a, b in ((0.0, 1 - share), (1 - share, 1.0))
    ]
    result = ais(program, x, *context, seed=seed, progress=scaled[0], **options)
    known = program.event_shape
    program.event_shape = torch.Size(x.shape[1:])
    try:
        few = rows_of(x, context, slice(n))
        settings = _Options.of(**{"preset": None, **options})
        gap = _sandwich(program, n, few, torch.isnan(x[:n]), seed + 1, scaled[1], settings)
    finally:
        program.event_shape = known
    extra = {name: gap.diagnostics[name] for name in ("gap", "jeffreys")}
    return LogLikelihood(
        result.value,
        result.standard_error,
        result.kind,
        "bdmc",
        result.event_dims,
        lower=result.lower,
        diagnostics={**result.diagnostics, **extra},
    )


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
    for run in _Collect(program, x, context, settings, None):
        index = resample(run.log_weights, draws)
        state = _State(*(_gather(t, index) for t in run.state))
        for _ in range(moves):
            state, _ = _hmc(run.target, state, 1.0, run.path.step_sizes[-1], run.path.scales[-1], run.path.leapfrog)
        yield run.rows, run.target.density.constrain(state.z)


def resample(log_weights: Tensor, draws: int) -> Tensor:
    """Systematic resampling: (K, N) log-weights -> (draws, N) indices, in random order."""
    cumulative = log_weights.softmax(0).cumsum(0).T.contiguous()
    n = len(cumulative)
    device = log_weights.device
    points = (torch.arange(draws, device=device) + torch.rand(n, 1, dtype=torch.float64, device=device)) / draws
    index = torch.searchsorted(cumulative, points).clamp(max=len(log_weights) - 1)
    shuffle = torch.rand(n, draws, device=device).argsort(1)
    return index.gather(1, shuffle).T


def _gather(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor[index, torch.arange(index.shape[1], device=index.device)]


# ----------------------------------------------------------------------------------------------------------------------
# The target and its chains


class _State(NamedTuple):
    """Chains: positions (C, N, D), and what is known there. log pi_beta = base + beta * slope at any beta."""

    z: Tensor
    base: Tensor
    slope: Tensor
    grad_base: Tensor
    grad_slope: Tensor


class _Target:
    """The path of densities between the base and the joint density of latents and data."""

    def __init__(self, target: Density, base: tuple[Tensor, Tensor] | None) -> None:
        self.density = target
        self.base = base  # mean and standard deviation (N, D) of a Gaussian base; None for the prior

    def at(self, z: Tensor) -> _State:
        prior, likelihood, grad_prior, grad_likelihood = self.density.value_and_grad(z)
        if self.base is None:
            return _State(z, prior, likelihood, grad_prior, grad_likelihood)
        loc, scale = self.base
        u = (z - loc) / scale
        q = -0.5 * u.square().sum(-1) - (scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        grad_q = -u / scale
        return _State(z, q, prior + likelihood - q, grad_q, grad_prior + grad_likelihood - grad_q)

    def start(self, chains: int) -> _State:
        if self.base is None:
            return self.at(self.density.sample_prior(chains))
        loc, scale = self.base
        return self.at(loc + scale * torch.randn(chains, *loc.shape, dtype=loc.dtype, device=loc.device))


@dataclass(frozen=True)
class _Path:
    """All that is fixed before a run.

    Move t = 1, ..., T is at inverse temperature betas[t], with step_sizes[t - 1] and scales[t - 1].
    """

    betas: Tensor  # (T + 1,) float64
    step_sizes: Tensor  # (T, N)
    scales: Tensor  # (T, N, D)
    leapfrog: int


# One leapfrog step is the default by measurement. Mean error of a log-weight in nats for PPCA (20 dimensions, rank 4)
# at equal cost, 480 gradients from the prior | 48 from the guide: L = 1: 0.11 | 0.02; L = 2: 0.25 | 0.10 (steps not
# jittered: 1.68 | 0.21); L = 4: 0.55 | 0.12.


def _hmc(
    target: _Target, state: _State, beta: float, step_size: Tensor, scale: Tensor, leapfrog: int
) -> tuple[_State, Tensor]:
    """One move of Hamiltonian Monte Carlo that leaves pi_beta invariant; also the acceptance probabilities (C, N)."""
    if leapfrog > 1:
        # Equal trajectories resonate: on a Gaussian, two steps at this acceptance come out near -z, and nothing mixes.
        step_size = step_size * (0.5 + 0.5 * torch.rand_like(step_size))
    step = step_size.unsqueeze(-1) * scale
    p = torch.randn_like(state.z)
    start = state.base + beta * state.slope - 0.5 * p.square().sum(-1)
    new = state
    p = p + 0.5 * step * (new.grad_base + beta * new.grad_slope)
    for i in range(leapfrog):
        new = target.at(new.z + step * p)
        p = p + (step if i < leapfrog - 1 else 0.5 * step) * (new.grad_base + beta * new.grad_slope)
    end = new.base + beta * new.slope - 0.5 * p.square().sum(-1)
    probability = (end - start).exp().clamp(max=1.0).nan_to_num(0.0)  # off the support, or overflow: stay
    accepted = torch.rand_like(probability) < probability
    kept = _State(
        *(
            torch.where(accepted.unsqueeze(-1) if a.dim() == 3 else accepted, b, a)
            for a, b in zip(state, new, strict=True)
        )
    )
    return kept, probability


class _Record(NamedTuple):
    """What a run saw at its temperatures."""

    acceptance: Tensor  # (T, N)
    intensity: Tensor  # (T, N): the divergence of each step, whose sum is the barrier
    variances: Tensor | None  # (T, N, D), weighted over chains
    effective: Tensor  # (T, N)
    log_steps: Tensor  # (T, N): step sizes used, corrected by the acceptance they met


def _forward(
    target: _Target,
    state: _State,
    path: _Path,
    adapt: float | None = None,
    tick: Callable[[], None] | None = None,
) -> tuple[Tensor, _State, _Record]:
    """Runs chains from the base to the target.

    With ``adapt``, an acceptance probability, step sizes follow it along the way: for pilot rounds only.
    """
    log_w = torch.zeros_like(state.base, dtype=torch.float64)
    drift = torch.zeros_like(path.step_sizes[0])
    rows: list[list[Tensor]] = [[], [], [], [], []]
    for t in range(1, len(path.betas)):
        increment = float(path.betas[t] - path.betas[t - 1]) * state.slope.double()
        if adapt is not None:
            # A point off the support has weight 0. Tuning needs finite numbers, and the weight of a pilot is not used.
            increment = increment.nan_to_num(nan=-OFF, posinf=OFF, neginf=-OFF)
        before = log_w.log_softmax(0)
        log_w = log_w + increment
        # log E g^2 - 2 log E g of the increment g: about the squared length of the step.
        once, twice = ((before + power * increment).logsumexp(0) for power in (1, 2))
        step = path.step_sizes[t - 1] * drift.exp()
        state, probability = _hmc(target, state, float(path.betas[t]), step, path.scales[t - 1], path.leapfrog)
        acceptance = probability.mean(0)
        rows[0].append(acceptance)
        rows[1].append((twice - 2 * once).clamp(min=0).sqrt().nan_to_num(nan=math.inf, posinf=math.inf))
        if adapt is not None:
            w = log_w.softmax(0).to(state.z.dtype).unsqueeze(-1)
            mean = (w * state.z).sum(0)
            rows[2].append((w * (state.z - mean).square()).sum(0))
            rows[3].append(effective_sample_size(log_w).to(state.z.dtype))
            rows[4].append(step.log() + (acceptance - adapt))
            drift = drift + 0.7 * (acceptance - adapt)
        if tick is not None:
            tick()
    stacked = [torch.stack(r) if r else None for r in rows]
    return log_w, state, _Record(*stacked)  # type: ignore[arg-type]


def _backward(target: _Target, z: Tensor, path: _Path) -> Tensor:
    """Runs chains from exact draws of the target, with shape (C, N, D), to the base: log-weights with shape (C, N)."""
    state = target.at(z)
    log_w = torch.zeros_like(state.base, dtype=torch.float64)
    for t in range(len(path.betas) - 1, 0, -1):
        state, _ = _hmc(target, state, float(path.betas[t]), path.step_sizes[t - 1], path.scales[t - 1], path.leapfrog)
        log_w = log_w + float(path.betas[t] - path.betas[t - 1]) * state.slope.double()
    return log_w


# ----------------------------------------------------------------------------------------------------------------------
# Pilot rounds


class _Tuner:
    """What the pilot rounds learn: a schedule, and for each position in it step sizes and scales of each datum."""

    def __init__(self, target: _Target, settings: _Options, state: _State, knots: Tensor | None) -> None:
        self.target, self.settings = target, settings
        self.fixed = knots is not None
        self.knots = _first_schedule(settings.schedule) if knots is None else knots
        n, dim = state.z.shape[1:]
        self.positions = torch.tensor([0.0, 1.0], dtype=torch.float64)  # where the two below are known, as betas
        self.log_steps = state.z.new_full((2, n), -0.25 * math.log(dim))
        spread = state.z.std((0, 1)) if target.base is None else target.base[1]
        self.scales = spread.expand(2, n, dim) if settings.precondition else torch.ones_like(state.z[:2])

    def path(self, temperatures: int) -> _Path:
        betas = _interpolate(torch.linspace(0, 1, temperatures + 1, dtype=torch.float64), self.knots)
        betas[0], betas[-1] = 0.0, 1.0
        return _Path(
            betas,
            _at(betas[1:], self.positions, self.log_steps).exp(),
            _at(betas[1:], self.positions, self.scales),
            self.settings.leapfrog,
        )

    def learn(self, path: _Path, record: _Record) -> None:
        temperatures = len(path.betas) - 1
        window = temperatures // 8
        self.positions = path.betas[1:]
        self.log_steps = _smooth(record.log_steps, window)
        self.scales = torch.ones_like(record.log_steps).unsqueeze(-1).expand(-1, -1, self.scales.shape[-1])
        if self.settings.precondition and record.variances is not None:
            # A few chains know a variance badly: lean on the neighbouring temperatures and on the other data.
            variances = _smooth(record.variances, window)
            pooled = variances.mean(1, keepdim=True)
            effective = record.effective.unsqueeze(-1)
            self.scales = ((effective * variances + 5 * pooled) / (effective + 5)).sqrt().clamp(min=1e-6)
        if self.settings.schedule == "equalised" and not self.fixed:
            length = record.intensity.square().mean(1).sqrt().cpu()
            length = length + 0.05 * length.mean() + 1e-6  # a step that showed nothing still needs a look
            barrier = torch.cat([length.new_zeros(1), length.cumsum(0)])
            grid = torch.linspace(0, 1, 257, dtype=torch.float64)
            self.knots = _at(grid * barrier[-1], barrier, path.betas)


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
    target: _Target
    path: _Path
    log_weights: Tensor  # (C, n) float64
    state: _State


class _Collect:
    """Tunes and runs the chains, chunk by chunk of the data; the schedule is that of the first chunk."""

    def __init__(
        self,
        program: Program,
        x: Tensor,
        context: tuple[Any, ...],
        settings: _Options,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.program, self.x, self.context, self.settings, self.progress = program, x, context, settings, progress
        self.acceptance: list[Tensor] = []
        self.barrier: list[Tensor] = []
        self.betas = torch.zeros(0, dtype=torch.float64)

    def __iter__(self) -> Iterator[_Run]:
        probe = density(self.program, self.x[:1], *rows_of(self.x, self.context, slice(1)))
        rows = max(1, rows_per_chunk(probe.entries, self.x.device) // max(self.settings.chains, FEWEST))
        chunks = list(row_chunks(len(self.x), rows))
        temperatures, knots = self.settings.temperatures, None
        if isinstance(self.settings.schedule, Tensor):
            temperatures = len(self.settings.schedule) - 1
        for i, chunk in enumerate(chunks):
            target = self._target(chunk)
            tuner, temperatures = self._pilot(target, temperatures, knots, i / len(chunks), len(chunks))
            knots = tuner.knots
            path = tuner.path(temperatures)
            tick = self._ticker((i + 0.3) / len(chunks), 0.7 / len(chunks) / temperatures, (i + 1) / len(chunks))
            log_w, state, record = _forward(target, target.start(self.settings.chains), path, tick=tick)
            self.acceptance.append(record.acceptance.mean(0).cpu())
            self.barrier.append(record.intensity.sum(0).cpu())
            self.betas = path.betas
            yield _Run(chunk, target, path, log_w, state)

    def _ticker(self, at: float, each: float, until: float) -> Callable[[], None] | None:
        if self.progress is None:
            return None
        report, done = self.progress, [at]

        def tick() -> None:
            done[0] += each
            report(min(done[0], until))

        return tick

    def _target(self, rows: slice) -> _Target:
        data = (self.x[rows], *rows_of(self.x, self.context, rows))
        target = density(self.program, *data)
        if self.settings.start == "prior":
            return _Target(target, None)
        # The guide may take fewer rows at a time than the chains do.
        parts = list(guide_draws(self.program, *data, num_particles=64))
        z = target.unconstrain(
            {n: torch.cat([p.values[n] for p in parts], dim + 1) for n, dim in parts[0].data_dims.items()}
        )
        if bool((z == z[:1]).all(0).any()):
            raise ValueError('All draws of the guide are one point, which is no base to start from: use start="prior".')
        loc, scale = z.mean(0), INFLATION * z.std(0).clamp(min=1e-6)
        if not bool((loc.isfinite() & scale.isfinite()).all()):
            raise ValueError('The guide has draws that are not finite: use ais(start="prior"), or train it again.')
        return _Target(target, (loc, scale))

    def _pilot(
        self, target: _Target, temperatures: int | None, knots: Tensor | None, at: float, chunks: int
    ) -> tuple[_Tuner, int]:
        settings = self.settings
        tick = self._ticker(at, 0.3 / chunks / (2 * PILOT - 4), at + 0.3 / chunks)
        size = 4
        tuner: _Tuner | None = None
        while True:
            state = target.start(max(settings.chains, FEWEST))
            tuner = tuner or _Tuner(target, settings, state, knots)
            path = tuner.path(size)
            log_w, _, record = _forward(target, state, path, settings.target_acceptance, tick)
            tuner.learn(path, record)
            # The variance of log w falls like 1 / T. A quantile, since a few data that lost a mode never have enough.
            spread = float(log_w.var(0).quantile(0.75).sqrt())
            needed = int(min(max(size * (spread / SPREAD) ** 2, PILOT), LONGEST))
            if size >= PILOT and (temperatures is not None or needed <= 4 * size):
                break
            size *= 2
        return tuner, needed if temperatures is None else temperatures

    def result(self, log_w: Tensor, method: str, event_dims: float) -> LogLikelihood:
        """The estimates from the weights (C, N) of all rows."""
        value, error = log_mean_exp(log_w)
        khat = psis_khat(log_w)
        if bool(khat.isnan().all()):
            khat = psis_khat((log_w - value).reshape(-1, 1))
        diagnostics = {
            "ess": effective_sample_size(log_w),
            "khat": khat,
            "acceptance": torch.cat(self.acceptance),
            "barrier": torch.cat(self.barrier),
            "betas": self.betas,
        }
        return LogLikelihood(
            value, error, "stochastic lower bound", method, event_dims, lower=log_w.mean(0), diagnostics=diagnostics
        )
