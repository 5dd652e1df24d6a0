"""From a program and its data to the density of both."""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density.completed import reads_missing
from pyro_gen.density.inputs import (
    any_missing,
    as_tensors,
    evaluation,
    local_site,
)
from pyro_gen.density.joint import ProgramDensity
from pyro_gen.density.masks import flat_sites, masked_out
from pyro_gen.density.missing import LatentMissing, active, find_every_missing, find_latent_missing, latent_missing
from pyro_gen.density.randomness import RANDOM, generator_states
from pyro_gen.density.requirements import check_structure, first_global, name_of
from pyro_gen.density.shapes import check_broadcasts
from pyro_gen.density.sites import (
    Constrained,
    Slot,
    drawn_anew,
    flat_where,
    is_data,
)
from pyro_gen.density.sums import check_sums, summing
from pyro_gen.density.support import check_observations
from pyro_gen.density.validation import no_validation
from pyro_gen.density.vectorised import light
from pyro_gen.observation import assume_missing, no_completion
from pyro_gen.packing import packs
from pyro_gen.program import Program
from pyro_gen.traces import data_dim, sample_sites, validated

_NOT_PER_DATUM = (
    "{0} has the global latent variable '{1}', shared by all data, so the data have no likelihood one by one: "
    "no method estimates it. pg.log_evidence(program, x) estimates that of the whole data set."
)


_COUPLED = (
    "{0} couples the data: the density of one datum moves with the latent variables of another, so there is no target "
    "per datum: leave per_datum out, for the joint one."
)


