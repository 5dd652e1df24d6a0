r"""What is known of the local latent variables of each datum, :math:`p(z_n \mid x_n)`.

Discrete variables are summed over, which is exact. Draws :math:`z_k` of the guide have importance weights
:math:`w_k \propto p(x_n, z_k) / q(z_k \mid x_n)`; without them they would be of the guide, not of the posterior. Beside
continuous variables, the probability of a value of a discrete one is the mean over draws of its probability given each,
:math:`p(y \mid x_n) = \sum_k w_k \, p(y \mid x_n, z_k)`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._sizes import check_counts
from pyro_gen.density import as_inputs, rows_of, sampling
from pyro_gen.density.finite import FiniteSite, finite_sites
from pyro_gen.density.missing import LatentMissing, latent_missing, missing_site
from pyro_gen.inference.global_draws import Given, global_draws
from pyro_gen.inference.kinds import not_for
from pyro_gen.inference.latents.result import Latents, Marginal
from pyro_gen.inference.likelihood.ais import is_annealed, posterior_draws
from pyro_gen.inference.likelihood.enumeration import Summed, enumerated, is_enumerable, marginals, probe
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.likelihood.weights import effective_sample_size, psis_khat
from pyro_gen.inference.posterior import posterior as draw_posterior
from pyro_gen.inference.proposals import guide_draws, guide_obstacle
from pyro_gen.observation import completions, no_completion
from pyro_gen.packing import packed_inputs, packs
from pyro_gen.program import Program
from pyro_gen.traces import data_dim, is_local, latent_sites, sample_sites, structure, trace_side

__all__ = ["latents"]

METHODS = ("auto", "exact", "guide", "hmc")
GLOBAL_DRAWS = 100  # of the global latent variables
MIN_PROPOSALS = 60  # for each of them: fewer have no tail that a Pareto distribution could be fitted to


@packs
def latents(
    program: Program | Callable[..., Any],
    x: Any,
    *context: Any,
    method: str = "auto",
    draws: int = 200,
    num_proposals: int = 1000,
    posterior: Any = "guide",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Latents:
    r"""The posterior of the local latent variables of each datum: codes, classes, scores, missing labels.

    Arguments:
        program: The program, or a plain Pyro model function.
        x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; several variables are a mapping or a
            tuple of such tensors.
        context: What the model conditions on, each with shape :math:`(N, *)`.
        method: ``"exact"``, sums over discrete variables, where all are; ``"guide"``, weighted draws of the trained
            guide; ``"hmc"``, draws of :func:`pyro_gen.posterior`. ``"auto"`` is exact where that applies, else by the
            guide, with data whose weights are not to be trusted (Pareto k-hat above 0.7) drawn by annealed importance
            sampling, else by Markov chains.
        draws: The number S of draws to return.
        num_proposals: Draws of the guide per datum, which are weighted.
        posterior: Of a program with global latent variables, where draws of them are from: the ``InferenceData`` of
            :func:`pyro_gen.posterior`, draws by name, or ``"guide"``. The result averages over 100 of them.
        options: Arguments of :func:`pyro_gen.posterior` for ``"hmc"``, ``{"chains": 8}`` say.
        seed: Seeds the draws; the caller's generators are left alone.

    Returns:
        Means, standard deviations, draws and probabilities by name of the site. Missing values that feed a later
        density are among them, by the name of their observe statement.

    Raises:
        ValueError: There is no such method, it does not apply, or the program has no local latent variable.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> def model(x):
        ...     with pg.plate(x):
        ...         k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
        ...         return pg.observe("x", dist.Normal(2.0 * k, 1.0), x)
        >>> found = latents(model, torch.tensor([1.0, 3.0]))
        >>> print(found)
        local latent variables of 2 data, by sums over all values (exact)
          k: 2 values; the most likely has probability 0.741 in the mean, 0.500 at least
        >>> found["k"].probabilities[0]
        tensor([0.5000, 0.5000], dtype=torch.float64)
        >>> found.to_pandas().columns.tolist()
        ['k=0', 'k=1']
    """
    if method not in METHODS:
        raise ValueError(f"latents(method={method!r}): choose one of {', '.join(METHODS)}.")
    check_counts("latents", draws=draws)
    check_counts("latents", 2, num_proposals=num_proposals)
    if options and method != "hmc":
        raise ValueError('latents(options=...) is for Markov chains: give method="hmc".')
    program, x = packed_inputs(program if isinstance(program, Program) else Program.from_functions(program), x)
    x, *rest = as_inputs(program, x, *context)
    context = tuple(rest)
    with (
        sampling(program, seed),
        latent_missing(program, x, *context) as handler,
    ):
        kinds = structure(program, x, *context)
        if kinds.kind == "implicit":
            raise not_for(program, kinds.kind, "latents")
        if kinds.kind == "unnormalised":
            raise ValueError(
                f"latents: {type(program).__name__} is {kinds.kind}, so its latent variables have no posterior for "
                "each datum here: pg.posterior draws from their joint one, where the data have a density."
            )
        if not kinds.local:
            raise ValueError(
                f"{type(program).__name__} has no local latent variable, one for each datum: pg.posterior draws "
                "global ones, and pg.impute completes data with missing entries."
            )
        seen = _seen(program, x, context, handler)
        if not kinds.global_:
            return _named(_of_rows(program, x, context, method, draws, num_proposals, options, seed), seen)
        shared = global_draws(program, kinds, x, context, posterior, "latents").equal(GLOBAL_DRAWS)
        each = math.ceil(draws / GLOBAL_DRAWS)
        proposals = max(MIN_PROPOSALS, num_proposals // GLOBAL_DRAWS)  # which are averaged over these draws too
        parts = []
        for s in range(GLOBAL_DRAWS):
            given = Given(program, {name: v[s] for name, v in shared.values.items()}).eval()
            with latent_missing(given, x, *context):
                parts.append(_of_rows(given, x, context, method, each, proposals, options, seed + s))
        return _named(_averaged(parts, draws), seen)


def _of_rows(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    method: str,
    draws: int,
    num_proposals: int,
    options: Mapping[str, Any] | None,
    seed: int,
) -> Latents:
    """The posterior of each datum under a program without global latent variables."""
    enumerable = is_enumerable(program, x, *context)
    if method == "exact" and not enumerable:
        raise ValueError(
            f'latents(method="exact") sums over discrete variables, and {type(program).__name__} has others: leave '
            "method out."
        )
    if method in ("auto", "exact") and enumerable:
        return _by_sums(program, x, context, draws)
    if method == "guide" or (method == "auto" and _is_guided(program, x, context)):
        return _by_guide(program, x, context, draws, num_proposals, method == "auto")
    return _by_hmc(program, x, context, draws, {"seed": seed, **(options or {})})


def _is_guided(program: Program, x: Tensor, context: tuple[Any, ...]) -> bool:
    if guide_obstacle(program, x, *context) not in (None, "rows"):
        return False
    first = probe(program, x, *context)
    guided = latent_sites(trace_side(program, "guide", x, *context))
    left = {n for n, s in latent_sites(first).items() if n not in guided and missing_site(s) is None}
    return left <= finite_sites(first).keys()


# ----------------------------------------------------------------------------------------------------------------------
# Ways to find it


def _by_sums(program: Program, x: Tensor, context: tuple[Any, ...], draws: int) -> Latents:
    sites = finite_sites(probe(program, x, *context))
    table: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for sums in enumerated(program, x, *context, instead='give method="guide", with a guide that samples them'):
        index = torch.multinomial(sums.log_weights.softmax(0).T, draws, replacement=True).T
        chances = marginals(sites, sums.values, sums.log_weights.unsqueeze(1))
        for name, value in sums.select(index).items():
            rows = value.movedim(sums.data_dims[name] + 1, 1)  # (S, n, *)
            if name not in table:
                drawn[name] = rows.new_empty(draws, len(x), *rows.shape[2:])
                table[name] = chances[name].new_empty(len(x), *chances[name].shape[2:])
            drawn[name][:, sums.rows], table[name][sums.rows] = rows, chances[name][0]
    return Latents({n: _discrete(sites[n], drawn[n], table[n]) for n in sites}, "exact")


def _discrete(site: FiniteSite, draws: Tensor, chances: Tensor) -> Marginal:
    """The marginal of a discrete site out of draws (S, N, *) and probabilities (N, units, V)."""
    event = site.support.dim() - 1
    places = draws.shape[2 : draws.dim() - event]
    probabilities = chances.reshape(len(chances), *places, len(site.support))
    support = site.support.double()
    mean = torch.tensordot(probabilities, support, 1)
    second = torch.tensordot(probabilities, support.square(), 1)
    return Marginal(draws, mean, (second - mean.square()).clamp(min=0).sqrt(), site.support, probabilities)


def _continuous(draws: Tensor, values: Tensor, weights: Tensor) -> Marginal:
    """The marginal of values (K, N, *) with normalised weights (K, N)."""
    w = weights.reshape(*weights.shape, *(1,) * (values.dim() - 2))
    mean = (w * values.double()).sum(0)
    sd = (w * (values.double() - mean).square()).sum(0).sqrt()
    return Marginal(draws, mean.to(values.dtype), sd.to(values.dtype))


def _by_guide(
    program: Program, x: Tensor, context: tuple[Any, ...], draws: int, num_proposals: int, mend: bool
) -> Latents:
    first = probe(program, x, *context)
    finite, names = finite_sites(first), list(latent_sites(first))
    parts: list[dict[str, Marginal]] = []
    weights: list[Tensor] = []
    for proposals in guide_draws(program, x, *context, num_particles=num_proposals):
        data = (x[proposals.rows], *rows_of(x, context, proposals.rows))
        w = proposals.log_weights.softmax(0)
        chosen = proposals.select(resample(proposals.log_weights, draws))
        parts.append(_marginals(program, data, finite, names, proposals.values, w, chosen))
        weights.append(proposals.log_weights)
    found = {n: _joined([p[n] for p in parts]) for n in parts[0]}
    log_w = torch.cat(weights, 1)
    ess, khat = effective_sample_size(log_w), psis_khat(log_w)
    bad = ~((khat <= 0.7) & (ess >= max(30, min(draws, num_proposals / 10))))
    annealed = torch.zeros_like(bad)
    if mend and bool(bad.any()) and is_annealed(program, x, *context):
        rows = bad.nonzero()[:, 0]
        start = "prior" if guide_obstacle(program, x, *context) else "guide"
        better = _by_ais(program, x[rows], rows_of(x, context, rows), draws, start)
        found = {n: _replaced(m, better[n], rows) for n, m in found.items()}
        annealed = bad
    return Latents(found, "guide", ess, khat, annealed)


def _marginals(
    program: Program,
    data: tuple[Any, ...],
    finite: Mapping[str, FiniteSite],
    names: list[str],
    values: Mapping[str, Tensor],
    weights: Tensor,
    chosen: Mapping[str, Tensor],
) -> dict[str, Marginal]:
    """The marginals of some rows out of weighted draws, those chosen among them, and discrete variables beside them.

    Arguments:
        program: The program.
        data: The rows.
        finite: The discrete variables.
        names: The latent sites of the model, in order.
        values: Draws of all but some discrete ones, each with shape :math:`(K, *site)`.
        weights: Normalised, with shape :math:`(K, n)`.
        chosen: S of the draws, each with shape :math:`(S, *site)`.
    """
    sites = latent_sites(trace_side(program, "model", *data))
    dims = {n: data_dim(s) + 1 for n, s in sites.items()}
    left = {n: f for n, f in finite.items() if n not in values}
    found = {}
    beside: dict[str, Tensor] = {}
    tables: dict[str, Tensor] = {}
    if left:
        summed = Summed(program, left, data)
        given = {n: v for n, v in values.items() if n in sites}
        beside = summed.draw({n: v for n, v in chosen.items() if n in sites}, len(next(iter(chosen.values()))))
        chances = summed.probabilities(given, len(weights))
        tables = {n: torch.einsum("kn,knuv->nuv", weights, c) for n, c in chances.items()}
    for name in names:
        if name in left:
            found[name] = _discrete(left[name], beside[name].movedim(dims[name], 1), tables[name])
            continue
        drawn, all_ = chosen[name].movedim(dims[name], 1), values[name].movedim(dims[name], 1)
        if name in finite:
            units = torch.stack([finite[name].rows_of_units(v) for v in values[name]])  # (K, n, units, *event)
            of_value = [(units == v).reshape(*units.shape[:3], -1).all(3) for v in finite[name].support]
            table = torch.einsum("kn,knuv->nuv", weights, torch.stack(of_value, -1).to(weights.dtype))
            found[name] = _discrete(finite[name], drawn, table)
        else:
            found[name] = _continuous(drawn, all_, weights)
    return found


def _by_ais(program: Program, x: Tensor, context: tuple[Any, ...], draws: int, start: str) -> dict[str, Marginal]:
    first = probe(program, x, *context)
    parts = []
    for rows, values in posterior_draws(program, x, *context, draws=draws, start=start):
        data = (x[rows], *rows_of(x, context, rows))
        weights = torch.full((draws, len(data[0])), 1 / draws, dtype=torch.float64, device=x.device)
        parts.append(_marginals(program, data, finite_sites(first), list(latent_sites(first)), values, weights, values))
    return {n: _joined([p[n] for p in parts]) for n in parts[0]}


def _by_hmc(program: Program, x: Tensor, context: tuple[Any, ...], draws: int, options: Mapping[str, Any]) -> Latents:
    plain: dict[str, Any] = {"method": "hmc", "log_likelihood": False, "predictive": False, "progress": False}
    found: Any = draw_posterior(program, x, *context, **(plain | dict(options)))
    first = probe(program, x, *context)
    sites = latent_sites(first)
    values = {
        str(n): torch.tensor(v.transpose("chain", "draw", ...).values).flatten(0, 1).to(x.device)
        for n, v in found.posterior.data_vars.items()
        if n in sites
    }
    total = len(next(iter(values.values())))
    chosen = torch.linspace(0, total - 1, draws, dtype=torch.float64).round().long()
    weights = torch.full((total, len(x)), 1 / total, dtype=torch.float64, device=x.device)
    few = {n: v[chosen] for n, v in values.items()}
    finite = finite_sites(first)
    return Latents(_marginals(program, (x, *context), finite, list(sites), values, weights, few), "hmc")


# ----------------------------------------------------------------------------------------------------------------------
# Putting parts together


def _joined(parts: list[Marginal]) -> Marginal:
    """Of consecutive rows one."""
    draws = torch.cat([p.draws for p in parts], 1)
    mean, sd = torch.cat([p.mean for p in parts]), torch.cat([p.sd for p in parts])
    tables = [p.probabilities for p in parts if p.probabilities is not None]
    return Marginal(draws, mean, sd, parts[0].values, torch.cat(tables) if tables else None)


def _replaced(old: Marginal, new: Marginal, rows: Tensor) -> Marginal:
    draws, mean, sd = old.draws.clone(), old.mean.clone(), old.sd.clone()
    draws[:, rows], mean[rows], sd[rows] = new.draws, new.mean, new.sd
    table = old.probabilities
    if table is not None and new.probabilities is not None:
        table = table.clone()
        table[rows] = new.probabilities
    return Marginal(draws, mean, sd, old.values, table)


def _averaged(parts: list[Latents], draws: int) -> Latents:
    """The mixture of posteriors given draws of what is global."""
    found = {}
    for name in parts[0]:
        each = [p[name] for p in parts]
        means, sds = torch.stack([m.mean for m in each]), torch.stack([m.sd for m in each])
        mean = means.mean(0)
        sd = (sds.square().mean(0) + (means - mean).square().mean(0)).sqrt()
        tables = [m.probabilities for m in each if m.probabilities is not None]
        drawn = torch.cat([m.draws for m in each])
        drawn = drawn[torch.linspace(0, len(drawn) - 1, draws, dtype=torch.float64).round().long()]
        found[name] = Marginal(drawn, mean, sd, each[0].values, torch.stack(tables).mean(0) if tables else None)
    khats = [p.khat for p in parts if p.khat is not None]
    sizes = [p.ess for p in parts if p.ess is not None]
    mended = [p.annealed for p in parts if p.annealed is not None]
    return Latents(
        found,
        parts[0].method,
        torch.stack(sizes).sum(0) if sizes else None,
        torch.stack(khats).median(0).values if khats else None,
        torch.stack(mended).any(0) if mended else None,
    )


def _seen(program: Program, x: Tensor, context: tuple[Any, ...], handler: LatentMissing) -> dict[str, Tensor]:
    """By statement whose missing entries are latent, its value with NaN where missing, data dimension first."""
    if not handler.names:
        return {}
    with pyro.poutine.trace() as tape, completions() as values, no_completion():
        program.model(x, *context)
    sites = sample_sites(tape.trace)
    return {
        n: values[n].movedim(data_dim(sites[n]), 0)
        for n in handler.names
        if is_local(sites[n]) and values[n].isnan().any()
    }


def _named(found: Latents, seen: Mapping[str, Tensor]) -> Latents:
    """Missing entries by the name of their statement, with what was seen of it at its value."""
    out = {}
    for name, m in found.items():
        statement = name.removesuffix(".missing")
        if statement == name or statement not in seen:
            out[name] = m
            continue
        value = seen[statement]
        here = ~value.isnan()
        draws = torch.where(here, value.to(m.draws.dtype), m.draws)
        mean, sd = torch.where(here, value.to(m.mean.dtype), m.mean), torch.where(here, 0.0, m.sd)
        table = m.probabilities
        if table is not None and m.values is not None:
            event = m.values.dim() - 1
            equal = value.unsqueeze(-1 - event) == m.values.to(value.dtype)  # (N, *, V, *event)
            sure = equal.reshape(*table.shape, -1).all(-1).to(table.dtype)
            of_event = here.reshape(*table.shape[:-1], -1).all(-1, keepdim=True)
            table = torch.where(of_event, sure, table)
        out[statement] = Marginal(draws, mean, sd, m.values, table)
    return Latents(out, found.method, found.ess, found.khat, found.annealed)
