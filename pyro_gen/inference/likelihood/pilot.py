"""Pilot rounds: what tunes the schedule, the step sizes and the metrics of annealing."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.inference.likelihood.bases import DENSE
from pyro_gen.inference.likelihood.particles import cholesky_factors, correlations, covariances
from pyro_gen.inference.likelihood.paths import Engine
from pyro_gen.inference.likelihood.schedules import Options, Plan, intensity
from pyro_gen.inference.likelihood.weights import effective_sample_size

__all__ = ["MAX_PILOT_CHAINS", "MIN_PILOT_CHAINS", "NATS_OFF_SUPPORT", "Tuner", "explore"]

MIN_PILOT_CHAINS = 8  # chains of a pilot round, below which their spread says nothing
MAX_PILOT_CHAINS = 256  # chains of a pilot round, above which they say no more
NATS_OFF_SUPPORT = 1e4  # nats that stand for infinitely many in a pilot round
POOLED_DRAWS = 5  # effective draws that what a variance leans on counts as much as


class Pilot(NamedTuple):
    """What a pilot round saw at its temperatures."""

    intensity: Tensor  # (T, N): the divergence of each step, whose sum is the barrier
    variances: Tensor  # (T, N, D), weighted over chains
    correlations: Tensor  # (T, D, D), in the mean over targets
    effective: Tensor  # (T, N)
    log_steps: Tensor  # (T, N): step sizes used, corrected by the acceptance they met


def explore(
    engine: Engine, plan: Plan, chains: int, acceptance: float, tick: Callable[[], None] | None
) -> tuple[Tensor, Pilot]:
    """A pilot round: step sizes follow the wanted acceptance along the way. Also its log-weights (C, N)."""
    point = engine.start(chains)
    log_w = point.log_density.new_zeros(chains, engine.n, dtype=torch.float64)
    drift = torch.zeros_like(plan.step_sizes[0])
    rows: list[list[Tensor]] = [[], [], [], [], []]
    for t in range(1, len(plan.betas)):
        # A point off the support has weight 0. Tuning needs finite numbers, and the weight of a pilot is not used.
        increment = engine.rise(point, float(plan.betas[t - 1]), float(plan.betas[t]))
        increment = increment.nan_to_num(nan=-NATS_OFF_SUPPORT, posinf=NATS_OFF_SUPPORT, neginf=-NATS_OFF_SUPPORT)
        rows[0].append(intensity(log_w, increment))
        log_w = log_w + increment
        step_size, metric = plan.tuning(t - 1)
        step_size = step_size * drift.exp()
        engine.learn(point, float(plan.betas[t]))
        point, probability = engine.move(point, float(plan.betas[t]), step_size, metric)
        error = probability.mean(0) - acceptance
        effective = effective_sample_size(log_w)
        # Where few weights count, lean on the chains as they are.
        share = effective / (effective + POOLED_DRAWS)
        leaning = (share * log_w.softmax(0) + (1 - share) / chains).log()
        z = engine.coordinates(point)
        rows[1].append(covariances(z, leaning if engine.n == 1 else log_w))  # many targets lean on one another
        rows[2].append(correlations(z, leaning) if engine.dim <= DENSE else z.new_zeros(0, 0))
        rows[3].append(effective.to(step_size.dtype))
        rows[4].append(step_size.log() + error)
        drift = drift + 0.7 * error
        if tick is not None:
            tick()
    return log_w, Pilot(*(torch.stack(r) for r in rows))


class Tuner:
    """What the pilot rounds learn: a schedule, and for each position in it step sizes and spreads of each target."""

    def __init__(self, engine: Engine, settings: Options, chains: int, knots: Tensor | None) -> None:
        self.settings = settings
        self.fixed = knots is not None
        self.knots = first_schedule(settings.schedule) if knots is None else knots
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

    def learn(self, plan: Plan, seen: Pilot) -> None:
        temperatures = len(plan.betas) - 1
        window = temperatures // 8
        self.positions = plan.betas[1:]
        self.log_steps = _smooth(seen.log_steps, window)
        if self.settings.precondition:
            # A few chains know a variance badly: lean on the neighbouring temperatures and on the other targets.
            variances = _smooth(seen.variances, window)
            pooled, effective = variances.mean(1, keepdim=True), seen.effective.unsqueeze(-1)
            self.scales = (
                ((effective * variances + POOLED_DRAWS * pooled) / (effective + POOLED_DRAWS)).sqrt().clamp(min=1e-6)
            )
        else:
            self.scales = torch.ones_like(seen.variances)
        if self.correlated:
            self.factors = cholesky_factors(_smooth(seen.correlations, window), (seen.effective + POOLED_DRAWS).sum(1))
        if self.settings.schedule == "equalised" and not self.fixed:
            length = seen.intensity.square().mean(1).sqrt().cpu()
            length = length + 0.05 * length.mean() + 1e-6  # a step that showed nothing still needs a look
            barrier = torch.cat([length.new_zeros(1), length.cumsum(0)])
            grid = torch.linspace(0, 1, 257, dtype=torch.float64)
            self.knots = _at(grid * barrier[-1], barrier, plan.betas)


def first_schedule(schedule: str | Tensor | Sequence[float]) -> Tensor:
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
