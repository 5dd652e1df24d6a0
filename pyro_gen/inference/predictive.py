r"""Generation, reconstruction and imputation: what a program says about entries that nobody observed.

All three are one thing, since NaN means "not observed" and an observe statement completes it: generation completes a
datum of which nothing is seen with latent variables of the prior, imputation completes a datum in part with latent
variables of the posterior, :math:`p(x_m | x_o) = \int p(x_m | x_o, z) \, p(z | x_o) \, dz`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._errors import warn
from pyro_gen._progress import listening, told
from pyro_gen._random import seeded
from pyro_gen._sizes import check_counts
from pyro_gen.data import as_tensor
from pyro_gen.density import as_inputs, row_chunks, rows_of, sampling
from pyro_gen.density.data_support import DataSupport, require_support
from pyro_gen.density.finite import finite_sites, joint_values, present_units
from pyro_gen.density.missing import latent_missing, missing_site, needs_latent
from pyro_gen.inference.diagnose import diagnose
from pyro_gen.inference.factors import refuse_data_factors
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.likelihood.ais import is_annealed, posterior_draws
from pyro_gen.inference.likelihood.by_particles import particle_draws
from pyro_gen.inference.likelihood.entries import misses_levels
from pyro_gen.inference.likelihood.enumeration import MAX_ASSIGNMENTS, Summed, enumerated, is_enumerable, probe
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.schedules import Options
from pyro_gen.inference.likelihood.twisted import is_twisted, twisted_draws
from pyro_gen.inference.likelihood.weights import effective_sample_size, psis_khat
from pyro_gen.inference.likelihood_means import mean_of
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.progress import progress_bar
from pyro_gen.inference.proposals import guide_draws, guide_obstacle, guide_on, require_encoder
from pyro_gen.inference.returned import complete, require_completed
from pyro_gen.inference.simulate import ROWS, given_context, not_amortised, nothing_seen, simulate
from pyro_gen.inference.unnormalised import complete_rows, generate
from pyro_gen.observation import assume_missing, completions
from pyro_gen.packing import packs, packs_functions
from pyro_gen.program import Program, fixed
from pyro_gen.traces import Structure, data_dim, is_local, sample_sites, structure, trace_side

__all__ = ["impute", "reconstruct", "sample", "with_latents"]

RETRY_FACTOR = 25  # times as many, where they are not enough and nothing else applies
PROPOSALS = 200  # draws of the guide per datum, to resample from
HMC_DRAWS = 100  # of each of 64 chains, at least


@packs
def sample(
    program: Program,
    n: int,
    *,
    context: tuple[Any, ...] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
) -> Any:
    """Generates data.

    Local latent variables come from the prior. Global ones, the weights of a Bayesian network say, come from the guide:
    after training it is what is known of them. Of an unnormalised program data are drawn by chains over all of x, which
    go from the base to its density, see :mod:`pyro_gen.inference.unnormalised`.

    Arguments:
        program: The program.
        n: The number of data.
        context: A tuple of what the model conditions on, each with shape :math:`(n, *)`.
        options: Of these chains, as ``{"chains": 4000, "temperatures": 500}``.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.

    Returns:
        The data, with shape :math:`(n, *)`; of several variables a mapping or a tuple of such tensors.

    Raises:
        ValueError: The program does not know the shape of a datum, or its model does not return the completed data.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Dice(Program):
        ...     event_shape = torch.Size([2])
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             return observe("x", dist.Categorical(torch.ones(2, 6)).to_event(1), x)
        >>> sample(Dice(), 3).shape
        torch.Size([3, 2])
    """
    context = given_context(program, n, context)
    x = nothing_seen(program, n, *context)
    few = (x[:ROWS], *rows_of(x, context, slice(ROWS)))
    with sampling(program, seed):
        kinds = structure(program, *few)
        if kinds.kind == "unnormalised" and not kinds.global_:
            with progress_bar("sample", progress) as report:
                return generate(program, x, context, options or {}, report)
        if options:
            raise ValueError("sample(options=...) is for the chains of unnormalised programs, which this one is not.")
        with progress_bar("sample", progress) as report, listening(report):
            return simulate(program, n, context, kinds)[0]


@packs
def reconstruct(program: Program, x: Any, *context: Any, draws: int = 1, seed: int = 0) -> Any:
    """Encodes and decodes data: the mean of the likelihood at draws of the guide.

    Arguments:
        program: The program.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed, or several variables.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        draws: How many draws of the guide to average over.
        seed: Seeds the draws; the caller's generators are left alone.

    Returns:
        The means, with the shape of ``x``, also of entries that were not observed, and NaN beyond the end of a
        sequence. Of several variables those that have no mean, labels say, are NaN.

    Raises:
        ValueError: The likelihood has no mean, or no observed site has the shape of the data.
    """
    check_counts("reconstruct", draws=draws)
    x, *rest = as_inputs(program, x, *context)
    context = tuple(rest)
    out = []
    with (
        sampling(program, seed),
        latent_missing(program, x, *context) as handler,
    ):
        few = (x[:ROWS].contiguous(), *rows_of(x, context, slice(ROWS)))
        with DataSupport(few[0]) as found:
            kinds = structure(program, *few)
        require_support(program, found, x, context)
        if kinds.kind == "unnormalised":
            if not kinds.local and not kinds.global_:
                raise not_for(program, kinds.kind, "reconstruct")
            refuse_data_factors(program, x, *context, verb="reconstruct")
        first = (x[:1], *rows_of(x, context, slice(1)))
        left_to_guide = [n for n in kinds.local if n not in finite_sites(probe(program, *first))]
        for rows in row_chunks(len(x), ROWS):
            data = (x[rows].contiguous(), *rows_of(x, context, rows))
            total, seen = torch.zeros_like(data[0]), completions()
            known = _weighed(program, data, draws) if handler.names else {}
            for s in range(draws):
                latent = {name: v[s] for name, v in known.items()}
                if not known:
                    sites = sample_sites(trace_side(program, "guide", *data))
                    require_encoder(program, sites, left_to_guide)
                    latent = {name: s["value"] for name, s in sites.items() if not s["is_observed"]}
                    latent |= _left_to_sums(program, data, latent)
                # The observed distribution as the model wrote it, not marginalised over what is missing.
                whole = assume_missing(False)
                with pyro.poutine.trace() as tape, seen, fixed(latent), whole, handler.again():
                    program.model(*data)
                total += mean_of(program, tape.trace, data[0], seen.observed)
            out.append((total / draws).masked_fill(seen.beyond(data[0]), torch.nan))
    return torch.cat(out)


def _left_to_sums(program: Program, data: tuple[Any, ...], drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws of the discrete latent variables that a guide leaves to enumeration, given what it drew and the data."""
    sites = sample_sites(probe(program, *data))
    known = {name: v.unsqueeze(0) for name, v in drawn.items() if name in sites}
    if not (left := finite_sites(probe(program, *data), known)):
        return {}
    shared = [name for name in known if not is_local(sites[name])]
    found = Summed(program, left, data, without=shared).draw(known, 1)
    return {name: v[0] for name, v in found.items() if name not in drawn}


