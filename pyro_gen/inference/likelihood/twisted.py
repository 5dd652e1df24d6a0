r"""Missing entries of a diffusion, given the seen ones: sequential Monte Carlo that is twisted towards them.

A chain :math:`z_T, \dots, z_0, x` of reverse steps :math:`p(z_{i-1} \mid z_i)` knows, at each, the mean
:math:`\hat x(z_i)` of the datum that it leads to. So the seen entries :math:`x_o` are foretold by

.. math:: \tilde p(x_o \mid z_i) = \mathcal{N}\big(x_o \mid \hat x_o(z_i), \tau_i^2\big), \qquad
    \tau_i^2 = \frac{\rho_i^2}{1 + \rho_i^2}, \quad \rho_i = \sigma_i / \alpha_i ,

the law of a standard normal datum seen with noise :math:`\rho_i`. Particles take steps that its gradient bends, and are
weighted for that,

.. math::
    z_{i-1} \sim \mathcal{N}\Big(\mu(z_i) + \tfrac{\sigma_{i \mid i-1}^2}{\alpha_{i \mid i-1}}
        \nabla \log \tilde p(x_o \mid z_i), \; s_i^2\Big), \qquad
    w = \frac{p(z_{i-1} \mid z_i) \, \tilde p(x_o \mid z_{i-1})}{q(z_{i-1} \mid z_i) \, \tilde p(x_o \mid z_i)} ,

and by :math:`p(x_o \mid z_0) / \tilde p(x_o \mid z_0)` in the end. They are resampled where half of them no longer
count. Whatever the foretelling is worth, with many particles they are draws of :math:`p(x_m \mid x_o)` of the chain,
and the product of the mean weights is an unbiased estimate of :math:`p(x_o)`, its logarithm a stochastic lower bound.

To put seen entries with noise in the place of those of :math:`z_i` at each step (replacement) takes no weights, and
draws from no conditional law: what was seen does not reach the entries that are missing but through the next step.

References:
    | Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu et al., 2023)
    | https://arxiv.org/abs/2306.17775
    | Diffusion Probabilistic Modeling of Protein Backbones in 3D for Motif-Scaffolding (Trippe et al., 2023)
    | https://arxiv.org/abs/2206.04119
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from pyro_gen._errors import refuse_unknown, warn
from pyro_gen._random import seeded
from pyro_gen.density import evaluation, row_chunks, rows_of, rows_per_chunk
from pyro_gen.distributions import innermost
from pyro_gen.inference.likelihood.particles import gather, resample
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp
from pyro_gen.observation import marginalise
from pyro_gen.program import Program

__all__ = ["GaussianDiffusion", "is_twisted", "twisted_draws", "twisted_likelihoods"]

FLOOR = 4  # draws that count, below which they do not say what share each mode has
FEWEST_ISLANDS = 1.5  # that count by their estimates of the density of what is seen


@runtime_checkable
class GaussianDiffusion(Protocol):
    """A program whose data come from a chain of Gaussian steps, see :class:`pyro_gen.noising.NoisingChain`."""

    steps: int
    is_of_codes: bool  # whether the noise is on codes of the data, and not on their entries

    def start(self, x: Tensor) -> Any: ...

    def known(self, x: Tensor) -> Tensor: ...

    def predict(self, z: Tensor, i: int, *context: Any) -> Tensor: ...

    def transition(self, z: Tensor, i: int, clean: Tensor) -> Any: ...

    def likelihood(self, z: Tensor, *context: Any) -> Any: ...

    def noise(self, i: int) -> tuple[Tensor, Tensor]:
        r"""The weight :math:`\alpha_i` of the datum in :math:`z_i`, and the deviation :math:`\sigma_i` of its noise."""


def is_twisted(program: Any) -> TypeGuard[GaussianDiffusion]:
    """Whether a program is a diffusion whose noise is on the entries of the data, and not on codes."""
    return isinstance(program, GaussianDiffusion) and not program.is_of_codes


@dataclass(frozen=True)
class _Options:
    particles: int = 64
    islands: int = 4

    @staticmethod
    def of(verb: str, options: dict[str, Any]) -> "_Options":
        refuse_unknown(f"{verb} of a diffusion", options, [f.name for f in fields(_Options)])
        for name, value in options.items():
            if not isinstance(value, int) or value < 2:
                raise ValueError(f"{verb}({name}={value!r}): give an integer of 2 or more.")
        return _Options(**options)


class _Twist:
    """The foretelling of the seen entries of rows (R, *event), each with C particles."""

    def __init__(self, chain: GaussianDiffusion, x: Tensor, context: tuple[Any, ...], particles: int) -> None:
        self.chain, self.particles = chain, particles
        known = chain.known(x)
        self.seen, self.known = ~torch.isnan(known), known.nan_to_num()
        index = torch.arange(len(x), device=x.device).repeat(particles)
        self.context = rows_of(x, context, index)

    def clean(self, z: Tensor, i: int) -> Tensor:
        """The mean of the datum given z (C, R, *event)."""
        return self.chain.predict(z.flatten(0, 1), i, *self.context).view_as(z)

    def __call__(self, z: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """At z (C, R, *event): the mean of the datum, the log-density of the seen entries (C, R), and its gradient."""
        alpha, sigma = self.chain.noise(i)
        variance = 1 / (1 + (alpha / sigma).square())
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            clean = self.clean(at, i)
            apart = torch.where(self.seen, self.known - clean, 0.0)
            each = torch.where(self.seen, -0.5 * (2 * math.pi * variance).log(), 0.0) - apart.square() / (2 * variance)
            log_p = each.flatten(2).double().sum(-1)
            (slope,) = torch.autograd.grad(log_p.sum(), at)
        return clean.detach(), log_p.detach(), slope


def _of_bend(step: Any, bend: Tensor, moved: Tensor) -> Tensor:
    """The part p / q of the log-weights (C, R) for a step to ``moved`` whose mean was bent."""
    straight: Tensor = (moved - step.loc) / step.scale
    bent: Tensor = straight - bend / step.scale
    apart: Tensor = bent.square() - straight.square()
    return 0.5 * apart.flatten(2).double().sum(-1)


def _run(
    chain: GaussianDiffusion, x: Tensor, context: tuple[Any, ...], particles: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Particles of rows x (R, *event), by the global generators.

    Returns:
        Completed rows, (C, R, *event), their log-weights, (C, R), and the log-weights' part that is common to the
        particles of a row, (R).
    """
    twist = _Twist(chain, x, context, particles)
    nothing = torch.zeros(particles, *x.shape, dtype=twist.known.dtype, device=x.device)
    z = chain.start(nothing).sample()
    clean, foretold, slope = twist(z, chain.steps)
    log_w, log_z = foretold, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for i in range(chain.steps, 0, -1):
        ess = effective_sample_size(log_w)
        poor = ess < particles / 2
        if bool(poor.any()):
            same = torch.arange(particles, device=x.device).unsqueeze(1)
            index = torch.where(poor, resample(log_w, particles), same)
            log_z = log_z + torch.where(poor, log_mean_exp(log_w)[0], 0.0)
            log_w = torch.where(poor, 0.0, log_w)
            z, clean, foretold, slope = (gather(t, index) for t in (z, clean, foretold, slope))
        (before, noise), (alpha, sigma) = chain.noise(i - 1), chain.noise(i)
        ratio = alpha / before
        bend = (sigma.square() - (ratio * noise).square()) / ratio * slope
        step = innermost(chain.transition(z, i, clean))
        moved = step.loc + bend + step.scale * torch.randn_like(z)
        log_w = log_w + _of_bend(step, bend, moved)
        last, z = foretold, moved
        clean, foretold, slope = twist(z, i - 1)
        log_w = log_w + foretold - last
    law = chain.likelihood(z.flatten(0, 1), *twist.context)
    scored, filled, draw = marginalise(law, x.repeat(particles, *(1 for _ in x.shape[1:])))
    log_w = log_w + scored.log_prob(filled).view(particles, -1).double() - foretold
    return torch.where(torch.isnan(x), draw().reshape(particles, *x.shape).to(x.dtype), x), log_w, log_z


