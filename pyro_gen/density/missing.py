r"""Missing values that feed a later density: latent variables, summed out or sampled.

In a chain :math:`p(a) \, p(b \mid a)` with :math:`a` missing and :math:`b` seen, a draw of :math:`p(a)` is no draw of
:math:`p(a \mid b)`, and :math:`p(b \mid a)` at that draw is not :math:`p(b)`. So where the completed value of an
observe statement feeds a later density, its missing entries become a sample site of their own, ``"a.missing"``,

.. math:: p(x_o, y) = \int p(x_o \mid \text{parents}) \, p(x_m \mid x_o, \text{parents}) \, p(y \mid x_o, x_m) \, dx_m ,

and what serves latent variables serves them. Which sites these are is found by running the model with other
completions. Where the completed value feeds nothing, the observe statement integrates it out itself.

On demand all missing entries are latent (``every``): those of a flow, which cannot marginalise, or of data that a
factor weighs, which no observe statement knows of.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._internals import handlers
from pyro_gen.density.inputs import any_missing, row_chunks, rows_of, sampling
from pyro_gen.density.missing_laws import Moments, law_of_missing, moments_of, splits
from pyro_gen.distributions import elements
from pyro_gen.observation import CannotMarginaliseError
from pyro_gen.program import Program, fixed
from pyro_gen.traces import data_dim, data_frame, is_factor, is_local, sample_sites, site_log_prob

__all__ = [
    "LatentMissing",
    "MissingEntries",
    "find_every_missing",
    "latent_missing",
    "missing_site",
    "needs_latent",
    "propose_missing",
]

ROWS = 4096  # rows of one look at what is missing
PROBES = 16  # rows per site with which it is tried whether its completed value feeds another
SHIFTS = 16  # other values of a discrete site that are tried


def missing_site(site: Any) -> str | None:
    """The observe statement whose missing entries a site of a trace, or a message, stands for; else ``None``."""
    return site["infer"].get("missing_of")  # type: ignore[no-any-return]


class LatentMissing(Messenger):
    """Effect handler: the missing entries of the observe statements named are latent variables.

    Arguments:
        program: The program or model function that it is for.
        names: The observe statements.
        children: For each of them the sites whose density its completed value enters.
        barren: Observe statements whose completed value feeds only what is missing itself: where it is not drawn, any
            value will do.
        masked: Those whose new sites are masked to what is missing, for sums over its values. In others entries that
            were seen have a value too, which is used nowhere: a variable of its own, whose law integrates to one.
        every: Whether these are all statements with missing entries, whatever they feed.
        moments: By name, those of distributions that cannot marginalise, see :mod:`pyro_gen.density.missing_laws`.
    """

    def __init__(
        self,
        program: Program | Callable[..., Any],
        names: Collection[str],
        children: Mapping[str, frozenset[str]],
        barren: Collection[str] = (),
        masked: Collection[str] = (),
        every: bool = False,
        moments: Mapping[str, Moments | None] | None = None,
    ) -> None:
        super().__init__()
        self.program, self.names, self.children = program, tuple(names), children
        self.barren, self.masked = tuple(barren), tuple(masked)
        self.every, self.moments = every, moments or {}

    @staticmethod
    def union(program: Program | Callable[..., Any], found: Sequence["LatentMissing"]) -> "LatentMissing":
        """What is latent in any of several data sets, or parts of one."""
        names = dict.fromkeys(n for handler in found for n in handler.names)
        children: dict[str, frozenset[str]] = {}
        for handler in found:
            for name, of in handler.children.items():
                children[name] = children.get(name, frozenset()) | of
        barren = dict.fromkeys(n for handler in found for n in handler.barren if n not in names)
        moments = {n: m for handler in reversed(found) for n, m in handler.moments.items()}
        every = any(handler.every for handler in found)
        return LatentMissing(program, names, children, barren, every=every, moments=moments)

    def again(self) -> "LatentMissing":
        """The same, to be entered once more."""
        return self.with_masked(self.masked)

    def with_masked(self, masked: Collection[str]) -> "LatentMissing":
        """The same with other new sites masked."""
        return LatentMissing(self.program, self.names, self.children, self.barren, masked, self.every, self.moments)

    def _pyro_missing(self, msg: Any) -> None:
        if msg["name"] in self.names and not msg["done"]:
            msg["value"] = msg["done"] = True

    def _pyro_post_missing(self, msg: Any) -> None:
        if self.every and msg["name"] not in self.names and active(self.program) is self:  # it is known of all of them
            msg["value"] = False

    def _pyro_missing_law(self, msg: Any) -> None:
        if msg["name"] in self.names and not msg["done"]:
            msg["value"], msg["done"] = self._law(msg), True
        elif msg["name"] in self.barren and not msg["done"]:
            msg["value"], msg["done"] = "filled", True

    def _law(self, msg: Any) -> Any:
        (distribution, value), name = msg["args"], msg["name"]
        return law_of_missing(name, distribution, value, name in self.masked, self.every, self.moments.get(name))

    def _pyro_sample(self, msg: Any) -> None:
        if missing_site(msg) in self.names:
            msg["mask"] = None  # where the statement is masked, nothing depends on the value: its law is to be proper


class MissingEntries(Messenger):
    """Effect handler: collects which entries of each observe statement are missing.

    Entering it returns a dictionary that maps names of observe statements to booleans of the shape of their values.
    """

    def __enter__(self) -> dict[str, Tensor]:  # type: ignore[override]
        super().__enter__()
        self.entries: dict[str, Tensor] = {}
        return self.entries

    def _pyro_missing(self, msg: Any) -> None:
        self.entries[msg["name"]] = torch.isnan(msg["args"][0])


def active(program: Program | Callable[..., Any] | None = None) -> LatentMissing | None:
    """The handler for the missing entries of a program, or of any, inside which this is called."""
    for handler in reversed(handlers()):
        if isinstance(handler, LatentMissing) and (program is None or handler.program == program):
            return handler
    return None


@contextmanager
def latent_missing(program: Program | Callable[..., Any], *data: Any, every: bool = False) -> Iterator[LatentMissing]:
    """A block in which missing values that feed a later density are latent variables of a program.

    Finds out which these are, once: inside of such a block it does nothing.

    Arguments:
        program: The program, or a plain model function.
        data: What it is called with.
        every: Whether all missing values are latent.
    """
    known = active(program)
    if known is not None and (known.every or not every):
        yield known
        return
    handler = (find_every_missing if every else find_latent_missing)(program, *data)
    with handler:
        yield handler


def propose_missing(
    program: Program, guide_trace: Trace, data: tuple[Any, ...], leave_out: Collection[str] = ()
) -> Trace:
    """Adds draws of missing entries that are latent variables to a trace of the guide, where it has none of them.

    They are draws of the model given what the guide has drawn, so that their densities in both cancel.

    Arguments:
        program: The program.
        guide_trace: The trace, which is changed.
        data: What the program was called with.
        leave_out: Sites that are not drawn.

    Returns:
        The trace.
    """
    handler = active()
    names = [f"{n}.missing" for n in (() if handler is None else handler.names)]
    if all(n in guide_trace.nodes or n in leave_out for n in names):
        return guide_trace
    drawn = {n: s["value"] for n, s in sample_sites(guide_trace).items() if not s["is_observed"]}
    with pyro.poutine.trace() as tape, fixed(drawn):
        program.model(*data)
    for name, site in sample_sites(tape.trace).items():
        if name in names and name not in guide_trace.nodes and name not in leave_out:
            guide_trace.add_node(name, **{**site, "infer": {**site["infer"], "from_model": True}})
    return guide_trace


# ----------------------------------------------------------------------------------------------------------------------
# Which sites feed another


def run_model(program: Program | Callable[..., Any], *data: Any) -> Any:
    """Runs the model of a program, or a plain model function."""
    return program.model(*data) if isinstance(program, Program) else program(*data)


class _Completions(Messenger):
    """Effect handler: completed values by site, those that are given in the place of draws.

    Collects them, with the distributions that they are of and the values before completion.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.given = given
        self.values: dict[str, Tensor] = {}
        self.laws: dict[str, Any] = {}
        self.missing: dict[str, Tensor] = {}

    def _pyro_missing(self, msg: Any) -> None:
        self.missing[msg["name"]] = torch.isnan(msg["args"][0])

    def _pyro_missing_law(self, msg: Any) -> None:
        self.laws[msg["name"]] = msg["args"][0]

    def _pyro_completion(self, msg: Any) -> None:
        if msg["name"] in self.given:
            value = msg["args"][0]
            msg["value"] = torch.where(torch.isnan(value), self.given[msg["name"]].to(value.dtype), value)
            msg["done"] = True

    def _pyro_post_completion(self, msg: Any) -> None:
        self.values[msg["name"]] = msg["value"]