def _weighed(program: Program, data: tuple[Any, ...], draws: int) -> dict[str, Tensor]:
    """Draws of all latent variables of some rows, missing entries among them, weighed by what was seen, (S, *site)."""
    if is_enumerable(program, *data):
        return Summed(program, finite_sites(probe(program, *data)), data).draw({}, draws)
    parts = [p.select(resample(p.log_weights, draws)) for p in guide_draws(program, *data, num_particles=PROPOSALS)]
    sites = sample_sites(trace_side(program, "model", *data))
    drawn = {n: torch.cat([p[n] for p in parts], data_dim(sites[n]) + 1) for n in parts[0] if n in sites}
    left = finite_sites(probe(program, *data), drawn)
    return drawn | (Summed(program, left, data).draw(drawn, draws) if left else {})


@packs_functions
def impute(
    program: Program | Callable[..., Any],
    x: Any,
    *context: Any,
    draws: int = 20,
    method: str = "auto",
    num_proposals: int = PROPOSALS,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | Callable[[float], None] = True,
) -> Any:
    r"""Draws the missing entries from their distribution given the seen ones.

    Without latent variables the observe statement draws from :math:`p(x_m | x_o)` itself. With local ones, draws of the
    guide are resampled by their importance weights, and rows where the weights are not to be trusted (Pareto k-hat
    above 0.7, or 0.57 for 200 proposals; effective sample size below 30 or the number of draws) are drawn by annealed
    importance sampling. It starts from the prior where the guide is a point (a Delta, as of MAP estimation), which
    proposes nothing, or has parameters for each datum of its training. Discrete latent variables alone are drawn from
    their posterior itself. With global ones, the guide's draws stand for the posterior, and where the guide leaves
    latent variables out, draws of many chains of Hamiltonian Monte Carlo do.

    Missing entries that no observe statement can draw, of a flow or of data that a factor weighs, are latent variables:
    they go from the base, or from a Gaussian with the moments of the flow's draws, to their density given the seen
    entries by annealed importance sampling, of a flow by sequential Monte Carlo
    (:mod:`pyro_gen.inference.unnormalised`); or by ``"hmc"``, which says by R-hat whether the chains agree. Those of a
    diffusion are drawn by sequential Monte Carlo along its chain (:mod:`pyro_gen.inference.likelihood.twisted`), those
    of an absorbing diffusion by particles along it (:mod:`pyro_gen.inference.likelihood.revealing`), those of an
    autoregressive program by particles along its order (:mod:`pyro_gen.inference.likelihood.in_order`). Without options
    and with ``method="auto"``, a program that draws missing entries itself (:meth:`pyro_gen.Program.draw_missing`)
    does: a VQ-VAE by Gibbs sampling of its codes.

    Arguments:
        program: The program, or a plain Pyro model function.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; or several variables, a mapping or a
            tuple of such tensors.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        draws: The number S of completed data sets.
        method: ``"guide"`` for resampled draws of the guide alone, ``"ais"`` for annealed importance sampling alone,
            ``"smc"`` for particles of a diffusion or of an autoregressive program, ``"hmc"`` for draws of
            :func:`pyro_gen.posterior`, or ``"auto"`` as said above.
        num_proposals: Draws of the guide per row to resample from.
        options: Arguments of :func:`pyro_gen.posterior` where it is what draws, as
            ``{"chains": 8, "draws": 50, "warmup": 300}``; its ``draws`` are those of each chain, evenly over which the
            S are chosen. Left out, there are 64 chains of 100 draws, or more where S needs them. Of the annealing,
            ``method="ais"`` or where missing entries are latent variables: ``{"chains": 256, "temperatures": 500}``. Of
            a diffusion: ``{"particles": 256, "islands": 8}``; of an absorbing diffusion and of an autoregressive
            program: ``{"particles": 1000}``, by default 256 or more, and 16 times as many where few of them count.
        seed: Seeds the draws; the caller's generators are left alone.
        progress: Whether to show a progress bar on standard error once 2 seconds have passed; or a function to be
            called with the fraction done.

    Returns:
        Completed data with shape :math:`(S, N, *)`, each variable of several; entries that were seen are
        bit-identical.

    Raises:
        ValueError: The method does not exist or does not apply, or the options are not for it.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Pair(Program):
        ...     def model(self, x):
        ...         covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
        ...         with self.plate(x):
        ...             return observe("x", dist.MultivariateNormal(torch.zeros(2), covariance), x)
        >>> y = impute(Pair(), torch.tensor([[2.0, torch.nan]]), draws=1000)
        >>> abs(y[:, 0, 1].mean().item() - 1.8) < 0.1, y[:, 0, 0].unique().item()
        (True, 2.0)
    """
    if method not in ("auto", "guide", "ais", "smc", "hmc"):
        raise ValueError(f'impute(method={method!r}): choose "auto", "guide", "ais", "smc" or "hmc".')
    check_counts("impute", draws=draws, num_proposals=num_proposals)
    if options and (method == "guide" or options.get("method") in ("guide", "smc")):
        raise ValueError('impute(options=...) is for chains: give method="hmc" or "ais", and no weighted draws.')
    program = program if isinstance(program, Program) else Program.from_functions(program)
    data = as_tensor(x)
    x, *rest = as_inputs(program, data, *context)
    context = tuple(rest)
    out = x.expand(draws, *x.shape).clone()
    holes = torch.isnan(x).reshape(len(x), -1).any(1).nonzero()[:, 0]
    if len(holes) == 0:
        return data.expand(draws, *data.shape).clone()
    if method in ("auto", "smc") and is_twisted(program):
        y = (x[holes], *rows_of(x, context, holes))
        with seeded(seed), progress_bar("impute", progress) as report:
            out[:, holes] = twisted_draws(program, *y, draws=draws, progress=report, **(options or {}))
        return torch.where(torch.isnan(data), out.to(data.dtype), data)
    with (
        sampling(program, seed),
        latent_missing(program, x, *context, every=needs_latent(program, x, *context)) as handler,
    ):
        few = (x[:2].contiguous(), *rows_of(x, context, slice(2)))
        with DataSupport(few[0]) as found:
            kinds = structure(program, *few)
        require_support(program, found, x, context)
        if kinds.kind == "unnormalised" and kinds.global_:
            refuse_data_factors(program, x, *context, verb="impute")
        some, given = x[holes], rows_of(x, context, holes)
        make = program.missing_particles(some, *given) if method in ("auto", "smc") else None
        if make is not None and (method == "smc" or options or not is_enumerable(program, some, *given)):
            with progress_bar("impute", progress) as report, listening(report):
                out[:, holes] = particle_draws(make, some, given, draws, options or {})
            return torch.where(torch.isnan(data), out.to(data.dtype), data)
        if method == "smc":
            raise ValueError(
                'impute(method="smc") is for diffusions, and for autoregressive programs with entries missing before '
                'others that were seen: give method="ais" or "auto".'
            )
        if method == "auto" and not options:
            with progress_bar("impute", progress) as report, listening(report):
                drawn = program.draw_missing(some, draws, *given)
            if drawn is not None:
                out[:, holes] = drawn
                return torch.where(torch.isnan(data), out.to(data.dtype), data)
        generates = kinds.kind == "implicit" and not kinds.global_ and bool(x[holes].isnan().all())
        if kinds.kind == "implicit" and not generates:
            raise not_for(program, kinds.kind, "impute")
        require_completed(program, x[holes], rows_of(x, context, holes))
        if method in ("auto", "ais") and handler.every and _by_density_alone(program, kinds, x, context):
            rows = (x[holes], rows_of(x, context, holes))
            with progress_bar("impute", progress) as report:
                out[:, holes] = complete_rows(program, *rows, draws, "impute", options, report, method == "ais")
            return torch.where(torch.isnan(data), out.to(data.dtype), data)
        if method == "guide" and handler.every and kinds.global_:
            raise ValueError(
                f"impute: the missing entries of {type(program).__name__} are latent variables beside global ones, and "
                'its guide does not propose them: give method="hmc".'
            )
        together = handler.every and bool(kinds.global_)
        by_chains = method == "auto" and not generates and (together or _leaves_out(program, kinds, x, context))
        if method == "hmc" or by_chains:
            settings: dict[str, Any] = {"seed": seed, "progress": progress}
            alone = handler.every and _by_density_alone(program, kinds, x, context)
            if alone and not is_enumerable(program, x, *context):
                settings["init"] = "prior"  # what stands for the law of the missing entries is near to it
            settings |= options or {}
            out[:, holes] = _by_hmc(program, kinds, x, context, draws, settings)[:, holes]
            return torch.where(torch.isnan(data), out.to(data.dtype), data)
        if options and (method != "ais" or generates or kinds.kind == "exact"):
            raise ValueError('impute(options=...): this program is imputed without chains; give method="ais" or "hmc".')
        obstacle = guide_obstacle(program, x, *context) if kinds.kind == "bound" else None
        if obstacle == "rows" or kinds.global_:  # a guide of global variables may read all rows
            holes = torch.arange(len(x), device=x.device)
        y, context = x[holes], rows_of(x, context, holes)
        start = "guide" if obstacle is None else "prior"
        discrete = method == "auto" and is_enumerable(program, y, *context) and _left_to_guide(program, y, context)
        if generates or kinds.kind == "exact":
            with progress_bar("impute", progress) as report, listening(report):
                completed = _by_rows(program, y, context, draws)
        elif kinds.global_ and method != "ais":
            if obstacle == "other rows":
                raise not_amortised(program, len(x))
            completed = _by_guide_alone(program, y, context, draws)
        elif method == "auto" and is_enumerable(program, y, *context) and not discrete:
            completed = _by_enumeration(program, y, context, draws)
        elif method == "ais" or (method == "auto" and obstacle in ("point", "other rows")):
            completed = _by_ais(program, y, context, draws, {"start": start, **(options or {})})
        else:
            completed, trusted = _by_guide(program, y, context, draws, num_proposals)
            hard = (~trusted).nonzero()[:, 0]
            if len(hard) and method == "auto" and (discrete or not is_annealed(program, y, *context)):
                more = RETRY_FACTOR * num_proposals
                completed[:, hard], again = _by_guide(program, y[hard], rows_of(y, context, hard), draws, more)
                hard = hard[~again]
            elif len(hard) and method == "auto":
                completed[:, hard] = _by_ais(program, y[hard], rows_of(y, context, hard), draws, {"start": start})
                hard = hard[:0]
            if len(hard):
                warn(
                    f"impute: the guide misses part of the posterior of {len(hard)} of {len(y)} rows (by Pareto k-hat "
                    'and effective sample size), so their draws are not to be trusted: use method="auto".'
                )
    out[:, holes] = completed
    return torch.where(torch.isnan(data), out.to(data.dtype), data)  # the program may be of lower precision


