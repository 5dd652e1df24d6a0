"""Loops in a recorded graph: found again, so that the body is compiled once.

A recording has a loop over time, or the steps of an ODE solver, unrolled: tens of thousands of operations that no
compiler takes in. The operations repeat, though. Here a stretch of the graph is found in which each operation is that
of p places before, with arguments that stand p places before, or do not change, or come from outside. It is folded into
a body of p operations, and the graph calls the body again and again. The backward pass of a loop is another one.

Where something else than tensors changes from turn to turn, the index of a slice say, that operation stays outside of
the body, as a draw does: before it, where its arguments come from outside, or after it, where nothing in the body waits
for it. What a backward pass takes from the forward one goes from body to body as one tensor.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_map

from pyro_gen._internals import compile_for
from pyro_gen.density.graphs import is_random, mutates

__all__ = ["Rolled", "roll"]

MIN_TURNS = 8
MIN_OPERATIONS = 400  # that a loop is to save
MAX_BODY = 1500
NEARLY = 0.95
CALL = 25  # operations that a call of a body costs about as much as

Ids = npt.NDArray[np.int64]
_Column = tuple[fx.Node, ...]  # a node for each turn


@dataclass
class Rolled:
    """A graph with its loops folded.

    Attributes:
        graph: Calls the bodies.
        bodies: The bodies by the names under which ``graph`` calls them.
    """

    graph: fx.GraphModule
    bodies: dict[str, fx.GraphModule] = field(default_factory=dict)

    @property
    def operations(self) -> int:
        """How many there are to compile."""
        return sum(len(body.graph.nodes) for body in self.bodies.values())

    def compiled(self) -> Callable[..., Any]:
        """The graph with its bodies compiled, each at its first call."""
        for name, body in self.bodies.items():
            setattr(self.graph, name, _Compiled(body))
        return self.graph.forward


class _Compiled(torch.nn.Module):
    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self._body = body
        self._call: Callable[..., Any] | None = None

    def forward(self, *args: Any) -> Any:
        args = tuple(a.contiguous() for a in args)  # what was compiled holds for the strides of its first inputs
        if self._call is None:
            self._call = compile_for(self._body, args)
        return self._call(*args)


def roll(recorded: fx.GraphModule) -> Rolled | None:
    """Folds the loops of a recorded graph; ``None`` where it has none.

    Arguments:
        recorded: A graph of :func:`pyro_gen.density.graphs.record`.
    """
    if any(mutates(node) for node in recorded.graph.nodes):
        return None
    nodes = [n for n in recorded.graph.nodes if n.op == "call_function"]
    place = {n: i for i, n in enumerate(nodes)}
    _merge_numbers(recorded)
    stretches = _stretches(_identities(nodes))
    loops = [loop for stretch in stretches if (loop := _Loop.at(nodes, place, stretch)) is not None]
    return _folded(recorded, sorted(loops, key=lambda loop: loop.start)) if loops else None


def _merge_numbers(recorded: fx.GraphModule) -> None:
    """Makes one node of constants that are the same number: a step size would be an input of the body at each use."""
    first: dict[Any, fx.Node] = {}
    for node in recorded.graph.find_nodes(op="get_attr"):
        value = getattr(recorded, str(node.target))
        if value.numel() == 1:
            known = first.setdefault((repr(value.item()), value.shape, value.dtype, value.device), node)
            if known is not node:
                node.replace_all_uses_with(known)


# ----------------------------------------------------------------------------------------------------------------------
# Where operations repeat


def _identities(nodes: list[fx.Node]) -> Ids:
    """A number for each operation, the same for those that do the same to tensors of the same shapes."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(_identity(n), len(known)) for n in nodes], dtype=np.int64)


def _identity(node: fx.Node) -> Any:
    def kind(value: Any) -> Any:
        return ("node", value.meta.get("shape"), value.meta.get("dtype")) if isinstance(value, fx.Node) else type(value)

    flat, spec = tree_flatten((node.args, node.kwargs))
    return str(node.target), node.meta.get("shape"), node.meta.get("dtype"), str(spec), tuple(kind(v) for v in flat)


