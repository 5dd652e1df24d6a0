r"""Adaptive tempered sequential Monte Carlo with waste-free moves.

Particles follow the path :math:`f_\beta` from a base to the posterior (:mod:`pyro_gen.inference.likelihood.paths`). At
each step they are weighted by :math:`g = f_{\beta'} / f_\beta`, M of N are drawn by systematic resampling, and each of
these makes :math:`N / M - 1` moves that leave :math:`f_{\beta'}` invariant. *All* states on the way are the new
particles, not the last ones alone: the moves are not wasted, and M chains that are few and long forget where they came
from. The product of the mean weights,

.. math:: \hat Z = \prod_t \frac{1}{N} \sum_{i=1}^N g_t(z_{t-1}^i) ,

is an unbiased estimate of the evidence for fixed temperatures and moves.

The first run adapts: the next :math:`\beta` is where the effective sample size of the weights falls to half, found by
bisection; step sizes follow the acceptance, and the metric is the covariance of the weighted particles. It has a
quarter of the islands, and what it chose is then fixed for a second run with random numbers of its own, so that
:math:`\mathbb{E} \hat Z = Z` exactly. (``frozen=False`` adapts in the only run: a fifth less work, and a bias of order
1 / N.)

Particles live on islands that do not meet: I independent estimates, whose mean is the estimate, whose spread gives its
standard error, and whose weights the draws carry.

References:
    | Waste-free sequential Monte Carlo (Dau & Chopin, 2022)
    | https://arxiv.org/abs/2011.02328
    | Sequential Monte Carlo samplers (Del Moral et al., 2006)
    | https://doi.org/10.1111/j.1467-9868.2006.00553.x
    | Toward automatic model comparison: an adaptive sequential Monte Carlo approach (Zhou et al., 2016)
    | https://arxiv.org/abs/1303.3123
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_gen._errors import refuse_unknown
from pyro_gen._random import seeded
from pyro_gen.density import Density, ProgramDensity, density, evaluation, row_chunks, rows_of, rows_per_chunk
from pyro_gen.density.support import obstacle
from pyro_gen.inference.likelihood.bases import DENSE
from pyro_gen.inference.likelihood.kernels import engine_of
from pyro_gen.inference.likelihood.particles import cholesky_factors, covariances, resample
from pyro_gen.inference.likelihood.paths import Engine, Particles, Path, as_target, unit_of
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp
from pyro_gen.inference.mcmc import Kernel
from pyro_gen.inference.mcmc.hmc import Metric, Point
from pyro_gen.program import Program

__all__ = ["NoFiniteLikelihood", "likelihoods", "smc", "smc_draws"]

OPTIONS_OF_ONE = {"particles": 512, "islands": 8, "length": 16}  # of a single target
OPTIONS_OF_MANY = {"particles": 128, "islands": 4, "length": 8}  # of each target of many
MIN_STEP = 1e-10  # of the steps in beta: below, the start has nothing in common with the target
FEWEST = 4  # particles that such a step from the start must leave effective on an island, in the mean over islands


@dataclass(frozen=True)
class _Options:
    particles: int
    islands: int
    length: int
    start: str | Distribution = "prior"
    ess: float = 0.5
    leapfrog: int = 4
    target_acceptance: float = 0.8
    frozen: bool = True
    kernel: Kernel | None = None

    @staticmethod
    def of(many: bool, options: dict[str, Any]) -> "_Options":
        refuse_unknown("smc", options, [f.name for f in fields(_Options)])
        wrong = [name for name in ("leapfrog", "target_acceptance") if name in options]
        if wrong and options.get("kernel") is not None:
            raise ValueError(f"smc(kernel=...) moves by a sampler with options of its own: leave {wrong[0]} out.")
        return _Options(**{**(OPTIONS_OF_MANY if many else OPTIONS_OF_ONE), **options})

    def __post_init__(self) -> None:
        for name in ("particles", "islands", "length", "leapfrog"):
            if getattr(self, name) < 1:
                raise ValueError(f"smc({name}={getattr(self, name)}): give a positive number.")
        if self.length < 2 or self.particles % self.length or self.particles < 2 * self.length:
            raise ValueError(
                f"smc(particles={self.particles}, length={self.length}): give a multiple of the length of the chains, "
                "at least twice of it, and a length of 2 or more."
            )
        if not 0 < self.ess < 1:
            raise ValueError(f"smc(ess={self.ess}): give a share of the particles between 0 and 1.")
        if not isinstance(self.start, Distribution) and self.start not in ("prior", "guide"):
            raise ValueError(
                f'smc(start={self.start!r}): choose "prior" or "guide", or give a distribution of torch\'s.'
            )


class NoFiniteLikelihood(ValueError):
    """No particle has a finite likelihood, or too few of the start have one that counts."""


def smc(
    target: Density | Path | Program | Callable[..., Any],
    *data: Any,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Particles:
    r"""Draws from a posterior and estimates its evidence by tempered sequential Monte Carlo.

    Several targets (data, or stacked data sets) share the temperatures, which suit the hardest of them.

    Arguments:
        target: A density, a program or model function of which :func:`pyro_gen.density.density` makes one, or a
            :class:`~pyro_gen.inference.likelihood.paths.Path` with moves of its own.
        data: What the program or function is called with.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done, after each temperature.
        options: ``particles`` of an island (512; 128 for each target of many); ``islands`` (8; 4); ``length`` of the
            chains between temperatures (16; 8), so that particles / length of them start; ``start``, ``"prior"``,
            ``"guide"`` or a distribution of torch's over unconstrained points; ``ess``, the share of the particles
            that a step may leave effective (0.5); ``leapfrog`` steps of a move (4); ``target_acceptance`` (0.8);
            ``frozen`` (True), as said above; ``kernel``, the sampler that moves the particles, as for
            :func:`pyro_gen.inference.likelihood.ais.ais`. A path has its own start and moves.

    Returns:
        The particles with their weights, and the evidence: the logarithm of the mean over islands, whose expectation
        before the logarithm is exact where frozen (else it is an ``"estimate"``); ``lower`` is the mean of the islands'
        logarithms. The standard error is the jackknife's over islands. Diagnostics: ``islands``, their log-evidences
        (I, N); ``betas``, and at each of them but the first ``ess`` (the share left, of the hardest target) and
        ``acceptance``; from the prior the mean ``rate`` and ``distortion`` at each beta; ``gradients``, how many were
        evaluated per target in all.

    Raises:
        ValueError: An option does not exist or does not apply, the prior is improper, or of the draws of the start
            on an island fewer than four have a likelihood that is more than nothing beside the others'.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     rate = pyro.sample("rate", dist.Gamma(3.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> result = smc(model, torch.tensor([4.0, 2.0, 6.0]))
        >>> abs(result.evidence.mean() + 6.746) < 0.1
        True
        >>> bool((result.posterior(2000)["rate"].mean() - 15 / 4).abs() < 0.1)  # the posterior is Gamma(15, 4)
        True
    """
    if isinstance(target, Path) and (
        wrong := sorted(set(options) - {"particles", "islands", "length", "ess", "frozen"})
    ):
        raise ValueError(f"A Path has moves and a start of its own: smc takes no {wrong[0]} with it.")
    goal = as_target(target, data)
    settings = _Options.of(bool(goal.batch_shape), options)
    with seeded(seed), torch.no_grad():
        return _particles(goal, settings, *unit_of(goal), progress)[0]


def smc_draws(target: Density, draws: int, moves: int, seed: int = 0, **options: Any) -> tuple[Tensor, LogLikelihood]:
    """Draws by sequential Monte Carlo that are moved on after they are resampled, so that fewer share an ancestor.

    Particles descend from few chains, and draws of the same chain lie closer together than those of the posterior.

    Arguments:
        target: The density.
        draws: The number S of draws.
        moves: How often each is moved, with the last step sizes and metric.
        seed: Seeds the draws; the caller's generators are left alone.
        options: As in :func:`smc`.

    Returns:
        Unconstrained points with shape :math:`(S, *B, D)`, and the evidence, as of :func:`smc`.
    """
    settings = _Options.of(bool(target.batch_shape), options)
    with seeded(seed), torch.no_grad():
        found, engine, run = _particles(target, settings, *unit_of(target), None)
        index = resample(found.log_weights.reshape(len(found.z), engine.n), draws)
        point, last = engine.take(run.point, index), run.stages[-1]
        for _ in range(moves):
            point, _ = engine.move(point, 1.0, last.step_size, last.metric)
        return engine.unflatten(point.z), found.evidence


def likelihoods(
    program: Program,
    x: Tensor,
    *context: Any,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_n)` of each datum by sequential Monte Carlo, in chunks of the data.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done.
        options: As in :func:`smc`.

    Returns:
        As the evidence of :func:`smc`, of each datum; temperatures differ between chunks and are not returned.
    """
    settings = _Options.of(True, options)
    parts = []
    with seeded(seed), torch.no_grad(), evaluation(program):
        probe = density(program, x[:1], *rows_of(x, context, slice(1)), per_datum=True)
        size = max(1, rows_per_chunk(probe.entries, x.device) // (settings.islands * settings.particles))
        for rows in row_chunks(len(x), size):
            goal = density(program, x[rows], *rows_of(x, context, rows), per_datum=True)
            parts.append(_particles(goal, settings, 1.0, "nats per datum", None)[0].evidence)
            if progress is not None:
                progress(rows.stop / len(x))
    gradients = sum(float(p.diagnostics["gradients"]) * len(p.value) for p in parts) / len(x)
    return LogLikelihood(
        torch.cat([p.value for p in parts]),
        torch.cat([p.standard_error for p in parts]),
        parts[0].kind,
        "smc",
        entries_seen(x),
        lower=torch.cat([p.lower for p in parts if p.lower is not None]),
        diagnostics={
            "islands": torch.cat([p.diagnostics["islands"] for p in parts], -1),
            "gradients": torch.tensor(gradients),
        },
    )


def _particles(
    target: Density | Path,
    settings: _Options,
    event_dims: float,
    unit: str,
    progress: Callable[[float], None] | None,
) -> "tuple[Particles, Engine, _Run]":
    engine = engine_of(target, settings.start, settings.leapfrog, settings.kernel)
    if settings.frozen:
        pilot = _Run(engine, settings, max(1, settings.islands // 4), None, progress, (0.0, 0.25))
        run = _Run(engine, settings, settings.islands, pilot.stages, progress, (0.25, 1.0))
    else:
        run = _Run(engine, settings, settings.islands, None, progress, (0.0, 1.0))
    value, error = log_mean_exp(run.log_z)
    diagnostics = {
        "islands": run.log_z,
        "betas": torch.tensor([0.0, *(stage.beta for stage in run.stages)], dtype=torch.float64),
        "ess": torch.stack(run.ess),
        "acceptance": torch.stack(run.acceptance),
        "gradients": torch.tensor(float(engine.gradients)),
    }
    if engine.from_prior:
        diagnostics |= {"rate": torch.stack(run.rate), "distortion": torch.stack(run.distortion)}
    evidence = LogLikelihood(
        value,
        error,
        "stochastic lower bound" if settings.frozen else "estimate",
        "smc",
        event_dims,
        lower=run.log_z.mean(0),
        diagnostics={name: tensor.cpu() for name, tensor in diagnostics.items()},
        unit=unit,
    )
    log_w = run.log_z.repeat_interleave(settings.particles, 0) - math.log(settings.particles)
    found = Particles(evidence, engine.unflatten(run.point.z), log_w.reshape(-1, *engine.batch_shape), target)
    return found, engine, run


class _Stage(NamedTuple):
    """What is fixed at one temperature."""

    beta: float
    step_size: Tensor  # (N,)
    metric: Metric


class _Run:
    """One run of all islands. Particles (I * C, N), those of an island in succession.

    With ``stages`` of another run nothing is adapted.
    """

    def __init__(
        self,
        engine: Engine,
        settings: _Options,
        islands: int,
        stages: list[_Stage] | None,
        progress: Callable[[float], None] | None,
        share: tuple[float, float],
    ) -> None:
        self.engine, self.settings, self.islands = engine, settings, islands
        self.fixed = stages
        self.stages: list[_Stage] = []
        self.ess: list[Tensor] = []
        self.acceptance: list[Tensor] = []
        point = engine.start(islands * settings.particles)
        self.log_z = point.log_density.new_zeros(islands, engine.n, dtype=torch.float64)
        self.log_step = point.z.new_full((engine.n,), -0.25 * math.log(max(engine.dim, 1)))
        self.rate, self.distortion = [self.log_z.new_zeros(())], [-engine.rise(point, 0.0, 1.0).mean()]
        beta = 0.0
        while beta < 1.0:
            low, beta = beta, self._next(point, beta)
            point = self._advance(point, low, beta)
            if progress is not None:
                done = beta if stages is None else len(self.stages) / len(stages)
                progress(share[0] + (share[1] - share[0]) * done)
        self.point = point

    def _by_island(self, values: Tensor) -> Tensor:
        return values.reshape(self.islands, len(values) // self.islands, *values.shape[1:])

    def _shares(self, log_g: Tensor) -> Tensor:
        """The share of the particles (I, C, N) that their weights leave effective: (N,), in the mean over islands.

        Of those on the support: how many are not is no matter of temperature. Where hardly any is, the step is to leave
        some effective: the share of one or two is large at any temperature.
        """
        few = min(math.ceil(FEWEST / self.settings.ess), self.settings.particles)
        alive = log_g.isfinite().sum(1)
        ess = torch.stack([effective_sample_size(island) for island in log_g])
        return (ess.nan_to_num(0.0) / alive.clamp(min=few)).mean(0)

    def _next(self, point: Point, low: float) -> float:
        """The next temperature: fixed, or where the share of the hardest target falls to the one wanted."""
        if self.fixed is not None:
            return self.fixed[len(self.stages)].beta

        def share(high: float) -> float:
            return float(self._shares(self._by_island(self.engine.rise(point, low, high))).min())

        ess = self.settings.ess
        if share(1.0) >= ess:
            return 1.0
        # By the logarithm of the step, which may be a millionth: to a few hundredths of the share, or half a percent of
        # the step. The logarithm of the share is a power of the step, the square where the rise is normal, else the
        # one that the last two say; where they say nothing, the middle is tried.
        near, far = math.log(MIN_STEP), math.log(1.0 - low)
        slack, power = 0.03 * (1 - ess), 2.0
        step, left = (math.log(low), 1.0) if low else (far, 0.0)
        while far - near > 0.005 and not 0 <= left - ess < slack:
            known = 0.01 < left < 1
            guess = step + math.log(math.log(ess + slack / 2) / math.log(left)) / power if known else step
            before, step = (step, left), guess if near < guess < far else 0.5 * (near + far)
            left = share(low + math.exp(step))
            near, far = (step, far) if left >= ess else (near, step)
            if known and 0.01 < left < 1:
                power = min(max(math.log(math.log(left) / math.log(before[1])) / (step - before[0]), 0.5), 4.0)
        high = low + math.exp(near)
        stuck = high == low
        if not stuck and near <= math.log(2 * MIN_STEP):
            # Of a start where most have nearly no likelihood, a flow at points far from its data, the others go on.
            stuck = low > 0 or self.settings.particles * share(high) < FEWEST
        if stuck:
            target = getattr(self.engine, "density", None)  # a path has none
            points = self.engine.unflatten(point.z)
            found = obstacle(target, points) if isinstance(target, ProgramDensity) else None
            why = f"of the points reached, {found}" if found else "or the likelihood is infinite somewhere"
            raise NoFiniteLikelihood(
                f"smc found no next temperature: hardly a draw of the start has finite likelihood, {why}. Start nearer "
                'to the posterior, start="guide", or look at the model.'
            )
        return high

    def _advance(self, point: Point, low: float, high: float) -> Point:
        engine, settings = self.engine, self.settings
        size, length = settings.particles, settings.length
        log_g = self._by_island(engine.rise(point, low, high))  # (I, C, N)
        self.log_z += log_g.logsumexp(1) - math.log(size)
        # An island where all is off the support has weight 0 from here on: any of its particles will do.
        log_w = torch.where((log_g == -math.inf).all(1, keepdim=True), 0.0, log_g).log_softmax(1)
        if self.fixed is None:
            metric = self._metric(point, log_w)
        else:
            metric = self.fixed[len(self.stages)].metric
            self.log_step = self.fixed[len(self.stages)].step_size.log()
        first = torch.arange(self.islands, device=log_w.device).mul(size)
        chosen = torch.stack([resample(island, size // length) for island in log_w])  # (I, M, N)
        states = [engine.take(point, (chosen + first[:, None, None]).flatten(0, 1))]
        if self.fixed is None:
            engine.learn(states[0], high)
        sizes, acceptances = [], []
        for _ in range(length - 1):
            state, probability = engine.move(states[-1], high, self.log_step.exp(), metric)
            states.append(state)
            acceptances.append(probability.mean(0))
            sizes.append(self.log_step)
            if self.fixed is None:
                self.log_step = self.log_step + 0.7 * (acceptances[-1] - settings.target_acceptance)
        if self.fixed is None:  # what the run with these stages is to use: the mean after the first moves
            self.log_step = torch.stack(sizes[len(sizes) // 3 :]).mean(0)
        after = self._gathered(states)
        self.stages.append(_Stage(high, self.log_step.exp(), metric))
        slope = engine.rise(after, low, high).mean(0) / (high - low)
        self.rate.append((high * slope - log_mean_exp(self.log_z)[0]).mean())
        self.distortion.append(-slope.mean())
        self.ess.append(self._shares(log_g).min())
        self.acceptance.append(torch.stack(acceptances).mean())
        return after

    def _gathered(self, states: list[Point]) -> Point:
        """All states of the chains, each (I * M, N, *), as the particles of their islands."""

        def gather(*tensors: Tensor) -> Tensor:
            return torch.stack([self._by_island(t) for t in tensors], 1).flatten(0, 2)

        parts = tuple(gather(*(s.parts[i] for s in states)) for i in range(len(states[0].parts)))
        return Point(
            gather(*(s.z for s in states)),
            gather(*(s.log_density for s in states)),
            gather(*(s.grad for s in states)),
            parts,
        )

    def _metric(self, point: Point, log_w: Tensor) -> Metric:
        """From the particles of all islands, weighted for the new temperature."""
        z = self.engine.coordinates(point)
        count, n, dim = z.shape
        pooled = log_w.flatten(0, 1) - math.log(self.islands)
        dense = 1 < dim <= DENSE and count >= 10 * dim and n * dim**2 <= 2**24
        spread = covariances(z, pooled, dense)
        effective = effective_sample_size(pooled).to(z.dtype)
        if dense:
            return Metric.dense(cholesky_factors(spread, effective))
        return Metric.diagonal(spread.sqrt().clamp(min=1e-6))