def _by_density_alone(program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether chains over the missing entries draw them: nothing else is latent, or no guide may propose it.

    Beside discrete ones no guide may, since they are no integral over its draws.
    """
    if kinds.kind == "unnormalised" and not kinds.global_:
        return True
    alone = all(name.endswith(".missing") for name in kinds.local)
    return not kinds.global_ and (alone or misses_levels(program, x, *context))


def _by_rows(program: Program, x: Tensor, context: tuple[Any, ...], draws: int) -> Tensor:
    """All draws of all rows, ROWS of them at a time: rows are independent, and a run of the model costs most."""
    repeated = torch.arange(len(x), device=x.device).repeat(draws)
    chunks = told(repeated.split(ROWS))
    return torch.cat([complete(program, x[r], rows_of(x, context, r)) for r in chunks]).reshape(draws, *x.shape)


def _leaves_out(program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether the guide leaves latent variables of the model out."""
    few = (x[:1], *rows_of(x, context, slice(1)))
    model = sample_sites(probe(program, *few))
    trace = guide_on(program, *few) or guide_on(program, x, *context)
    if trace is None:  # it has parameters for other rows: what they say of global variables is for these alone
        return bool(kinds.global_)
    guide = sample_sites(trace)
    left = {*kinds.local, *kinds.global_} - guide.keys() - finite_sites(probe(program, *few)).keys()
    # Missing entries are proposed by the model itself, where nothing but the datum is to be known for that.
    return any(kinds.global_ or missing_site(model[n]) is None for n in left)


def _by_hmc(
    program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...], draws: int, options: Mapping[str, Any]
) -> Tensor:
    enough = max(HMC_DRAWS, math.ceil(draws / (options.get("chains") or 64)))
    plain: dict[str, Any] = {"draws": enough, "log_likelihood": False, "predictive": False}
    found: Any = posterior(program, x, *context, **(plain | dict(options)))
    finite = finite_sites(probe(program, x, *context))
    latent = [name for name in (*kinds.local, *kinds.global_) if name in found.posterior or name not in finite]
    if summed := [name for name in latent if name not in found.posterior]:
        raise ValueError(
            f"impute: '{summed[0]}' is discrete, and a posterior by Hamiltonian Monte Carlo sums it out: write a guide "
            "for it."
        )
    total = found.posterior.sizes["chain"] * found.posterior.sizes["draw"]
    if total < draws:
        raise ValueError(f"impute(draws={draws}): the posterior has {total} draws; give options with more of them.")
    diagnosis = diagnose(found)
    if diagnosis.problems:
        warn(f"impute: the chains are not to be trusted. {diagnosis}")
    values = {name: torch.tensor(found.posterior[name].values).flatten(0, 1).to(x.device) for name in latent}
    # Over the chains: neighbours in one resemble each other.
    spread = torch.linspace(0, total - 1, draws, dtype=torch.float64).round().long()
    return with_latents(program, x, context, {name: v[spread] for name, v in values.items()})