def _run(
    program: Program | Callable[..., Any], data: tuple[Any, ...], given: Mapping[str, Tensor], latents: Any
) -> tuple[Trace, _Completions]:
    with pyro.poutine.trace() as tape, fixed(latents), _Completions(given) as seen:
        run_model(program, *data)
    return tape.trace, seen


def completed_once(
    program: Program | Callable[..., Any], data: tuple[Any, ...], latents: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Any, Tensor]:
    """Runs the model with given latent variables, each missing entry drawn where it stands.

    Returns:
        Of one observe statement the completed value, its distribution, and which of its entries were missing.
    """
    _, seen = _run(program, data, {}, latents)
    return seen.values[name], seen.laws[name], seen.missing[name]


def find_latent_missing(program: Program | Callable[..., Any], *data: Any) -> LatentMissing:
    """Finds the observe statements whose missing entries feed a density of something seen, or of a latent variable.

    Arguments:
        program: The program, or a plain model function.
        data: What it is called with.

    Returns:
        The handler that makes them latent.
    """
    nothing = LatentMissing(program, (), {})
    tensors = [d for d in data if isinstance(d, Tensor)]
    if not tensors or not any_missing(*tensors):
        return nothing
    by_rows = isinstance(program, Program)
    with sampling(program, 0):
        few = _rows(data, slice(1)) if by_rows else data
        trace, seen = _run(program, few, {}, {})
        order = list(_densities(trace))
        later = [n for n in seen.missing if n in order and order.index(n) < len(order) - 1]
        if not later:
            return nothing
        size = ROWS if by_rows else max(1, len(tensors[0]) if tensors[0].dim() else 1)
        flags: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for rows in row_chunks(len(data[0]), size) if by_rows else [slice(None)]:
            trace, seen = _run(program, _rows(data, rows) if by_rows else data, {}, {})
            for name, missing in seen.missing.items():
                flags[name].append(_by_row(trace.nodes[name], missing))
        some = {n: torch.cat([f[0] for f in parts]) for n, parts in flags.items()}  # some of the entries missing
        whole = {n: torch.cat([f[1] for f in parts]) for n, parts in flags.items()}
        if not (candidates := [n for n in later if bool(some[n].any())]):
            return nothing
        probe = data
        if by_rows:
            index = torch.cat([some[n].nonzero()[:PROBES, 0] for n in candidates if len(some[n]) == len(data[0])])
            probe = _rows(data, index.unique()) if len(index) else few
        children = {n: _children(program, probe, n) for n in candidates}
    needed: dict[str, Tensor] = {}
    for name in reversed(candidates):
        need = torch.zeros((), dtype=torch.bool, device=some[name].device)
        for child in children[name]:
            if child not in whole:  # a latent variable, or what is always seen
                need = need | True
            else:
                need = need | ~whole[child] | needed.get(child, torch.zeros_like(need))
        needed[name] = some[name] & need
    names = [n for n in candidates if bool(needed[n].any())]
    return LatentMissing(program, names, children, [n for n in candidates if n not in names and children[n]])