@packs
def density(
    program: Program | Callable[..., Any],
    *data: Any,
    per_datum: bool | None = None,
    stacked: bool = False,
    hold: Sequence[str] = (),
    missing: str = "marginal",
    compile: str = "off",
) -> ProgramDensity:
    r"""Turns a program and its data into a pure function of tensors.

    Parameters are constants: those of a program as they are now, whatever becomes of it. What a plain function reads
    from outside of its arguments must not change: make a new density when it did. Modules are put in evaluation mode
    for the time of an evaluation, where the model is one, or a method of one. The model runs once with Pyro's
    validation on, so that what is wrong with it is said in Pyro's own words. A model that ``vmap`` cannot take is
    evaluated chain by chain, with a warning that names the line.

    Arguments:
        program: A program, or a plain Pyro model function.
        data: What the model is called with: the data, with shape :math:`(N, *)` and NaN where nothing was observed, and
            its context. Any arguments for a plain function.
        per_datum: Whether there is one target per datum. The default is to have them where all latent sites are local
            and no datum moves with the latent variables of another; ``False`` gives the joint one.
        stacked: The tensors in ``data`` are many data sets, with a leading dimension S: one joint target each.
        hold: Names of latent sites that are neither part of ``z`` nor summed out: evaluations take their values. The
            target is then joint.
        missing: ``"marginal"``, where observe statements integrate missing entries out, and those alone are latent
            that feed a later density; or ``"latent"``, where all missing entries are latent variables, at sites named
            after the statements: ``"x.missing"``. The prior is then their law given the seen entries, or a proper one
            in its place where this is not known (of a flow, see :mod:`pyro_gen.density.missing_laws`), and the
            likelihood all else: the integral of both is the density of the seen entries, up to the constant of an
            unnormalised program. Discrete ones are to be held: ``hold=("x.missing",)``.
        compile: ``"off"``, ``"on"``, or ``"auto"``: compile when the number of evaluations announced by
            :meth:`Density.expect` repays it.

    Returns:
        The density of the latent variables and the data.

    Raises:
        ValueError: The program has no continuous latent variable, a discrete one that cannot be summed out, an observed
            site without a density, randomness outside of sample sites or a subsample; or ``per_datum=True`` and a
            global latent variable.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Scale(Program):
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...             return observe("x", dist.Normal(0.0, scale), x)
        >>> target = density(Scale(), torch.tensor([0.5, -1.0]))
        >>> terms = target.value_and_grad(torch.zeros(3, 2, 1))  # 3 chains
        >>> [tuple(t.shape) for t in terms]
        [(3, 2), (3, 2), (3, 2, 1), (3, 2, 1)]
        >>> round(terms.log_prior[0, 0].item(), 4)  # of log(scale), which is standard normal
        -0.9189
        >>> joint = density(Scale(), torch.tensor([0.5, -1.0]), per_datum=False)
        >>> joint.dim, joint.log_density(torch.zeros(3, 2)).shape
        (2, torch.Size([3]))
    """
    if compile not in ("off", "on", "auto"):
        raise ValueError(f'density(compile={compile!r}): choose "off", "on" or "auto".')
    if missing not in ("marginal", "latent"):
        raise ValueError(f'density(missing={missing!r}): choose "marginal" or "latent".')
    if isinstance(program, Program):
        if not data:
            raise ValueError("A program needs its data: density(program, x, *context).")
        if len(data[0]) == 0:
            raise ValueError("The density of no data: x has 0 rows.")
        data = as_tensors(program, *data)
    tensors = [d for d in data if isinstance(d, Tensor)]
    sets = None
    first = data
    if stacked:
        lengths = {len(t) if t.dim() else None for t in tensors}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                "density(stacked=True): each tensor in the data needs one leading dimension, the number of data sets; "
                f"their shapes are {[tuple(t.shape) for t in tensors]}."
            )
        sets = len(tensors[0])
        first = tuple(d[0] if isinstance(d, Tensor) else d for d in data)
    if isinstance(program, Program):
        program.check_inputs(*first)
    holes = bool(tensors) and any_missing(*tensors)
    with ExitStack() as stack:
        stack.enter_context(evaluation(program))
        latent = stack.enter_context(_latent_missing(program, data, sets, missing == "latent"))
        stack.enter_context(seeded(0))
        stack.enter_context(light())
        stack.enter_context(torch.no_grad())
        if latent.every:
            stack.enter_context(no_validation())  # a factor may read what is missing, see pyro_gen.density.completed
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Encountered")  # a draw of a wide prior may overflow; more is said below
        holes = holes or bool(latent.names)
        # Validation is on here as the user set it, so that errors of the model itself are Pyro's own.
        handler = Constrained({}, hold)

        def run_model(handler: Constrained) -> Trace:
            tape = pyro.poutine.trace()
            undrawn = nullcontext() if latent.every else no_completion()
            with validated("model", tape=tape), tape, undrawn, assume_missing(holes), handler:
                if isinstance(program, Program):
                    program.model(*first)
                else:
                    program(*first)
            return tape.trace

        def another() -> Trace:
            with no_validation():
                trace = run_model(Constrained({}, hold))
                trace.compute_log_prob()
            return trace

        prototype = run_model(handler)
        local = check_structure(program, prototype, hold)
        try:
            prototype.compute_log_prob()
        except ValueError as error:
            if "within the support" not in str(error):
                raise
            stack.enter_context(no_validation())  # at this draw; see what others say
            prototype.compute_log_prob()
        check_broadcasts(prototype)
        check_observations(prototype, another)
        if per_datum and (stacked or hold or not local):
            raise ValueError(
                _NOT_PER_DATUM.format(name_of(program), first_global(prototype) or (*hold, "the stack")[0])
            )
        rows = local if per_datum is None else per_datum
        rows = rows and not stacked and not hold
        if rows:
            for site in sample_sites(prototype).values():
                if is_data(site):
                    local_site(site)
        unconstrained = handler.unconstrained

        def make(flat: Collection[str], improper: tuple[str, ...]) -> tuple[ProgramDensity, Tensor]:
            hole = not rows and not stacked
            sites = _slots(prototype, unconstrained, rows, {n: _unmasked(prototype, n, hole) for n in flat})
            target = ProgramDensity(
                program,
                data,
                prototype,
                sites,
                hold=tuple(hold),
                improper=improper,
                per_datum=rows,
                stacked=sets,
                missing=holes,
                latent_missing=latent,
                rereads=latent.every and reads_missing(program, prototype),
                compile=compile,
            )
            return target, target.point(unconstrained)

        nodes: dict[str, Any] = dict(prototype.nodes)
        held = {name: nodes[name]["value"] for name in hold}

        def terms_of(target: ProgramDensity, z: Tensor) -> tuple[Tensor, Tensor]:
            with target.ready() if target.summed else target.latent_missing.again():  # vmap cannot validate
                return target.terms_of_set(z, held, first)

        target, z = make((), tuple(handler.improper))
        before = generator_states(target.device)
        with summing(target):
            terms = terms_of(target, z)
        if generator_states(target.device) != before:
            raise ValueError(RANDOM)
        if target.enumerated:
            with summing(target), target.latent_missing.again():
                check_sums(target, z, held | target.first_values, first)
        masked = [n for n in target.names if (out := masked_out(nodes[n])) is not None and bool(out.any())]
        if masked:

            def run(names: Collection[str]) -> tuple[Trace, dict[str, Tensor]]:
                moved = {n: drawn_anew(u, nodes[n]) if n in names else u for n, u in unconstrained.items()}
                trace, feed = target.run_at(target.point(moved), held | target.first_values, first)
                return trace, {n: value for n, value in feed.log_abs_det.items() if n not in masked}

            flat = flat_sites(masked, run)
            target, z = make(flat, (*handler.improper, *(n for n in masked if n not in flat)))
            terms = terms_of(target, z)
        # A program promises that its plate holds; evaluation.check_program looks whether it does.
        coupled = rows and not isinstance(program, Program) and _rows_are_coupled(target, z, terms)
    if coupled and per_datum:
        raise ValueError(_COUPLED.format(name_of(program)))
    return density(program, *data, per_datum=False, missing=missing, compile=compile) if coupled else target