def _by_guide_alone(program: Program, x: Tensor, context: tuple[Any, ...], draws: int) -> Tensor:
    """Takes the guide's draws for draws of the posterior."""
    drawn: list[dict[str, Tensor]] = []
    for _ in range(draws):
        sites = sample_sites(trace_side(program, "guide", x, *context))
        drawn.append({name: s["value"] for name, s in sites.items() if not s["is_observed"]})
    return with_latents(program, x, context, {name: torch.stack([d[name] for d in drawn]) for name in drawn[0]})


def with_latents(program: Program, x: Tensor, context: tuple[Any, ...], values: dict[str, Tensor]) -> Tensor:
    """Completes the data given each of S values of the latent variables; discrete ones without a value are drawn."""
    sites = sample_sites(probe(program, x, *context))
    latent = {name: v for name, v in values.items() if name in sites}  # and not what an autoguide draws besides
    if left := finite_sites(probe(program, x, *context), latent):
        shared = [name for name in latent if not is_local(sites[name])]
        latent |= Summed(program, left, (x, *context), without=shared).draw(latent, len(next(iter(latent.values()))))
    completed = []
    for s in range(len(next(iter(latent.values())))):
        with fixed({name: v[s] for name, v in latent.items()}):
            completed.append(complete(program, x, context))
    return torch.stack(completed)


