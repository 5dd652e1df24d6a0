r"""Chains along a path from a base to a target: the pilot rounds that tune them, and the run that is weighed.

What annealed importance sampling does, see :mod:`pyro_gen.inference.likelihood.ais`, for all who ask for it. Weights
have the right expectation as long as schedule and step sizes are fixed before the chains start. So they are tuned in
pilot rounds, and the weights come from one more run with random numbers of its own.

The pilot rounds double the number of temperatures, and place them so that every step adds the same divergence: the
length of the path, or barrier, :math:`\Lambda`, is measured by :math:`\log \mathbb{E} g^2 - 2 \log \mathbb{E} g` of
the weights :math:`g` of each step, and :math:`\operatorname{sd}(\log w) \approx \Lambda / \sqrt{T}`.

Two more estimates fall out of a run. Thermodynamic integration,
:math:`\log p(x) = \int_0^1 \mathbb{E}_\beta \, s(z) \, d\beta` with the slope :math:`s = \log p(x, z) - \log q_0(z)`,
by the trapezoidal rule and its correction of the second order. And from the prior, the rate-distortion curve: at each
:math:`\beta` the codes with the distortion :math:`D = -\mathbb{E}_\beta \log p(x | z)` cost the rate
:math:`R = \mathrm{KL}(\pi_\beta \| p(z)) = -\beta D - \log Z_\beta`.

References:
    | Evaluating Lossy Compression Rates of Deep Generative Models (Huang et al., 2020)
    | https://arxiv.org/abs/2008.06653
    | Improving power posterior estimation of statistical evidence (Friel et al., 2014)
    | https://arxiv.org/abs/1209.3198
    | Optimised Annealed Sequential Monte Carlo Samplers (Syed et al., 2024)
    | https://arxiv.org/abs/2408.12057
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen.density import Density, density, row_chunks, rows_of, rows_per_chunk
from pyro_gen.inference.likelihood.particles import Correlated, cholesky_factors, correlations, covariances
from pyro_gen.inference.likelihood.paths import DENSE, Engine, Hamiltonian, Path, engine_of
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis_khat
from pyro_gen.inference.mcmc.hmc import Metric, Point
from pyro_gen.program import Program

__all__ = ["CHAINS", "Options", "Plan", "Rows", "Run", "Runs", "Single", "backward"]

FEWEST = 8  # chains of a pilot round, below which their spread says nothing
MOST = 256  # chains of a pilot round, above which they say no more
PILOT = 32  # temperatures of the last pilot round, unless it shows that more than four times as many are needed
LONGEST = 1000  # temperatures of the longest final run that is chosen automatically
SPREAD = 0.5  # standard deviation of log w that the automatic number of temperatures aims at
OFF = 1e4  # nats that stand for infinitely many in a pilot round
LEAN = 5  # effective draws that what a variance leans on counts as much as
CHAINS = (16, 1024)  # of each target of many, and of a single one


@dataclass(frozen=True)
class Options:
    """The options of :func:`pyro_gen.inference.likelihood.ais.ais`, checked; their meaning stands there.

    One leapfrog step is the default by measurement. Mean error of a log-weight in nats for PPCA (20 dimensions, rank 4)
    at equal cost, 480 gradients from the prior | 48 from the guide: L = 1: 0.11 | 0.02; L = 2: 0.25 | 0.10 (steps not
    jittered: 1.68 | 0.21); L = 4: 0.55 | 0.12.
    """

    chains: int | None = None
    temperatures: int | None = None
    schedule: str | Tensor | Sequence[float] = "equalised"
    leapfrog: int = 1
    start: str | Distribution = "guide"
    precondition: bool = True
    target_acceptance: float = 0.75

    @staticmethod
    def of(preset: str | None, **options: Any) -> "Options":
        """The options of a preset, and those given besides it, which take precedence."""
        if preset == "wu2017":
            fixed = {"chains": 16, "temperatures": 10_000, "schedule": "sigmoid", "leapfrog": 10, "start": "prior"}
            options = {**fixed, "precondition": False, "target_acceptance": 0.65, **options}
        elif preset is not None:
            raise ValueError(f'ais(preset={preset!r}): the only preset is "wu2017".')
        if unknown := [name for name in options if name not in Options.__dataclass_fields__]:
            raise ValueError(
                f"ais has no option {unknown[0]!r}: choose from {', '.join(Options.__dataclass_fields__)}."
            )
        return Options(**options)

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
        """The number of chains of each target."""
        return self.chains or CHAINS[engine.n == 1 and not engine.batch_shape]


# ----------------------------------------------------------------------------------------------------------------------
# Chains along a path


@dataclass(frozen=True)
class Plan:
    """All that is fixed before a run.

    Move t = 1, ..., T is at inverse temperature betas[t], with step_sizes[t - 1] and metrics(t - 1).
    """

    betas: Tensor  # (T + 1,) float64
    step_sizes: Tensor  # (T, N)
    scales: Tensor  # standard deviations of the coordinates, (T, N, D)
    factors: Tensor | None  # Cholesky factors of the correlations that all targets share, (T, D, D)

    def tuning(self, t: int) -> tuple[Tensor, Metric]:
        """Step sizes and metric of move t + 1."""
        if self.factors is None:
            return self.step_sizes[t], Metric.diagonal(self.scales[t])
        return self.step_sizes[t], Correlated(self.scales[t], self.factors[t])


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
    engine: Engine, plan: Plan, chains: int, acceptance: float, tick: Callable[[], None] | None
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
    engine: Engine, plan: Plan, chains: int, tick: Callable[[], None] | None = None
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


def backward(engine: Hamiltonian, z: Tensor, plan: Plan) -> Tensor:
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

    def __init__(self, engine: Engine, settings: Options, chains: int, knots: Tensor | None) -> None:
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

    def plan(self, temperatures: int) -> Plan:
        betas = _interpolate(torch.linspace(0, 1, temperatures + 1, dtype=torch.float64), self.knots)
        betas[0], betas[-1] = 0.0, 1.0
        return Plan(
            betas,
            _at(betas[1:], self.positions, self.log_steps).exp(),
            _at(betas[1:], self.positions, self.scales),
            None if self.factors is None else _at(betas[1:], self.positions, self.factors),
        )

    def learn(self, plan: Plan, seen: _Pilot) -> None:
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


class Run(NamedTuple):
    """A final run on some rows of the data."""

    rows: slice
    engine: Engine
    plan: Plan
    log_weights: Tensor  # (C, n) float64
    point: Point


class Rows:
    """A target per datum of a program: engines for chunks of the data."""

    def __init__(self, program: Program, x: Tensor, context: tuple[Any, ...], settings: Options) -> None:
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


class Single:
    """A density or path, all its targets at once."""

    def __init__(self, target: Density | Path, settings: Options) -> None:
        self.target, self.settings = target, settings

    def chunks(self) -> list[slice]:
        return [slice(None)]

    def engine(self, rows: slice) -> Engine:
        return engine_of(self.target, self.settings.start, self.settings.leapfrog)


class Runs:
    """Tunes and runs the chains, chunk by chunk of the data; the schedule is that of the first chunk."""

    def __init__(self, source: Rows | Single, settings: Options, progress: Callable[[float], None] | None) -> None:
        self.source, self.settings, self.progress = source, settings, progress
        self.curves: list[_Curve] = []
        self.engines: list[Engine] = []
        self.betas = torch.zeros(0, dtype=torch.float64)

    def __iter__(self) -> Iterator[Run]:
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
            yield Run(chunk, engine, plan, log_w, point)

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