def _rows_are_coupled(target: ProgramDensity, z: Tensor, terms: tuple[Tensor, Tensor]) -> bool:
    """Whether the terms of a datum move with the latent variables of another.

    A model may couple what stands in its data plate, by a cumulative sum say, and no plate tells of that. Two rows
    differ in some bit of their numbers: for each bit, those rows are changed where it is set, and then the others.
    """
    number = torch.arange(len(z), device=z.device)
    with target.ready():
        for bit in range((len(z) - 1).bit_length()):
            for value in (0, 1):
                change = (number >> bit) % 2 == value
                found = target.terms_of_set(z + 0.5 * change.unsqueeze(-1), {}, target.data)
                for old, new in zip(terms, found, strict=True):
                    # The same operations on the same numbers: at most the last digits differ.
                    tolerance = 1e3 * torch.finfo(old.dtype).eps
                    if not torch.allclose(old[~change], new[~change], rtol=tolerance, atol=0.0, equal_nan=True):
                        return True
    return False


@contextmanager
def _latent_missing(
    program: Program | Callable[..., Any], data: tuple[Any, ...], sets: int | None, every: bool
) -> Iterator[LatentMissing]:
    """What is missing and feeds a later density, or all that is missing, in any of the stacked data sets."""
    if sets is None:
        with latent_missing(program, *data, every=every) as handler:
            yield handler
        return
    if (known := active(program)) is not None and (known.every or not every):
        yield known
        return
    find = find_every_missing if every else find_latent_missing
    found = [find(program, *(d[i] if isinstance(d, Tensor) else d for d in data)) for i in range(sets)]
    handler = LatentMissing.union(program, found)
    with handler:
        yield handler


def _unmasked(prototype: Trace, name: str, hole: bool) -> Tensor | None:
    """Which of the unconstrained values of a flat site are a target's, where the others are to be left out of it."""
    out = flat_where(prototype.nodes[name]) if hole else None
    return None if out is None else ~out


def _slots(
    prototype: Trace, unconstrained: Mapping[str, Tensor], rows: bool, flat: Mapping[str, Tensor | None]
) -> dict[str, Slot]:
    """Where unconstrained values lie in a point; of flat sites, those that ``flat`` names, or all."""
    sites, offset = {}, 0
    for name, u in unconstrained.items():
        dim = data_dim(prototype.nodes[name]) if rows else None
        shape = u.shape if dim is None else u.movedim(dim, 0).shape
        kept = None if (mask := flat.get(name)) is None else mask.expand(u.shape).reshape(-1)
        fill = None if kept is None else u.reshape(-1)
        size = math.prod(shape if dim is None else shape[1:]) if kept is None else int(kept.sum())
        sites[name] = Slot(offset, size, tuple(shape), dim, name in flat, kept, fill)
        offset += size
    return sites