class _EveryMissing(LatentMissing):
    """Effect handler: all missing entries are latent variables; collects the statements that have any, and moments."""

    def __init__(self, program: Program | Callable[..., Any]) -> None:
        super().__init__(program, (), {}, every=True)
        self.found: dict[str, Moments | None] = {}

    def _pyro_missing(self, msg: Any) -> None:
        msg["value"], msg["done"] = bool(torch.isnan(msg["args"][0]).any()), True

    def _pyro_post_missing(self, msg: Any) -> None:
        pass

    def _pyro_missing_law(self, msg: Any) -> None:
        (d, _), name = msg["args"], msg["name"]
        if name not in self.found:
            self.found[name] = None if splits(d) else moments_of(d)
        msg["value"], msg["done"] = self._law(msg), True


def needs_latent(program: Program, *data: Any) -> bool:
    """Whether missing entries are to be latent, all of them: no observe statement knows the law of some.

    Since it cannot marginalise them, or since a factor weighs what it draws.

    Arguments:
        program: The program.
        data: What it is called with.
    """
    if not any_missing(*data):
        return False
    with sampling(program, 0):
        for rows in row_chunks(len(data[0]), ROWS):
            tape = pyro.poutine.trace()
            try:
                with tape:
                    program.model(*_rows(data, rows))
            except CannotMarginaliseError:
                return True
            if any(s["is_observed"] and is_factor(s) and is_local(s) for s in sample_sites(tape.trace).values()):
                return True
    return False


