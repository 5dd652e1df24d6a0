r"""The evidence of a data set: its density with all latent variables integrated out, global ones too.

.. math:: \log p(x_{1:N}) = \log \int p(w) \prod_n p(z_n \mid w) \, p(x_n \mid z_n, w) \, dw \, dz_{1:N} .

The difference of the log-evidences of two models of the same data is the logarithm of the Bayes factor between them. It
weighs the priors too: a prior twice as wide costs :math:`\log 2` per parameter that the data determine.

Without global latent variables the evidence is the sum of the log-likelihoods of the data, and is estimated as that.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity, as_arguments, density, evaluation
from pyro_gen.density.requirements import NoLatentError
from pyro_gen.density.sites import ImproperAnywhere
from pyro_gen.inference.factors import energy_of
from pyro_gen.inference.kinds import without_latents
from pyro_gen.inference.likelihood.ais import anneal
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.bdmc import evidence_with_gap
from pyro_gen.inference.likelihood.bridge import bridge_evidence
from pyro_gen.inference.likelihood.paths import unit_of
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.smc import smc
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis_khat
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.proposals import draws_for
from pyro_gen.packing import packs
from pyro_gen.program import Program
from pyro_gen.traces import structure

__all__ = ["log_evidence", "of_all_data"]

METHODS = ("exact", "smc", "ais", "bdmc", "bridge", "importance")
PARTICLES = 1000  # draws of the guide


@packs
def log_evidence(
    program: Program | Callable[..., Any],
    x: Any,
    *context: Any,
    method: str = "smc",
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates the evidence of a data set under a program, all latent variables integrated out.

    Arguments:
        program: A program, or a plain Pyro model function called with the data.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; what was seen is scored. Several
            variables are a mapping or a tuple of such tensors.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        method: ``"smc"``, :func:`pyro_gen.inference.likelihood.smc.smc`; ``"ais"``,
            :func:`pyro_gen.inference.likelihood.ais.anneal`; ``"bdmc"``, the same with an upper bound on data simulated
            from the program in the diagnostics (``sets`` of them, 8); ``"bridge"``,
            :func:`pyro_gen.inference.likelihood.bridge.bridge_evidence`; ``"importance"``, draws of the program's guide
            (``num_particles``, 1000). ``"exact"`` where no latent variable is global and
            :func:`pyro_gen.log_likelihood` knows an exact method.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        options: Passed to the method.

    Returns:
        One number with its error, in nats. Its bits per dim are those of the whole data set over all numbers seen.

    Raises:
        ValueError: The method does not exist or does not apply; a prior is improper; the model has a factor that
            is no likelihood of censored data, as far as its gradients tell.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> result = log_evidence(model, torch.tensor([1.0, 0.0]))  # of N(0, [[2, 1], [1, 2]]): -2.720
        >>> abs(result.mean() + 2.720) < 0.1, result.unit
        (True, 'nats')
    """
    if method not in METHODS:
        raise ValueError(f"log_evidence(method={method!r}): choose one of {', '.join(METHODS)}.")
    data = as_arguments(program, x, *context)
    with progress_bar(f"log-evidence ({method})", progress) as report:
        return _evidence(program, data, method, seed, report, options)


def _evidence(
    program: Program | Callable[..., Any],
    data: tuple[Any, ...],
    method: str,
    seed: int,
    progress: Callable[[float], None],
    options: dict[str, Any],
) -> LogLikelihood:
    if method == "exact":
        if isinstance(program, Program) and not _global(program, data):
            return of_all_data(log_likelihood(program, *data, method="exact", progress=progress, **options), "exact")
        raise ValueError(
            'log_evidence(method="exact") sums over data that have exact likelihoods, and this model has global latent '
            'variables, or is a plain function of which that is not known: use method="smc".'
        )
    try:
        target = density(program, *data)
    except NoLatentError as error:
        raise without_latents(program, data, "log_evidence", error) from None
    _require_evidence(target)
    if target.per_datum and isinstance(program, Program) and method != "bridge":
        one_by_one = "iwae" if method == "importance" else method
        found = log_likelihood(program, *data, method=one_by_one, seed=seed, progress=progress, **options)
        return of_all_data(found, method)
    if target.per_datum:
        target = density(program, *data, per_datum=False)
    if method == "smc":
        return smc(target, seed=seed, progress=progress, **options).evidence
    if method == "ais":
        return anneal(target, seed=seed, progress=progress, **options).evidence
    if method == "bridge":
        return bridge_evidence(target, seed=seed, progress=lambda fraction, _: progress(fraction), **options)
    if not isinstance(program, Program):
        needs = "simulates data, which takes" if method == "bdmc" else "draws from a guide, which only"
        raise ValueError(
            f'log_evidence(method="{method}") {needs} a Program, and was given a plain function: use method="smc".'
        )
    if method == "bdmc":
        return evidence_with_gap(program, target, seed=seed, progress=progress, **options)
    return _by_guide(target, seed, **options)


def _global(program: Program, data: tuple[Any, ...]) -> bool:
    with evaluation(program), ImproperAnywhere():
        return bool(structure(program, *data).global_)


def _require_evidence(target: ProgramDensity) -> None:
    if target.improper:
        raise ValueError(
            f"The prior of '{target.improper[0]}' is improper, so there is no evidence: the integral carries a "
            "constant that the prior leaves open. Give it a proper prior."
        )
    if name := energy_of(target):
        raise ValueError(
            f"The model has a factor, '{name}', that is no likelihood of data which no observed site scores, so "
            "the integral of its joint density is no evidence but the normalising constant "
            "of an unnormalised density, which no other model's compares with. Write censored data by "
            "pg.distributions.Censored. If that constant is the number you want: "
            "pyro_gen.inference.likelihood.smc.smc(pyro_gen.density.density(program, x)).evidence."
        )


def of_all_data(of_data: LogLikelihood, method: str) -> LogLikelihood:
    """The evidence of independent data: the sum of their log-likelihoods, by the method that is named."""
    n = len(of_data.value)

    def total(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.sum().reshape(1)

    return LogLikelihood(
        of_data.value.sum().reshape(1),
        of_data.standard_error.square().sum().sqrt().reshape(1),
        of_data.kind,
        method,
        of_data.event_dims * n,
        lower=total(of_data.lower),
        upper=total(of_data.upper),
        diagnostics=of_data.diagnostics,
        unit="nats",
    )


def _by_guide(target: ProgramDensity, seed: int, num_particles: int = PARTICLES) -> LogLikelihood:
    if num_particles < 2:
        raise ValueError(f"log_evidence(num_particles={num_particles}): give at least 2.")
    with seeded(seed), torch.no_grad(), evaluation(target.program):
        _, log_w = draws_for(target, num_particles)
    log_w = log_w.unsqueeze(1)
    value, error = log_mean_exp(log_w)
    return LogLikelihood(
        value,
        error,
        "stochastic lower bound",
        "importance",
        unit_of(target)[0],
        lower=log_w.mean(0),
        diagnostics={
            "ess": effective_sample_size(log_w),
            "khat": psis_khat(log_w),
            "num_particles": torch.tensor(num_particles),
        },
        unit="nats",
    )
