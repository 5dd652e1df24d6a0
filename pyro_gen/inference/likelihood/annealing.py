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

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen.density import Density, density, row_chunks, rows_of, rows_per_chunk
from pyro_gen.inference.likelihood.paths import Engine, OfDensity, Path
from pyro_gen.inference.likelihood.pilot import MAX_PILOT_CHAINS, MIN_PILOT_CHAINS, NATS_OFF_SUPPORT, Tuner, explore
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.schedules import CHAINS, Options, Plan, intensity
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis_khat
from pyro_gen.inference.mcmc.hmc import Point
from pyro_gen.program import Program

__all__ = ["Rows", "Run", "Runs", "Single", "backward", "descend"]

PILOT_TEMPERATURES = 32  # of the last pilot round, unless it shows that more than four times as many are needed
MAX_TEMPERATURES = 1000  # of the longest final run that is chosen automatically


class _Curve(NamedTuple):
    """What a final run saw along the path."""

    acceptance: Tensor  # (N,)
    barrier: Tensor  # (N,)
    thermodynamic: Tensor  # (N,)
    start: Tensor | None  # log-weights of the base without annealing, (C, N), where it is not the prior
    rate: Tensor  # (T + 1,): the sum over targets
    distortion: Tensor  # (T + 1,): the sum over targets


def _mean(log_weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean and variance over chains, each (N,). What has no weight counts nothing, finite or not."""
    w = log_weights.softmax(0)
    mean = torch.where(w > 0, w * values, 0.0).sum(0)
    return mean, torch.where(w > 0, w * (values - mean).square(), 0.0).sum(0)


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
        barrier += intensity(log_w, increment)
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


def backward(engine: OfDensity, z: Tensor, plan: Plan) -> Tensor:
    """Runs chains from exact draws of the target, with shape (C, N, D), to the base: log-weights with shape (C, N)."""
    return descend(engine, engine.place(z), plan)


def descend(engine: Engine, point: Point, plan: Plan) -> Tensor:
    """Runs chains that stand at draws of the target to the base: log-weights with shape (C, N)."""
    log_w = torch.zeros_like(point.log_density, dtype=torch.float64)
    for t in range(len(plan.betas) - 1, 0, -1):
        low, high = float(plan.betas[t - 1]), float(plan.betas[t])
        point, _ = engine.move(point, high, *plan.tuning(t - 1))
        log_w = log_w + engine.rise(point, low, high)
    return log_w


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
        if probe.unnormalised and not probe.latent_missing.every:
            raise ValueError(
                f"{type(self.program).__name__} has a factor, so it gives no normalised density of data and latents, "
                "and the integral is no likelihood: leave the factor out, or use anneal(density(program, x)) for it."
            )
        chains = max(self.settings.chains or CHAINS[0], MIN_PILOT_CHAINS)
        return list(row_chunks(len(self.x), max(1, rows_per_chunk(probe.entries, self.x.device) // chains)))

    def engine(self, rows: slice) -> Engine:
        data = (self.x[rows], *rows_of(self.x, self.context, rows))
        return self.settings.engine(density(self.program, *data, per_datum=True))


class Single:
    """A density or path, all its targets at once."""

    def __init__(self, target: Density | Path, settings: Options) -> None:
        self.target, self.settings = target, settings

    def chunks(self) -> list[slice]:
        return [slice(None)]

    def engine(self, rows: slice) -> Engine:
        return self.settings.engine(self.target)


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
    ) -> tuple[Tuner, int]:
        settings = self.settings
        tick = self._ticker(at, 0.3 / chunks / (2 * PILOT_TEMPERATURES - 4), at + 0.3 / chunks)
        chains = min(max(settings.chains_for(engine), MIN_PILOT_CHAINS), MAX_PILOT_CHAINS)
        tuner = Tuner(engine, settings, chains, knots)
        size = 4
        while True:
            plan = tuner.plan(size)
            log_w, seen = explore(engine, plan, chains, settings.target_acceptance, tick)
            tuner.learn(plan, seen)
            # The variance of log w falls like 1 / T. A quantile, since a few data that lost a mode never have enough.
            spread = float(log_w.var(0).quantile(0.75).sqrt())
            wanted = size * (spread / self.settings.spread) ** 2
            needed = int(min(max(wanted, PILOT_TEMPERATURES), MAX_TEMPERATURES))
            if size >= PILOT_TEMPERATURES and (temperatures is not None or needed <= 4 * size):
                break
            size *= 2
        off = float(log_w.amin()) < -NATS_OFF_SUPPORT  # these count infinitely at any temperature
        if temperatures is None and wanted > MAX_TEMPERATURES and not off:
            self._say_capped(wanted)
        return tuner, needed if temperatures is None else temperatures

    def _say_capped(self, wanted: float) -> None:
        warn(
            f"ais: log-weights that spread by {self.settings.spread:g} nats would take about {wanted:.2g} "
            f"temperatures, and {MAX_TEMPERATURES} are taken, with which they spread by about "
            f"{self.settings.spread * (wanted / MAX_TEMPERATURES) ** 0.5:.2g}: give temperatures= to take more, or a "
            "greater spread=."
        )

    def result(self, log_w: Tensor, method: str, event_dims: float, unit: str = "nats per datum") -> LogLikelihood:
        """The estimates from the weights (C, N) of all targets."""
        value, error = log_mean_exp(log_w)
        n = log_w.shape[1]
        diagnostics = {
            "ess": effective_sample_size(log_w),
            "spread": log_w.std(0) if len(log_w) > 1 else torch.full_like(value, torch.nan),
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
