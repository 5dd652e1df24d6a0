r"""Is the density of what was seen that of all entries with the missing one integrated out?

One entry of a row is taken away, and the log-density that the package gives to the rest,
:math:`\log p(x_{-d} \mid z)` with the latent variables held, is compared with

.. math:: \log \int p(x_1, \dots, x_d, \dots \mid z) \, dx_d

by enumeration or quadrature: the model is run on rows with all entries there, so that nothing of what deals with
missing ones is on both sides.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_gen._random import seeded
from pyro_gen.density.chains import mapped, vmap_or_loop
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import (
    MissingEntries,
    completed_once,
    latent_missing,
    missing_site,
    propose_missing,
)
from pyro_gen.distributions import elements
from pyro_gen.inference.likelihood.enumeration import Summed
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp
from pyro_gen.observation import assume_missing, completions, no_completion
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_frame, per_datum_log_prob, sample_sites

__all__ = ["Comparison", "compare_marginals"]

TRIES = 48  # entries that are looked at to find some of each site
PER_SITE = 2  # entries of each site
ROWS = 3  # in which an entry is taken away
DRAWS = 4096  # of missing entries that are not summed over
POINTS = (201, 801, 3201)  # of quadrature, until two agree
WIDTH = 14  # standard deviations of the entry given what comes before it, to both sides; over the real line,
SINH_LIMIT = 20.0  # the same number of sinh(20)
COUNTS = 2048  # summed over, from 0
MIN_EFFECTIVE_DRAWS = 100  # effective draws from which a standard error can be had


@dataclass(frozen=True)
class Comparison:
    """The log-density of what was seen in some rows in which one entry is missing.

    Attributes:
        site: The observe statement that the entry belongs to.
        found: What the package gives, in nats, with shape :math:`(n)`.
        expected: By enumeration or quadrature; ``None`` where neither can be done.
        error: The standard error of ``found``, 0 where it is exact; infinite where it is not known.
        reason: Why there is no comparison; empty if there is one.
    """

    site: str
    found: Tensor
    expected: Tensor | None
    error: Tensor
    reason: str = ""


def compare_marginals(
    program: Program, x: Tensor, context: tuple[Any, ...], latents: Mapping[str, Tensor], seed: int
) -> Iterator[Comparison]:
    """Takes entries away, some of each observed site, and compares.

    Arguments:
        program: The program, in evaluation mode.
        x: Some rows with shape :math:`(n, *)`.
        context: What the model conditions on; what it observes of that is data too.
        latents: Values of the latent variables by name, for these rows.
        seed: Seeds the draws.
    """
    parts = [x, *context]
    with seeded(seed), torch.no_grad(), fixed(latents), MissingEntries() as before:
        program.model(*parts)
    often: Counter[str] = Counter()
    for which, part in enumerate(parts):
        if not isinstance(part, Tensor) or not part.is_floating_point() or part.shape[:1] != x.shape[:1]:
            continue
        entries = part[0].numel()
        with seeded(seed):
            order = torch.randperm(entries)[:TRIES].tolist()
        for entry in order:
            holed = part.clone()
            holed.view(len(part), -1)[:, entry] = torch.nan
            data = (*parts[:which], holed, *parts[which + 1 :])
            enough = {site for site, n in often.items() if n >= PER_SITE}
            try:
                with seeded(seed), torch.no_grad():
                    missing = _missing_entry(program, parts, which, entry, data, latents, before, enough)
            except Exception as error:
                # Seen entirely or not at all: nothing to take away an entry from. Or what the model conditions on: one
                # that does not observe it need not run without it.
                if which > 0 or (isinstance(error, ValueError) and "cannot be marginalised" in str(error)):
                    continue
                raise
            if missing is None:
                continue
            often[missing.site] += 1
            yield _compare(program, parts, which, entry, data, missing, latents, seed)


class _Missing(NamedTuple):
    """An entry that is missing: its site, the distribution there, and draws of it by the program, (K, n)."""

    site: str
    law: Any
    values: Tensor
    place: Tensor  # where the entry is in an event of the site, or among the entries of a datum; boolean
    others: bool  # whether the program takes other values as missing, with all entries there


def _missing_entry(
    program: Program,
    parts: list[Any],
    which: int,
    entry: int,
    data: tuple[Any, ...],
    latents: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    enough: Collection[str],
) -> _Missing | None:
    """The entry as missing; ``None`` where its site is one of which there are enough, or it cannot be taken away."""
    holed, seen = data[which], completions()
    with fixed(latents), seen, MissingEntries() as after:
        program.model(*data)
    if bool(seen.beyond(holed).view(len(holed), -1)[:, entry].any()):
        return None  # without its last step a sequence is a shorter one
    others = any(bool(missing.any()) for missing in before.values())
    taken = {name: missing & ~before[name] if name in before else missing for name, missing in after.items()}
    site = next((name for name, missing in taken.items() if bool(missing.any())), None)
    if site in enough:
        return None
    if site is not None:
        drawn = [completed_once(program, data, latents, site) for _ in range(32)]
        values = torch.stack([value[taken[site]] for value, _, _ in drawn])
        return _Missing(site, drawn[0][1], values, taken[site][0], others)
    if which > 0:
        return None  # the program conditions on it
    # No observe statement was given it: the program has dealt with it. The site is where another value of it shows.
    moved = parts[0].clone()
    flat = moved.view(len(moved), -1)
    flat[:, entry] = flat[:, entry].roll(1)
    traces = []
    for x in (parts[0], moved):
        with pyro.poutine.trace() as tape, fixed(latents):
            program.model(x, *parts[1:])
        traces.append({n: s for n, s in sample_sites(tape.trace).items() if s["is_observed"]})
    for name, s in traces[0].items():
        changed = s["value"] != traces[1][name]["value"]
        if bool(changed.any()) and not s["infer"].get("_deterministic"):
            if name in enough:
                return None
            here = changed.any(0, keepdim=True).expand(changed.shape)
            values = s["fn"].expand(s["fn"].batch_shape).sample((32,))[:, here]
            return _Missing(name, s["fn"], values, here[0], others)
    return None


def _compare(
    program: Program,
    parts: list[Any],
    which: int,
    entry: int,
    data: tuple[Any, ...],
    missing: _Missing,
    latents: Mapping[str, Tensor],
    seed: int,
) -> Comparison:
    site, unit = missing.site, elements(missing.law)
    with torch.no_grad(), seeded(seed):
        found, error = _given(program, data, latents)
        if missing.values.shape[1] != len(found):
            return Comparison(site, found, None, error, f"'{site}' has several entries for one of the data")

        def log_joint_of_one(v: Tensor) -> Tensor:
            """A value of the entry in each row, (n,) -> log-densities of the complete rows, (n,)."""
            part = parts[which]
            row = part.reshape(len(part), -1)
            position = torch.arange(row.shape[1], device=row.device) == entry
            full = torch.where(position, v.unsqueeze(1), row).reshape(part.shape)
            with fixed(latents), no_completion(), assume_missing(missing.others):
                return _log_density(program, (*parts[:which], full, *parts[which + 1 :]))

        def log_joint(v: Tensor) -> Tensor:
            return torch.cat([vmap_or_loop(log_joint_of_one, some) for some in v.split(1024)])

        support, of_its_own = _entry_support(unit, missing.place)
        if support is None:
            return Comparison(site, found, None, error, f"an entry of '{site}' has no density")
        if support.is_discrete:
            numbers = _enumerated(unit, support, of_its_own)
            if numbers is None:
                return Comparison(site, found, None, error, f"the values of '{site}' cannot be enumerated")
            terms = log_joint(numbers.to(missing.values.dtype).reshape(-1, 1).expand(-1, len(found)))
            total = terms.logsumexp(0)
            if support is constraints.nonnegative_integer and bool((terms[-1] - total > math.log(1e-9)).any()):
                return Comparison(site, found, None, error, f"too few of the counts of '{site}' were summed over")
            return Comparison(site, found, total, error)
        real = support is constraints.real or support is constraints.real_vector
        if unit.event_dim and not real:
            return Comparison(site, found, None, error, f"an entry of '{site}' has no values of its own")
        points: Sequence[int] = POINTS
        try:
            mapped(log_joint_of_one, missing.values[:2])
        except Exception:  # a model that runs once for each value is asked for fewer of them
            points = POINTS[:2]
        transform = None if real else biject_to(support)
        expected = _quadrature(log_joint, missing.values, transform, points)
        reason = f"quadrature over an entry of '{site}' did not settle" if expected is None else ""
        return Comparison(site, found, expected, error, reason)


def _entry_support(unit: Any, place: Tensor) -> tuple[Any, bool]:
    """What values an entry can take, and whether that is its own: ``column_supports`` says it column by column."""
    columns = getattr(unit, "column_supports", None)
    return (unit.support, False) if columns is None else (columns[int(place.nonzero()[0, -1])], True)


def _enumerated(unit: Any, support: Any, of_its_own: bool) -> Tensor | None:
    """All values of a discrete entry, counts up to a number; ``None`` where they are not known."""
    if not of_its_own:
        known = getattr(unit, "has_enumerate_support", False) and not unit.event_dim
        return unit.enumerate_support(expand=False) if known else None
    if support is constraints.nonnegative_integer:
        return torch.arange(COUNTS)
    return torch.arange(support.lower_bound, support.upper_bound + 1)


def _quadrature(
    log_joint: Callable[[Tensor], Tensor], values: Tensor, transform: Any, numbers: Sequence[int]
) -> Tensor | None:
    """The log-integral over one number, (n,), by the trapezoidal rule around draws of it (K, n); ``None`` if it fails.

    Over the real line the points spread as sinh, for tails of any kind; over other sets they are even where the
    transform takes them from.
    """
    before: Tensor | None = None
    start = values if transform is None else transform.inv(values)
    centre, spread = start.mean(0), start.std(0)
    end = SINH_LIMIT if transform is None else WIDTH
    for points in numbers:
        t = torch.linspace(-end, end, points, dtype=values.dtype).unsqueeze(1)
        if transform is None:
            v, slope = centre + spread * t.sinh(), (spread * t.cosh()).log()
        else:
            u = centre + spread * t
            v = transform(u)
            slope = spread.log() + transform.log_abs_det_jacobian(u, v)
        log_p = log_joint(v) + slope
        log_p = torch.where(log_p.isnan() & (t.abs() > end / 2), -math.inf, log_p)  # out of what the model can compute
        total = log_p.logsumexp(0) + math.log(2 * end / (points - 1))
        ends = torch.maximum(log_p[0], log_p[-1]) - log_p.amax(0)
        if not bool(total.isfinite().all()) or bool((ends > math.log(1e-6)).any()):
            return None
        digits = max(1e-7, 100 * torch.finfo(total.dtype).eps)
        if before is not None and bool(((total - before).abs() < digits * (1 + total.abs())).all()):
            return total
        before = total
    return None


def _log_density(program: Program, data: tuple[Any, ...]) -> Tensor:
    with pyro.poutine.trace() as tape:
        program.model(*data)
    sites = [s for s in sample_sites(tape.trace).values() if not s["infer"].get("_deterministic")]
    return torch.stack([per_datum_log_prob(s) for s in sites if data_frame(s) is not None]).sum(0)


def _given(program: Program, data: tuple[Any, ...], latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the package gives to what was seen and the latent variables, (n,), and the standard error of it."""
    with latent_missing(program, *data) as handler:
        if not handler.names:
            with fixed(latents):
                found = _log_density(program, data)
            return found, torch.zeros_like(found)
        with fixed(latents):
            trace = pyro.poutine.trace(program.model).get_trace(*data)
            missing = [n for n, s in sample_sites(trace).items() if missing_site(s)]
            finite = {n: f for n, f in finite_sites(trace).items() if n in missing}
            shared = [n for n, s in sample_sites(trace).items() if not s["is_observed"] and data_frame(s) is None]
            count = 1 if len(finite) == len(missing) else DRAWS

            def draw(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
                proposals = propose_missing(program, pyro.poutine.Trace(), data, leave_out=finite)
                sites = sample_sites(proposals)
                log_q = [per_datum_log_prob(s) for s in sites.values()] + [torch.zeros(len(data[0]))]
                return {n: s["value"] for n, s in sites.items()}, torch.stack(log_q).sum(0)

            drawn, log_q = vmap_or_loop(draw, torch.zeros(count), draws=True)
            values = {n: v.expand(count, *v.shape) for n, v in latents.items()} | drawn
            known = Summed(program, finite, data, without=shared)
            log_w = (known.log_prob(values, count) - log_q).double()
    if count == 1:
        return log_w[0], torch.zeros_like(log_w[0])
    found, error = log_mean_exp(log_w)
    return found, torch.where(effective_sample_size(log_w) < MIN_EFFECTIVE_DRAWS, math.inf, error)