def _by_guide(
    program: Program, x: Tensor, context: tuple[Any, ...], draws: int, num_proposals: int
) -> tuple[Tensor, Tensor]:
    completed, trusted = [], []
    for proposals in guide_draws(program, x, *context, num_particles=num_proposals):
        rows, log_w = proposals.rows, proposals.log_weights
        index = resample(log_w, draws)
        completed.append(with_latents(program, x[rows], rows_of(x, context, rows), proposals.select(index)))
        # The shape that so few weights can bear (Vehtari et al., 2024, section 3.2.4), and enough of them that count.
        bearable = min(0.7, 1 - 1 / math.log10(num_proposals)) if num_proposals > 10 else -math.inf
        enough = effective_sample_size(log_w) >= max(draws, 30)
        trusted.append((psis_khat(log_w) <= bearable) & enough)
    return torch.cat(completed, 1), torch.cat(trusted)


def _left_to_guide(program: Program, x: Tensor, context: tuple[Any, ...]) -> bool:
    """Whether discrete latent variables have too many joint values to be summed over, and the guide proposes them."""
    sites = finite_sites(probe(program, x, *context))
    counts = joint_values(sites, present_units(sites, program, x, *context))
    guide = guide_on(program, x[:1], *rows_of(x, context, slice(1)))
    proposed = guide is not None and sites.keys() <= sample_sites(guide).keys()
    return proposed and bool((counts > MAX_ASSIGNMENTS).any())


def _by_enumeration(program: Program, x: Tensor, context: tuple[Any, ...], draws: int) -> Tensor:
    completed = x.expand(draws, *x.shape).clone()
    for sums in enumerated(program, x, *context, instead='give method="guide", with a guide that samples them'):
        # Independent draws: a posterior of few values is no place for resampling that spreads them evenly.
        chances = sums.log_weights.softmax(0).T
        index = torch.multinomial(chances, draws, replacement=True).T
        latents = sums.select(index)
        completed[:, sums.rows] = with_latents(program, x[sums.rows], rows_of(x, context, sums.rows), latents)
    return completed


def _by_ais(program: Program, x: Tensor, context: tuple[Any, ...], draws: int, options: Mapping[str, Any]) -> Tensor:
    Options.of(None, **options)  # refuses what is none of them
    return torch.cat(
        [
            with_latents(program, x[rows], rows_of(x, context, rows), values)
            for rows, values in posterior_draws(program, x, *context, draws=draws, **options)
        ],
        1,
    )