def find_every_missing(program: Program | Callable[..., Any], *data: Any) -> LatentMissing:
    """Finds the observe statements with missing entries, and what stands for their laws where these are not known.

    Arguments:
        program: The program, or a plain model function.
        data: What it is called with.

    Returns:
        The handler that makes all missing entries latent.
    """
    handler = _EveryMissing(program)
    by_rows = isinstance(program, Program)
    with sampling(program, 0), handler:
        for rows in row_chunks(len(data[0]), ROWS) if by_rows else [slice(None)]:
            run_model(program, *(_rows(data, rows) if by_rows else data))
    return LatentMissing(program, handler.found, {}, every=True, moments=handler.found)


def _rows(data: tuple[Any, ...], rows: Any) -> tuple[Any, ...]:
    return data[0][rows], *rows_of(data[0], data[1:], rows)


def _densities(trace: Trace) -> dict[str, Any]:
    """The sites with a density, in order."""
    return {n: s for n, s in sample_sites(trace).items() if not s["infer"].get("_deterministic")}


def _by_row(site: Any, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Whether some and whether all entries of each row are missing, (N,); of a site without rows, (1,)."""
    if data_frame(site) is None:
        flat = missing.reshape(1, -1)
    else:
        flat = missing.movedim(data_dim(site), 0).flatten(1) if missing.dim() > 1 else missing.unsqueeze(1)
    return flat.any(1), flat.all(1)


def _children(program: Program | Callable[..., Any], data: tuple[Any, ...], name: str) -> frozenset[str]:
    """The sites whose density moves with the completed value of one."""
    trace, seen = _run(program, data, {}, {})
    latents = {n: s["value"] for n, s in sample_sites(trace).items() if not s["is_observed"]}
    before = _scores(trace, seen, seen.values)
    order = list(before)
    later = frozenset(order[order.index(name) + 1 :])
    found: set[str] = set()
    for sure, other in _others(seen.laws[name], seen.values[name]):
        try:
            trace, again = _run(program, data, {**seen.values, name: other}, latents)
            after = _scores(trace, again, seen.values)
        except Exception:
            if sure:
                raise
            return later  # a far value that it cannot do with is one that it makes use of
        for child in later:
            if child not in after or not _same(before[child], after[child]):
                found.add(child)
        found |= after.keys() - before.keys()
    return frozenset(found)


def _scores(trace: Trace, seen: _Completions, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The log-densities by site of the given completed values, missing entries scored too."""
    scores = {}
    for name, site in _densities(trace).items():
        if bool(seen.missing.get(name, torch.zeros(1)).any()):
            scores[name] = _unmarginalised(seen.laws[name]).log_prob(values[name])
        else:
            scores[name] = site_log_prob(site)
    return scores


def _unmarginalised(d: Any) -> Any:
    return d if not isinstance(d, dist.MaskedDistribution) else _unmarginalised(d.base_dist)


def _same(a: Tensor, b: Tensor) -> bool:
    # The same operations on the same numbers: at most the last digits differ.
    tolerance = 16 * torch.finfo(a.dtype).eps
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _others(d: Any, value: Tensor) -> Iterator[tuple[bool, Tensor]]:
    """Other values in the support of a distribution, and whether it is sure that a model can do with them."""
    unit = elements(d)
    if getattr(unit, "has_enumerate_support", False):
        with suppress(NotImplementedError):
            support = unit.enumerate_support(expand=False)
            support = support.reshape(len(support), *unit.event_shape).to(value.dtype)  # (K, *event)
            same = value.unsqueeze(-1 - unit.event_dim) == support
            index = (same.flatten(-unit.event_dim).all(-1) if unit.event_dim else same).int().argmax(-1)
            steps = range(1, len(support))
            for step in steps if len(steps) <= SHIFTS else torch.linspace(1, len(support) - 1, SHIFTS).long().tolist():
                yield True, support[(index + step) % len(support)]
            return
    shape = value.shape[: value.dim() - d.event_dim]
    wide = d.expand(torch.broadcast_shapes(d.batch_shape, shape))
    real = unit.support is constraints.real or unit.support is constraints.real_vector
    for _ in range(3):
        drawn = wide.sample().to(value.dtype)
        yield True, drawn
        if real:
            yield False, value + 10 * (drawn - value)