def _islands(chain: GaussianDiffusion, x: Tensor, context: tuple[Any, ...], settings: _Options, progress: Any) -> Any:
    """Runs particles on islands that do not meet, in chunks of rows: the rows, what they are completed to, weights."""
    size = max(1, rows_per_chunk(8 * x[0].numel(), x.device) // (settings.particles * settings.islands))
    for rows in row_chunks(len(x), size):
        part = x[rows]
        copies = torch.arange(len(part), device=x.device).repeat(settings.islands)
        data = part[copies], rows_of(part, rows_of(x, context, rows), copies)
        completed, log_w, log_z = _run(chain, *data, settings.particles)
        shape = settings.particles, settings.islands, len(part)
        yield rows, completed.view(*shape, *x.shape[1:]), (log_w + log_z).view(shape)
        if progress is not None:
            progress(rows.stop / len(x))


def twisted_draws(
    program: GaussianDiffusion,
    x: Tensor,
    *context: Any,
    draws: int,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Tensor:
    """Draws the missing entries of rows given the seen ones, by the global generators.

    Arguments:
        program: The diffusion.
        x: The rows, with shape :math:`(N, *)` and NaN where missing.
        context: What the model conditions on.
        draws: The number S of draws.
        progress: Called with the fraction done.
        options: ``particles`` of each island (64, or twice the draws), ``islands`` (4).

    Returns:
        Completed rows, with shape :math:`(S, N, *)`.

    Raises:
        ValueError: An option does not exist, or is no number of 2 or more.
    """
    settings = _Options.of("impute", {"particles": max(64, 2 * draws), **options})
    out, least, alone = x.expand(draws, *x.shape).clone(), math.inf, 0
    assert isinstance(program, Program)
    with torch.no_grad(), evaluation(program):
        for rows, completed, log_w in _islands(program, x, context, settings, progress):
            weights = log_w.flatten(0, 1)
            out[:, rows] = gather(completed.flatten(0, 1), resample(weights, draws))
            least = min(least, float(effective_sample_size(weights).min()))
            # The particles of an island come to have one ancestor: where one island counts, all draws are much alike.
            alone += int((effective_sample_size(log_w.logsumexp(0)) < FEWEST_ISLANDS).sum())
    if least < FLOOR:
        warn(
            f"impute: of {settings.particles * settings.islands} particles only {least:.0f} count by their weights, "
            'which do not say what share each mode has: give more, as options={"particles": 500}.'
        )
    elif alone:
        warn(
            f"impute: of {alone} of {len(x)} rows one of {settings.islands} islands of particles outweighs the others: "
            'draws are alike and intervals too narrow. Give more, as options={"particles": 500, "islands": 16}.'
        )
    return out


def twisted_likelihoods(
    program: GaussianDiffusion,
    x: Tensor,
    *context: Any,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_o)` of the seen entries of each row under a chain of diffusion.

    Arguments:
        program: The diffusion.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Called with the fraction done.
        options: ``particles`` of each island (64), ``islands`` (4).

    Returns:
        The logarithm of the mean over islands, a stochastic lower bound, with the jackknife's error over them; the
        ``islands`` themselves, (I, N), are among the diagnostics.
    """
    settings, parts = _Options.of("log_likelihood", options), []
    assert isinstance(program, Program)
    with seeded(seed), torch.no_grad(), evaluation(program):
        for _, _, log_w in _islands(program, x, context, settings, progress):
            parts.append(torch.stack([log_mean_exp(island)[0] for island in log_w.unbind(1)]))
    islands = torch.cat(parts, 1)
    value, error = log_mean_exp(islands)
    return LogLikelihood(
        value, error, "stochastic lower bound", "smc", entries_seen(x), diagnostics={"islands": islands}
    )