def _stretches(ids: Ids, offset: int = 0) -> Iterator[tuple[int, int, int]]:
    """Start, period and turns of stretches that repeat.

    The period is taken that leaves the least to do outside of bodies: of an inner and an outer loop the outer one,
    where its body is not too long. Then what lies between its stretches is searched.
    """
    if len(ids) < MIN_OPERATIONS:
        return
    found: list[tuple[int, int, list[tuple[int, int]]]] = []  # what is gained, the period, its stretches
    for period in range(1, min(MAX_BODY, len(ids) // MIN_TURNS) + 1):
        breaks = np.flatnonzero(ids[period:] != ids[:-period])
        ends = np.concatenate([[-1], breaks, [len(ids) - period]])
        runs = np.diff(ends) - 1
        long = np.flatnonzero(runs >= (MIN_TURNS - 1) * period)
        turns = [(int(ends[i]) + 1, int(runs[i]) // period + 1) for i in long]
        if turns:
            found.append((sum(count for _, count in turns) * (period - CALL), period, turns))
    most = max((gain for gain, _, _ in found), default=0)
    if most < MIN_OPERATIONS:
        return
    _, period, turns = min((f for f in found if f[0] >= NEARLY * most), key=lambda f: f[1])  # not two turns as one
    end = 0
    for start, count in turns:
        if start < end:  # two stretches of one period can share their last and first turn
            continue
        yield from _stretches(ids[end:start], offset + end)
        yield offset + start, period, count
        end = start + count * period
    yield from _stretches(ids[end:], offset + end)


# ----------------------------------------------------------------------------------------------------------------------
# What a turn takes and gives


class _NotALoopError(Exception):
    pass


class _Loop:
    """A stretch that repeats, taken apart.

    Attributes:
        start: The place of its first operation.
        period: Operations in a turn.
        turns: How many.
        before, body, after: Places in a turn of what is done before the body, in it, and after it.
        inputs: What the body is called with: for each input, the node of the recording in each turn.
        outputs: The places in the body whose results are wanted elsewhere, one by one.
        taken, given: The bundles that the body takes and gives.
    """

    def __init__(self, nodes: list[fx.Node], place: dict[fx.Node, int], start: int, period: int, turns: int) -> None:
        self.nodes, self.position, self.start, self.period, self.turns = nodes, place, start, period, turns
        self.flat = [tree_flatten((n.args, n.kwargs))[0] for n in nodes[start : start + period * turns]]
        self._divide()
        inside = set(self.body)
        self.sources: dict[int, list[int | _Column]] = {}  # of each argument: a place in the same turn, or an input
        for j in self.body:
            slots = zip(*(self.arguments(t, j) for t in range(self.turns)), strict=True)
            self.sources[j] = [self._source(slot, inside) for slot in slots]
        self.inputs = list(
            dict.fromkeys(s for sources in self.sources.values() for s in sources if isinstance(s, tuple))
        )
        self.taken: list[_Bundle] = []
        self.given: list[_Bundle] = []

    @classmethod
    def at(cls, nodes: list[fx.Node], place: dict[fx.Node, int], stretch: tuple[int, int, int]) -> "_Loop | None":
        """The loop of a stretch, or of all but its first and last turn; ``None`` where it is none."""
        start, period, turns = stretch
        for first, count in ((start, turns), (start + period, turns - 2)):
            try:
                return cls(nodes, place, first, period, count)
            except _NotALoopError:
                continue
        return None

    def key(self, body: fx.GraphModule) -> Any:
        """The same for loops whose bodies do the same."""
        inputs = [column[0] for column in (*self.inputs, *(b.columns[0] for b in self.taken))]
        return body.code, *((node.meta.get("shape"), node.meta.get("dtype")) for node in inputs)

    def node(self, turn: int, j: int) -> fx.Node:
        return self.nodes[self.start + turn * self.period + j]

    def arguments(self, turn: int, j: int) -> list[fx.Node]:
        return [v for v in self.flat[turn * self.period + j] if isinstance(v, fx.Node)]

    def where(self, node: fx.Node) -> tuple[int, int] | None:
        """Turn and place of an operation of the loop."""
        at = self.position.get(node, -1) - self.start
        return divmod(at, self.period) if 0 <= at < self.period * self.turns else None

    def _divide(self) -> None:
        changing = {j for j in range(self.period) if is_random(self.node(0, j)) or self._changes(j)}
        needs = [self._needs(j) for j in range(self.period)]
        before: set[int] = set()
        for j in range(self.period):  # in order: what comes before the body takes nothing from it
            if j in changing and needs[j] <= before:
                before.add(j)
        after = changing - before
        while more := {j for j in range(self.period) if j not in after and needs[j] & after}:
            after |= more
        if after & before:
            raise _NotALoopError
        self.before, self.after = sorted(before), sorted(after)
        self.body = [j for j in range(self.period) if j not in before and j not in after]
        if 2 * len(self.body) < self.period:
            raise _NotALoopError

    def _changes(self, j: int) -> bool:
        """Whether anything but tensors differs from turn to turn."""
        first, *others = self.flat[j :: self.period]
        return any(
            not isinstance(a, fx.Node) and (type(a), a) != (type(b), b)
            for other in others
            for a, b in zip(first, other, strict=True)
        )

    def _needs(self, j: int) -> set[int]:
        """The places of the loop from which an operation takes something, in any turn."""
        found = (self.where(a) for t in range(self.turns) for a in self.arguments(t, j))
        return {at[1] for at in found if at is not None}

    def make_body(self) -> fx.GraphModule:
        """The operations of the body, once the bundles are known."""
        graph = fx.Graph()
        apart = {column for bundle in self.taken for column in bundle.columns}
        self.inputs = [column for column in self.inputs if column not in apart]
        made: dict[Any, fx.Node] = {given: graph.placeholder(f"given_{i}") for i, given in enumerate(self.inputs)}
        packed = [graph.placeholder(f"bundle_{i}") for i in range(len(self.taken))]
        for bundle, pack in zip(self.taken, packed, strict=True):
            for i, column in enumerate(bundle.columns):
                made[column] = graph.call_function(torch.ops.aten.select.int, (pack, 0, i))
        for j in self.body:
            node, values = self.node(0, j), iter([made[s] for s in self.sources[j]])
            args, kwargs = tree_map(
                lambda v, values=values: next(values) if isinstance(v, fx.Node) else v, (node.args, node.kwargs)
            )
            made[j] = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
        self.outputs = [j for j in self.body if self._is_wanted(j)]
        stacks = [
            graph.call_function(torch.ops.aten.stack.default, ([made[j] for j in bundle.places],))
            for bundle in self.given
        ]
        graph.output((*(made[j] for j in self.outputs), *stacks))
        return fx.GraphModule(torch.nn.Module(), graph)

    def _source(self, slot: _Column, inside: set[int]) -> "int | _Column":
        """Where an argument comes from: a place of the same turn of the body, or a node for each turn."""
        found = [self.where(a) for a in slot]
        here = [at is not None and at[0] == t and at[1] in inside for t, at in enumerate(found)]
        if not any(here):
            return slot
        places = {at[1] for at in found if at is not None}
        if not all(here) or len(places) > 1:
            raise _NotALoopError
        return places.pop()

    def _is_wanted(self, j: int) -> bool:
        """Whether a result is wanted outside of its turn's body, and not in a bundle anyway."""
        if any(j in bundle.places for bundle in self.given):
            return False
        inside = set(self.body)
        found = ((t, self.where(user)) for t in range(self.turns) for user in self.node(t, j).users)
        return any(at is None or at[0] != t or at[1] not in inside for t, at in found)


@dataclass(eq=False)
class _Bundle:
    """Results of one loop's body that another's takes, as one tensor: a tensor each would cost more than the sums.

    Attributes:
        giver, taker: The loops.
        turns: For each turn of the taker that of the giver.
        places: In the giver's body.
        columns: Of the taker's inputs, in the same order.
    """

    giver: _Loop
    taker: _Loop
    turns: tuple[int, ...]
    places: list[int] = field(default_factory=list)
    columns: list[_Column] = field(default_factory=list)


def _bundle(loops: list[_Loop]) -> None:
    """Finds what loops take from each other, the backward pass from the forward one."""
    owner = {loop.node(t, j): loop for loop in loops for t in range(loop.turns) for j in loop.body}
    bundles: dict[Any, _Bundle] = {}
    for taker in loops:
        for column in taker.inputs:
            givers = {owner.get(node) for node in column}
            giver = givers.pop() if len(givers) == 1 else None
            if giver is None or giver is taker:
                continue
            found = [divmod(giver.position[node] - giver.start, giver.period) for node in column]
            if len(places := {j for _, j in found}) > 1:
                continue
            meta = column[0].meta
            turns = tuple(t for t, _ in found)
            key = (giver, taker, turns, meta["shape"], meta["dtype"])
            bundle = bundles.setdefault(key, _Bundle(giver, taker, turns))
            bundle.places.append(places.pop())
            bundle.columns.append(column)
    for bundle in bundles.values():
        if len(bundle.places) > 1:
            bundle.giver.given.append(bundle)
            bundle.taker.taken.append(bundle)


# ----------------------------------------------------------------------------------------------------------------------
# The folded graph


def _folded(recorded: fx.GraphModule, loops: list[_Loop]) -> Rolled:
    graph, root = fx.Graph(), torch.nn.Module()
    _bundle(loops)
    new: dict[Any, fx.Node] = {}
    starts = {loop.node(0, 0): loop for loop in loops}
    inside = {loop.node(t, j) for loop in loops for t in range(loop.turns) for j in range(loop.period)}
    bodies: dict[str, fx.GraphModule] = {}
    names: dict[Any, str] = {}
    for name, buffer in recorded.named_buffers():
        root.register_buffer(name, buffer, persistent=False)
    for node in recorded.graph.nodes:  # first: a body may be called with a constant that the recording met later
        if node.op in ("placeholder", "get_attr"):
            new[node] = graph.node_copy(node)
    for node in recorded.graph.nodes:
        if node in starts:
            body = starts[node].make_body()
            key = starts[node].key(body)
            if key not in names:
                names[key] = f"body_{len(names)}"
                bodies[names[key]] = body
                root.add_module(names[key], body)
            _call(graph, new, starts[node], names[key])
        elif node not in inside and node.op in ("call_function", "output"):
            new[node] = graph.node_copy(node, new.__getitem__)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return Rolled(fx.GraphModule(root, graph), bodies)


def _call(graph: fx.Graph, new: dict[Any, fx.Node], loop: _Loop, name: str) -> None:
    for turn in range(loop.turns):
        for j in loop.before:
            new[loop.node(turn, j)] = graph.node_copy(loop.node(turn, j), new.__getitem__)
        packed = [new[bundle, bundle.turns[turn]] for bundle in loop.taken]
        called = graph.call_module(name, (*(new[given[turn]] for given in loop.inputs), *packed))
        results = [*(loop.node(turn, j) for j in loop.outputs), *((bundle, turn) for bundle in loop.given)]
        for i, result in enumerate(results):
            new[result] = graph.call_function(operator.getitem, (called, i))
        for bundle in loop.given:  # for those that take one of its tensors alone
            for i, j in enumerate(bundle.places):
                taken = (new[bundle, turn], 0, i)
                new[loop.node(turn, j)] = graph.call_function(torch.ops.aten.select.int, taken)
        for j in loop.after:
            new[loop.node(turn, j)] = graph.node_copy(loop.node(turn, j), new.__getitem__)
