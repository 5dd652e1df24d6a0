r"""Annealed importance sampling. How sharp it is on simulated data says :mod:`pyro_gen.inference.likelihood.bdmc`.

Chains move from a base density to a posterior, that of one datum or of all of them, through

.. math:: \pi_\beta(z) \propto q_0(z)^{1 - \beta} \, p(x, z)^\beta, \qquad 0 = \beta_0 < \dots < \beta_T = 1 ,

by Hamiltonian Monte Carlo, in unconstrained space. The weights

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \left[ \log p(x, z_{t-1}) - \log q_0(z_{t-1}) \right]

have expectation :math:`\mathbb{E} \, w = p(x)`, exactly, as long as schedule and step sizes are fixed before the chains
start. So they are tuned in pilot rounds, and the weights come from one more run with random numbers of its own: see
:mod:`pyro_gen.inference.likelihood.annealing`, also for what else such a run tells.

The base is the prior, a Gaussian fitted to draws of the guide, or a distribution of the user's
(:mod:`pyro_gen.inference.likelihood.paths`); chains move between temperatures by Hamiltonian Monte Carlo, or by a
kernel of the user's own.

References:
    | Annealed Importance Sampling (Neal, 2001)
    | https://arxiv.org/abs/physics/9803008
    | On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017)
    | https://arxiv.org/abs/1611.04273
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import Density, ProgramDensity, evaluation
from pyro_gen.density.finite import MAX_SUMMED, finite_sites, joint_values, present_units
from pyro_gen.density.missing import missing_site
from pyro_gen.inference.likelihood.annealing import Rows, Runs, Single
from pyro_gen.inference.likelihood.enumeration import probe
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.paths import OfDensity, Particles, Path, as_target, unit_of
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.schedules import Options
from pyro_gen.program import Program
from pyro_gen.traces import latent_sites

__all__ = ["Annealed", "ais", "anneal", "annealed_draws", "is_annealed", "posterior_draws"]


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
            about ``spread`` (0.5) when it is left out, but at most 1000, with a warning; ``schedule``,
            ``"equalised"`` (every step adds the same divergence, measured in the pilot rounds), ``"sigmoid"``,
            ``"linear"`` or a sequence of betas;
            ``leapfrog`` steps per temperature; ``start``, ``"guide"``, ``"prior"`` or a distribution of torch's over
            unconstrained points, of shape :math:`(N, D)` in all; ``precondition``, whether coordinates are scaled by
            the standard deviations found in the pilot rounds; ``target_acceptance`` (0.75). Or ``kernel`` in the place
            of ``leapfrog``, ``precondition`` and ``target_acceptance``: what moves the chains, a name of
            :data:`pyro_gen.inference.mcmc.SAMPLERS`, a subclass of :class:`pyro_gen.inference.mcmc.Sampler`, or a
            function that makes one for a density.

    Returns:
        The logarithms of the mean weights: stochastic lower bounds whose bias vanishes with chains and temperatures;
        ``lower`` is the mean log-weight, the looser bound of one chain. Diagnostics per datum: ``ess``, ``khat`` (from
        21 chains on, else of all weights together, each relative to the mean of its datum), ``start_khat`` (the same
        of the weights without annealing, where the base is not the prior), ``spread``, the standard deviation of the
        log-weights, ``acceptance``, ``barrier``,
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
    settings = Options.of(preset, **options)
    with seeded(seed), torch.no_grad(), evaluation(program):
        runs = Runs(Rows(program, x, context, settings), settings, progress)
        log_w = torch.cat([run.log_weights.cpu() for run in runs], 1)
    return runs.result(log_w, "ais", entries_seen(x))


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
            :class:`~pyro_gen.inference.likelihood.paths.Path`, with moves of its own.
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
    settings = Options.of(preset, **{"start": "prior", **options})
    if isinstance(target, Path) and (wrong := sorted(set(options) - {"chains", "temperatures", "schedule"})):
        raise ValueError(f"A Path has moves and a start of its own: anneal takes no {wrong[0]} with it.")
    goal = as_target(target, data)
    with seeded(seed), torch.no_grad():
        runs = Runs(Single(goal, settings), settings, progress)
        (run,) = runs
        evidence = runs.result(run.log_weights.cpu(), "ais", *unit_of(goal))
        states, log_w = run.engine.unflatten(run.point.z), run.log_weights.reshape(-1, *run.engine.batch_shape)
    return Particles(evidence, states, log_w, goal)


class Annealed(NamedTuple):
    """What annealed chains of some rows of the data give.

    Attributes:
        rows: The rows.
        density: A target for each of them.
        z: Draws of the targets, unconstrained points with shape :math:`(S, n, D)`.
        log_weights: Those of all chains, with shape :math:`(C, n)`.
    """

    rows: slice
    density: ProgramDensity
    z: Tensor
    log_weights: Tensor


def annealed_draws(
    program: Program,
    x: Tensor,
    *context: Any,
    draws: int,
    moves: int = 10,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Iterator[Annealed]:
    """Draws from the posterior of each datum: the chains' ends resampled by weight, then moved on.

    Draws by the global generators. The program is in evaluation mode, given by the caller.

    Arguments:
        program: A program with continuous local latent variables.
        x: The data, with shape :math:`(N, *)`.
        context: What the model conditions on.
        draws: The number S of draws, which is also the least number of chains.
        moves: HMC moves at the end, which part draws that come from one chain.
        progress: Called with the fraction done, after each temperature.
        options: As in :func:`ais`.

    Yields:
        The draws, chunk by chunk of the data.
    """
    settings = Options.of(None, **{**options, "chains": max(draws, options.get("chains", 16))})
    for run in Runs(Rows(program, x, context, settings), settings, progress):
        assert isinstance(run.engine, OfDensity) and isinstance(run.engine.density, ProgramDensity)
        point = run.engine.take(run.point, resample(run.log_weights, draws))
        for _ in range(moves):
            point, _ = run.engine.move(point, 1.0, *run.plan.tuning(-1))
        yield Annealed(run.rows, run.engine.density, run.engine.unflatten(point.z), run.log_weights)


def posterior_draws(
    program: Program, x: Tensor, *context: Any, draws: int, **options: Any
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """The draws of :func:`annealed_draws` by name of the site, each with shape :math:`(S, *)`, with their rows."""
    for found in annealed_draws(program, x, *context, draws=draws, **options):
        yield found.rows, found.density.constrain(found.z)


def is_annealed(program: Program, x: Tensor, *context: Any) -> bool:
    """Whether annealed importance sampling takes the latent variables: not those with more values than can be summed.

    Among them are the missing entries that are latent.
    """
    trace = probe(program, x, *context)
    latent, finite = latent_sites(trace), finite_sites(trace)
    missing = {n: s for n, s in latent.items() if missing_site(s)}
    discrete = [n for n, s in latent.items() if s["fn"].support.is_discrete]
    if any(n not in finite for n in discrete) or (missing and len(discrete) == len(latent)):
        return False
    finite = {n: f for n, f in finite.items() if n in missing}
    return not finite or bool((joint_values(finite, present_units(finite, program, x, *context)) <= MAX_SUMMED).all())
