"""`log_likelihood`, the one function for all likelihood estimates, above the estimators."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro

from pyro_gen._errors import AdviceError, InPython
from pyro_gen._sizes import check_counts
from pyro_gen.density import any_missing, as_inputs, evaluation, rows_of
from pyro_gen.density.data_support import DataSupport, require_support
from pyro_gen.density.missing import latent_missing, needs_latent
from pyro_gen.density.sites import ImproperAnywhere
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.likelihood.ais import ais, is_annealed
from pyro_gen.inference.likelihood.annealed_entries import annealed_entries_likelihood
from pyro_gen.inference.likelihood.bdmc import ais_with_gap
from pyro_gen.inference.likelihood.by_particles import particle_likelihoods
from pyro_gen.inference.likelihood.chain_bound import chain_bound
from pyro_gen.inference.likelihood.entries import misses_levels
from pyro_gen.inference.likelihood.enumeration import is_enumerable
from pyro_gen.inference.likelihood.exact import enumerated_likelihood, exact_likelihood
from pyro_gen.inference.likelihood.guide_bounds import guide_bound
from pyro_gen.inference.likelihood.held_out import predictive_density
from pyro_gen.inference.likelihood.partition import normalised_likelihood
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.likelihood.smc import likelihoods
from pyro_gen.inference.likelihood.twisted import is_twisted, twisted_likelihoods
from pyro_gen.inference.noise import with_noise
from pyro_gen.inference.progress import progress_bar
from pyro_gen.noising import NoisingChain
from pyro_gen.packing import packs_functions
from pyro_gen.program import Program
from pyro_gen.traces import Structure, structure

__all__ = ["log_likelihood"]

METHODS = ("auto", "exact", "elbo", "iwae", "ais", "bdmc", "smc")


def _no_such_particles(given: int, program: str) -> ValueError:
    return ValueError(
        f"log_likelihood(num_particles={given}) is for bounds: where entries of {program} are missing give particles=, "
        "of each island."
    )


@packs_functions
def log_likelihood(
    program: Program | Callable[..., Any],
    x: Any,
    *context: Any,
    method: str = "auto",
    posterior: Any = None,
    num_particles: int | None = None,
    noise: float | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    **options: Any,
) -> LogLikelihood:
    r"""Estimates :math:`\log p(x_n)` of each datum under a program.

    Arguments:
        program: The program, or a plain Pyro model function.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; what was seen is scored. Several
            variables are a mapping or a tuple of such tensors.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        method: ``"exact"`` for programs without latent variables, with a closed-form ``marginal()``, or with discrete
            local latent variables only, summed over their joint values (at most 16384 per datum); ``"elbo"`` and
            ``"iwae"`` by importance sampling from the guide; ``"ais"`` by annealed importance sampling and ``"bdmc"``
            by the same with an upper bound on simulated data in the diagnostics, see
            :mod:`pyro_gen.inference.likelihood.bdmc`; ``"smc"`` by sequential Monte Carlo,
            :mod:`pyro_gen.inference.likelihood.smc`, of a diffusion along its chain,
            :mod:`pyro_gen.inference.likelihood.twisted`, of an autoregressive program with missing entries along its
            order, :mod:`pyro_gen.inference.likelihood.by_particles`. ``"auto"`` takes ``"exact"`` where it applies,
            else ``"ais"``; of a chain of noise (:class:`~pyro_gen.noising.NoisingChain`) ``"elbo"``, the bound of all
            of its steps by K random ones of each datum; where entries are missing, of a diffusion and of an
            autoregressive program, ``"smc"``. Missing entries that a distribution cannot marginalise, of a flow say,
            are latent variables. Of an unnormalised program it is
            log base(x) - E(x) - log Z, with log Z as by :func:`pyro_gen.log_partition`.
        posterior: For programs with global latent variables: the ``InferenceData`` that :func:`pyro_gen.posterior`
            found for other data, draws of these variables by name, each with shape :math:`(S, *)`, or ``"guide"``, the
            trained guide's. The estimates are then log predictive densities, the logarithms of mean likelihoods, see
            :mod:`pyro_gen.inference.likelihood.held_out`; ``method`` says how local latent variables are integrated
            out of each (``"exact"``, ``"iwae"`` or ``"ais"``).
        num_particles: The number K of draws of the guide per datum, or of random steps of a chain, by default 64 for
            the ELBO and 1000 for IWAE.
        noise: The standard deviation of a Gaussian observation noise that takes the place of the program's likelihood,
            see :func:`pyro_gen.with_noise`: the likelihood of an implicit program (Wu et al., 2017), and of another one
            measured like it. It is part of the figure, which is always an estimate by ``"ais"`` or with its sandwich by
            ``"bdmc"``.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        options: Passed to :func:`pyro_gen.inference.likelihood.ais.ais` or its sandwich, or to
            :func:`pyro_gen.inference.likelihood.smc.smc`; of a diffusion and of an autoregressive program ``particles``
            of each of so many ``islands``.

    Returns:
        The estimates with errors and diagnostics (effective sample size ``ess`` and Pareto ``khat``, per datum: above
        0.7 the guide misses part of the posterior and the error is not to be trusted).

    Raises:
        ValueError: The method does not exist or does not apply to the program.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Standard(Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             return observe("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), x)
        >>> print(log_likelihood(Standard(), torch.zeros(4, 2)))
        log-likelihood -1.838 +- 0.000 nats per datum (exact; 4 data, sampling error 0.000)
    """
    if method not in METHODS:
        raise ValueError(f"log_likelihood(method={method!r}): choose one of {', '.join(METHODS)}.")
    _check_options(method, options, num_particles)
    if num_particles is not None:
        check_counts("log_likelihood", num_particles=num_particles)
    program = program if isinstance(program, Program) else Program.from_functions(program)
    if noise is not None:
        program = with_noise(program, noise)
    with progress_bar("log-likelihood", progress) as report:
        return _estimate(program, x, context, method, posterior, num_particles, seed, report, options)


def _estimate(
    program: Program,
    x: Any,
    context: tuple[Any, ...],
    method: str,
    posterior: Any,
    num_particles: int | None,
    seed: int,
    progress: Callable[[float], None],
    options: dict[str, Any],
) -> LogLikelihood:
    """What :func:`log_likelihood` returns, of arguments that it has checked."""
    x, *parts = as_inputs(program, x, *context)
    context = tuple(parts)
    if method == "exact" and is_twisted(program) and any_missing(x):
        raise AdviceError(
            f"Missing entries of {type(program).__name__} have no closed-form integral: use {{method}}, which "
            "draws them along its chain.",
            method="smc",
        )
    if (method == "smc" or (method == "auto" and any_missing(x))) and is_twisted(program):
        if num_particles is not None:
            raise _no_such_particles(num_particles, type(program).__name__)
        return twisted_likelihoods(program, x, *context, seed=seed, progress=progress, **options)
    given = ImproperAnywhere() if posterior is not None else nullcontext()  # else nothing says where they are
    with evaluation(program), ImproperAnywhere():
        every = needs_latent(program, x, *context)
        by_particles = posterior is None and (method == "smc" or (method == "auto" and any_missing(x)))
        make = program.missing_particles(x, *context) if by_particles else None
        if make is not None and method == "auto":
            with latent_missing(program, x, *context, every=every):
                make = None if is_enumerable(program, x, *context) else make
    if make is not None and num_particles is not None:
        raise _no_such_particles(num_particles, type(program).__name__)
    if make is not None:
        with evaluation(program), latent_missing(program, x, *context, every=every):
            _kinds(program, x, context)
        return particle_likelihoods(program, make, x, context, seed, progress, options)
    with evaluation(program), given, latent_missing(program, x, *context, every=every):
        kinds = _kinds(program, x, context)
        if kinds.kind == "implicit":
            raise not_for(program, kinds.kind, "log_likelihood")
        if kinds.kind == "unnormalised":
            return normalised_likelihood(program, kinds, x, context, method, seed, progress, options)
        if posterior is not None:
            how = {"method": method, "num_particles": num_particles, "seed": seed, "progress": progress}
            return predictive_density(program, kinds, x, context, posterior, **how, **options)  # type: ignore[arg-type]
        if kinds.kind == "exact" and method in ("auto", "exact"):
            _check_options("exact", options, num_particles, program)
            return exact_likelihood(program, x, context)
        if type(program).marginal is not Program.marginal and method in ("auto", "exact"):
            _check_options("exact", options, num_particles, program)
            known = (method, None, num_particles, seed, progress, options)
            return _estimate(program.marginal(), x, context, *known)
        discrete = is_enumerable(program, x, *context)
        if discrete and method in ("auto", "exact"):
            _check_options("exact", options, num_particles, program)
            return enumerated_likelihood(program, x, context, progress)
        chain = program if isinstance(program, NoisingChain) else None
        if chain is not None and method == "auto":
            method = "elbo"  # annealing would be over all steps
            _check_options(method, options, num_particles, program)
        if chain is not None and method == "elbo" and not any_missing(x):
            return chain_bound(chain, x, context, 64 if num_particles is None else num_particles, seed, progress)
        by_gibbs = every and misses_levels(program, x, *context)
        if method == "auto":
            method = "ais" if by_gibbs or is_annealed(program, x, *context) else "iwae"
        _check_options(method, options, num_particles, program)
        if kinds.global_:
            raise AdviceError(
                f"{type(program).__name__} has the global latent variable '{kinds.global_[0]}', shared by all data, so "
                "the data have no likelihood one by one. Given its posterior other data have a log predictive density: "
                "give {posterior}. pg.log_evidence estimates the likelihood of the whole data set.",
                posterior=InPython(
                    'posterior=pg.posterior(program, training_data), or posterior="guide" for draws of the guide',
                    "guide",
                ),
            )
        entries = every and all(n.endswith(".missing") for n in kinds.local)
        if method == "exact" and entries:
            raise AdviceError(
                f"The missing entries of {type(program).__name__} cannot be integrated out in closed form: use "
                "{method}, which draws them.",
                method="ais",
            )
        if method == "exact":
            return exact_likelihood(program.marginal(), x, context)  # which says why there is none
        if kinds.kind == "exact":
            whole = "" if any_missing(x) else " and no entry of these data is missing"
            raise AdviceError(
                f"{type(program).__name__} has no latent variable{whole}, so {{method}} has nothing to draw: its "
                "likelihood is {method_}.",
                method=method,
                method_="exact",
            )
        if by_gibbs and method in ("bdmc", "smc"):
            raise AdviceError(
                f"Discrete entries of {type(program).__name__} are missing before others that were seen, and chains by "
                "gradients do not move them: use {method}.",
                method="ais",
            )
        if by_gibbs and method == "ais":
            return annealed_entries_likelihood(program, x, context, seed, progress, options)
        if method in ("ais", "bdmc") and entries:
            options = {"start": "prior", **options}  # no guide proposes them
        if method == "ais":
            return ais(program, x, *context, seed=seed, progress=progress, **options)
        if method == "bdmc":
            return ais_with_gap(program, x, *context, seed=seed, progress=progress, **options)
        if method == "smc":
            return likelihoods(program, x, *context, seed=seed, progress=progress, **options)
        if num_particles is None:
            num_particles = 64 if method == "elbo" else 1000
        return guide_bound(program, x, context, method, num_particles, seed, progress)


def _kinds(program: Program, x: Any, context: tuple[Any, ...]) -> Structure:
    """The kind of a program, by a run on two rows; all rows are to be in the support of the laws of its sites."""
    few = (x[:2].contiguous(), *rows_of(x, context, slice(2)))
    with ImproperAnywhere(), pyro.validation_enabled(False), DataSupport(few[0]) as found:
        kinds = structure(program, *few)  # without validation: a factor may read what is missing
    require_support(program, found, x, context)
    return kinds


def _check_options(
    method: str, options: dict[str, Any], num_particles: int | None, chosen_for: Program | None = None
) -> None:
    """Refuses options that a method does not take: the one that was asked for, or chosen for a program.

    Raises:
        ValueError: There are some; the error names method and option.
    """
    how = f'log_likelihood(method="{method}")'
    if chosen_for is not None:
        how = f'log_likelihood(method="auto") of {type(chosen_for).__name__} is method="{method}", which'
    if method in ("exact", "elbo", "iwae") and options:
        raise ValueError(f"{how} has no option {next(iter(options))!r}.")
    if method in ("exact", "ais", "bdmc", "smc") and num_particles is not None:
        raise ValueError(f'{how} has no particles: num_particles is for "elbo" and "iwae".')
