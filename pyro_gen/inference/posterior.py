"""The posterior of any program by any method, as ``arviz.InferenceData``.

A program (or plain Pyro model) and its data become a :class:`~pyro_gen.density.Density`; a sampler, the trained guide
or sequential Monte Carlo draws from it; :mod:`pyro_gen.inference.export` names the draws and keeps them, in memory or,
a block at a time, on disk; :func:`pyro_gen.diagnose` says whether to believe them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen._random import seeded
from pyro_gen.density import ProgramDensity, as_arguments, density, evaluation
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import latent_missing
from pyro_gen.density.requirements import NoLatentError
from pyro_gen.inference.export import LIMIT, Exporter, layout
from pyro_gen.inference.from_chains import Length, from_chains
from pyro_gen.inference.independent import from_guide, from_smc, from_sums
from pyro_gen.inference.kinds import without_latents
from pyro_gen.inference.likelihood.enumeration import is_enumerable, probe
from pyro_gen.inference.mcmc import initial, stopping
from pyro_gen.inference.mcmc.gibbs import held_names
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.run_state import RunState
from pyro_gen.inference.scaled_sites import scaled_sites
from pyro_gen.inference.storage import check_free, check_path, claimed
from pyro_gen.packing import PackedProgram, packs
from pyro_gen.program import Program
from pyro_gen.traces import sample_sites

if TYPE_CHECKING:
    import arviz as az

__all__ = ["METHODS", "posterior"]

METHODS = ("auto", "hmc", "nuts", "mala", "rwm", "gibbs", "tempering", "guide", "smc", "exact")
GUIDE_DRAWS, EXACT_DRAWS = 1000, 200


@packs
def posterior(
    program: Program | Callable[..., Any],
    *data: Any,
    method: str = "auto",
    chains: int | None = None,
    draws: int | None = None,
    target_ess: float | None = None,
    warmup: int | None = None,
    thin: int = 1,
    init: Any = "uniform",
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
    keep_warmup: bool = False,
    log_likelihood: bool | None = None,
    predictive: bool | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    save: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    compile: str = "auto",
    **options: Any,
) -> "az.InferenceData":
    r"""Draws from the posterior of the latent variables of a program given data.

    Arguments:
        program: A program, or a plain Pyro model function.
        data: What the model is called with: the data with shape :math:`(N, *)` as tensor, array or data frame, NaN
            where nothing was observed, or a mapping or a tuple of such tensors, and its context. Any arguments for a
            plain function, which is given arrays as
            tensors and a data frame as it is.
        method: ``"hmc"``, many chains of jittered Hamiltonian Monte Carlo that adapt together (``"auto"``); ``"nuts"``;
            ``"mala"``; ``"rwm"``, random-walk Metropolis; ``"gibbs"`` with ``blocks=``; ``"tempering"``, for posteriors
            with several modes; ``"guide"``, weighted draws of the program's trained guide; ``"smc"``, weighted
            particles, with the evidence in the attributes; ``"exact"``, independent draws where all latent variables
            are discrete and local, by sums over their joint values (``"auto"`` there, of 4 chains). Discrete local
            variables beside continuous local ones are drawn given each draw of those.
        chains: The number C of chains, left out as many as ``init`` gives points for, else 64 to 512 (64 for other
            methods than ``"hmc"`` and ``"mala"``), the more the cheaper the gradient of one is; or the islands of
            ``"smc"`` (8).
        draws: The number S of draws that are kept of each chain; left out, the run ends when ``target_ess`` is met. Of
            the guide (1000), or the particles of an island of ``"smc"``.
        target_ess: Where ``draws`` is left out: the effective sample size that the latent variables are to reach, with
            chains that agree by R-hat (1000). A run ends at four times the draws of its first look or 100,000 of all
            chains, whichever is more, and warns if it falls short.
        warmup: Iterations of warm-up, before the first draw; left out, 120 to 1000, the fewer the more chains there
            are.
        thin: Of this many transitions the last is kept.
        init: Where chains start: ``"uniform"`` in (-2, 2) in unconstrained space, ``"prior"``, ``"guide"``,
            ``"pathfinder"``, unconstrained points with shape :math:`(C, *B, D)`, or values by name of the latent site.
        seed: Seeds all draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.
        keep_warmup: Whether the draws of the warm-up are kept too, in groups ``warmup_posterior`` and
            ``warmup_sample_stats``.
        log_likelihood: Whether to keep the log-likelihood of each datum under each draw, for LOO; left out, where it is
            at most 2^28 numbers.
        predictive: Whether to draw replicated data; left out, as ``log_likelihood``.
        dims: Names of the dimensions of sites, by site: a name for each dimension of the value. By default plates give
            theirs.
        coords: Labels by name of the dimension.
        save: A file ``.nc`` or a folder ``.zarr`` to which draws are written block by block, so that memory is bounded;
            what is returned is then read from there when it is asked for. Beside it stands a file ``.state``. A full
            disk or a kill leave the draws of the blocks before; a folder ``.zarr`` whatever comes, a file ``.nc``
            unless another process takes the space that was just found free.
        resume: Whether to go on with what ``save`` names: a run that was interrupted is finished, a finished one
            extended to ``draws``; the draws are those of an uninterrupted run. Starts anew where there is nothing yet.
            Refuses a run on other data, of a program with other parameters or other code, or with other settings. What
            dies within its first block begins anew.
        overwrite: Whether what ``save`` names may be replaced, where there is something. A folder that holds anything
            but draws is never deleted.
        compile: ``"off"``, ``"on"``, or ``"auto"``, where the run is long enough to repay it.
        options: Of the method.

    Returns:
        Groups ``posterior``, ``sample_stats``, ``log_likelihood``, ``posterior_predictive`` and ``observed_data``, see
        :mod:`pyro_gen.inference.export`. Where all latent variables are local there is one chain per datum, which
        ``sample_stats`` knows by its dimension ``data``. Weighted draws have their log-weights there, ``log_weight``.

    Raises:
        ValueError: There is no such method or option, the program has no density, names or labels do not fit, or what
            ``resume`` finds is another run.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> idata = posterior(model, torch.tensor([1.0, 2.0, 3.0]))
        >>> idata.posterior["mean"].dims, bool(abs(idata.posterior["mean"].mean() - 2.0) < 0.05)
        (('chain', 'draw'), True)
        >>> idata.log_likelihood["x"].dims
        ('chain', 'draw', 'data')
    """
    if method not in METHODS:
        raise ValueError(f"posterior(method={method!r}): choose one of {', '.join(METHODS)}.")
    if method in ("auto", "exact"):
        discrete = _all_discrete(program, data)
        if method == "exact" and not discrete:
            raise ValueError(
                'posterior(method="exact") sums over the values of discrete latent variables of each datum, and this '
                "model has others, global ones, or is a plain function: leave method out."
            )
        method = "exact" if discrete else "hmc"
    for name, number in (("chains", chains), ("draws", draws), ("thin", thin)):
        if number is not None and (not isinstance(number, int | np.integer) or number < 1):
            raise ValueError(f"posterior({name}={number!r}): give a positive whole number.")
    if resume and save is None:
        raise ValueError("posterior(resume=True): say what to go on with, by save=.")
    path = None if save is None else check_path(save)
    if method in ("guide", "smc", "exact"):
        _refuse(
            method,
            target_ess=target_ess,
            warmup=warmup,
            thin=thin - 1,
            keep_warmup=keep_warmup,
            resume=resume,
            init=init != "uniform",
        )
    if method == "guide":
        _refuse(method, chains=chains, **options)
        if not isinstance(program, Program):
            raise ValueError('posterior(method="guide") draws from the guide of a program, and was given a function.')
    arguments = as_arguments(program, *data)
    if method == "exact":
        assert isinstance(program, Program)
        _refuse(method, **options)
        options = {"blocks": dict.fromkeys(_local_labels(program, arguments), "enumerate")}
    try:
        target = density(program, *arguments, hold=_held_sites(method, options), compile=compile)
    except NoLatentError as error:
        raise without_latents(program, arguments, "posterior", error) from None
    if not any(site["is_observed"] for site in sample_sites(target.prototype).values()):
        warn(
            "Nothing is observed in the model (no obs=, no pg.observe, no factor): these are draws of its prior.",
        )
    names = layout(target.prototype, dims, coords)
    if target_ess is not None and draws is not None:
        raise ValueError(f"posterior(draws={draws}, target_ess={target_ess:g}): give one of them.")
    if target_ess is not None and not target_ess > 0:
        raise ValueError(f"posterior(target_ess={target_ess:g}): give a positive number.")
    wanted = stopping.TARGET_ESS if target_ess is None else target_ess
    if method in ("guide", "smc", "exact"):
        count = {"guide": 1, "smc": chains or 8, "exact": chains or 4}[method]
        shortest = draws or {"guide": GUIDE_DRAWS, "smc": 512, "exact": EXACT_DRAWS}[method]
    else:
        count = chains or initial.count(init) or _affordable_chains(target, method, wanted)
        shortest = draws or stopping.first_look(count, wanted)
    with claimed(path) if path is not None else nullcontext():
        if path is not None and not resume:
            check_free(path, overwrite)
        state = RunState.of(path, resume)
        if state is not None:
            log_likelihood, predictive = state.groups(log_likelihood, predictive)
        exporter = Exporter(
            target,
            names,
            log_likelihood=_fits("log_likelihood", log_likelihood, target, count * shortest),
            predictive=_fits("predictive", predictive, target, count * shortest),
            seed=seed,
            attrs={
                "method": method,
                "thin": thin,
                "scaled_by": json.dumps(scaled_sites(target)),
                **_shape_of_a_datum(program, arguments),
            },
        )
        _check_groups(exporter, target, predictive)
        if state is None and path is not None:
            RunState.file(path).unlink(missing_ok=True)  # of the run that is written over
        with progress_bar(f"posterior ({method})", progress) as report:
            if method == "guide":
                return from_guide(target, exporter, path, shortest, seed)
            if method == "exact":
                return from_sums(target, exporter, path, count, shortest, seed)
            if method == "smc":
                given = {"islands": chains, "particles": draws}
                options |= {name: number for name, number in given.items() if number is not None}
                return from_smc(target, exporter, path, seed, report, options)
            settings = {"chains": count, "thin": thin, "seed": seed}
            start = {"warmup": warmup, "init": init, "keep_warmup": keep_warmup}
            last = stopping.last_look(count, wanted)
            if (exporter.log_likelihood or exporter.predictive) and not (log_likelihood or predictive):
                last = max(shortest, min(last, LIMIT // max(1, count * _observed_numbers(target))))
            length = Length(draws, wanted, shortest, last)
            return from_chains(target, exporter, method, path, length, state, settings, start, report, options)


def _affordable_chains(target: ProgramDensity, method: str, wanted: float) -> int:
    many = method in ("hmc", "mala") and target.dim > 0 and not target.hold
    return stopping.cheapest_chains(target, wanted) if many else stopping.CHAINS[0]


def _observed_numbers(target: ProgramDensity) -> int:
    return sum(v.numel() for v in target.observed.values())


def _all_discrete(program: Program | Callable[..., Any], data: tuple[Any, ...]) -> bool:
    if not isinstance(program, Program) or not data or len(data[0]) == 0:
        return False
    arguments = as_arguments(program, *data)
    with evaluation(program), latent_missing(program, *arguments):
        return is_enumerable(program, *arguments)


def _shape_of_a_datum(program: Program | Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, str]:
    """Noted with the draws, so that new data of that shape can be predicted; as text, for files have no empty lists."""
    if not isinstance(program, Program) and not (arguments and isinstance(arguments[0], Tensor)):
        return {}
    if isinstance(program, PackedProgram):
        return {"event_shape": json.dumps(program.variables.event_shape)}
    return {"event_shape": json.dumps(list(arguments[0].shape[1:]))}


def _local_labels(program: Program, arguments: tuple[Any, ...]) -> list[str]:
    with evaluation(program), latent_missing(program, *arguments):
        return list(finite_sites(probe(program, *arguments)))


def _refuse(method: str, **given: Any) -> None:
    if wrong := [name for name, value in given.items() if value]:
        raise ValueError(f'posterior(method="{method}") does not take {wrong[0]}: leave it out.')


def _held_sites(method: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    if method not in ("gibbs", "exact"):
        return ()
    if "blocks" not in options:
        raise ValueError('posterior(method="gibbs") needs blocks=[...], what updates which sites.')
    return tuple(held_names(options["blocks"]))


def _fits(name: str, asked: bool | None, target: ProgramDensity, draws: int) -> bool:
    if asked is not None:
        return asked
    numbers = draws * _observed_numbers(target)
    if numbers > LIMIT:
        warn(
            f"posterior: the group {name} would be {numbers:,} numbers, so it is left out; {name}=True makes it (with "
            f"save=, on disk), {name}=False says that it is not wanted."
        )
    return numbers <= LIMIT


def _check_groups(exporter: Exporter, target: ProgramDensity, predictive: bool | None) -> None:
    """Makes all groups of one point, so that what is wrong with them is found before the run, not after it."""
    with seeded(0), torch.no_grad():
        z = torch.zeros(1, 1, *target.batch_shape, target.dim, dtype=target.dtype, device=target.device)
        held = target.draw_held(z[0]) if target.hold else {}
        values = {n: v[None] for n, v in target.constrain(z[0], held=held).items()}
        try:
            groups = exporter.groups(0, z, values, {}, held)
        except NotImplementedError as error:  # of torch's distributions that cannot be drawn from
            what = "an observed site has a distribution that cannot be drawn from, so there are no replicated data"
            if predictive:
                raise ValueError(f"posterior(predictive=True): {what}; leave predictive out.") from error
            warn(f"posterior: {what}; predictive=False says that they are not wanted.")
            exporter.predictive = False
            groups = exporter.groups(0, z, values, {}, held)
    exporter.datasets(groups)
    exporter.observed()
    exporter.layout.check([*values, *target.observed])
