"""Operations of a recorded graph that do the same to many small tensors, done together.

A model with a loop over time, or over groups, is recorded as as many copies of its body as the loop has turns, and what
an operation on few numbers costs is the call. Operations that are the same, and of which none waits for another, are
one operation on their arguments put together: those of all turns, where these do not feed each other. A sum of many
terms, such as the gradient of what all turns share, is one too.

Operations are taken by level, the length of the longest way from the inputs to them: two of one level do not wait for
each other. Arguments that come of one such operation, in its order, are together already; slices of one tensor are a
slice; constants are put together once.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from pyro_gen.density.graphs import is_random, mutates, record

__all__ = ["together"]

MIN_ALIKE = 8
MOST_NUMBERS = 2**12  # of a result: of larger ones the arithmetic counts, not the call
MOST_TOGETHER = 2**22  # numbers of the results of operations that are done together
FEW_PIECES = 8  # of which a tensor is put together as they come
_ADD, _STACK, _SELECT = torch.ops.aten.add.Tensor, torch.ops.aten.stack.default, torch.ops.aten.select.int


def together(recorded: fx.GraphModule, device: torch.device) -> fx.GraphModule | None:
    """Does operations together that are alike; ``None`` where too few are for that to be worth while.

    Arguments:
        recorded: A graph of :func:`pyro_gen.density.graphs.record`. Its draws stay as they are, in their order.
        device: Where its inputs are.
    """
    if any(mutates(node) for node in recorded.graph.nodes):
        return None
    made = _Together(recorded, device).graph()
    made.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_random(node))
    made.recompile()
    return made if 2 * len(made.graph.nodes) < len(recorded.graph.nodes) else None


class _Part(NamedTuple):
    """A node of the recording as one entry of a tensor along its first dimension."""

    whole: fx.Node
    place: int


class _Together:
    def __init__(self, recorded: fx.GraphModule, device: torch.device) -> None:
        self.recorded, self.device = recorded, device
        self.new, self.root = fx.Graph(), torch.nn.Module()
        self.values: dict[fx.Node, fx.Node] = {}  # what stands for a node of the recording
        self.parts: dict[fx.Node, _Part] = {}
        self.wholes: dict[fx.Node, int] = {}  # results of what was done together, numbered
        self.count = 0
        self.rotated: dict[tuple[fx.Node, int], fx.Node] = {}
        self.selected: dict[tuple[fx.Node, Any], fx.Node] = {}
        self.terms = self._sums()

    # What there is to do, by level

    def _sums(self) -> dict[fx.Node, list[fx.Node]]:
        """Sums of many terms by the addition that gives them, with these."""
        terms: dict[fx.Node, list[fx.Node]] = {}
        for node in self.recorded.graph.nodes:
            if not _is_sum(node):
                continue
            found: list[fx.Node] = []
            for arg in node.args:
                if arg in terms and len(arg.users) == 1 and node.args[0] is not node.args[1]:
                    # The order does not matter, and the longer list stays: not a copy of it a term.
                    short, found = sorted((found, terms.pop(arg)), key=len)
                    found += short
                else:
                    found.append(arg)
            terms[node] = found
        return {n: t for n, t in terms.items() if len(t) >= MIN_ALIKE}

    def _levels(self) -> list[list[fx.Node]]:
        level: dict[fx.Node, int] = {}
        found: list[list[fx.Node]] = []
        last_draw: list[fx.Node] = []
        for node in self._needed():
            waits_for = self._arguments(node) + (last_draw if is_random(node) else [])
            level[node] = 1 + max((level[a] for a in waits_for), default=-1)
            if is_random(node):
                last_draw = [node]
            if node.op == "call_function":
                while len(found) <= level[node]:
                    found.append([])
                found[level[node]].append(node)
        return found

    def _arguments(self, node: fx.Node) -> list[fx.Node]:
        return self.terms.get(node, node.all_input_nodes)

    def _needed(self) -> list[fx.Node]:
        """Nodes without those inside of sums."""
        wanted: set[fx.Node] = set()
        for node in reversed(self.recorded.graph.nodes):
            if node.op in ("output", "placeholder") or node in wanted or is_random(node):
                wanted.update((node, *self._arguments(node)))
        return [node for node in self.recorded.graph.nodes if node in wanted]

    def graph(self) -> fx.GraphModule:
        for node in self.recorded.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.new.node_copy(node)
            elif node.op == "get_attr":
                self.values[node] = self._constant(getattr(self.recorded, str(node.target)))
        for nodes in self._levels():
            alike: dict[Any, list[fx.Node]] = {}
            for node in nodes:
                alike.setdefault(self._kind(node), []).append(node)
            for of_kind in alike.values():
                most = max(MIN_ALIKE, MOST_TOGETHER // max(1, (of_kind[0].meta.get("shape") or torch.Size()).numel()))
                for some in (of_kind[i : i + most] for i in range(0, len(of_kind), most)):
                    if not self._as_one(some):
                        for node in some:
                            self._alone(node)
        output = next(iter(self.recorded.graph.find_nodes(op="output")))
        self.new.output(tree_map(lambda v: self._value(v) if isinstance(v, fx.Node) else v, output.args[0]))
        return fx.GraphModule(self.root, self.new)

    def _kind(self, node: fx.Node) -> Any:
        """The same for operations that can be done together."""
        shape = node.meta.get("shape")
        flat, spec = tree_flatten((node.args, node.kwargs))
        special = node in self.terms or node.target is operator.getitem or is_random(node)
        if special or shape is None or shape.numel() > MOST_NUMBERS or len(node.all_input_nodes) >= MIN_ALIKE:
            return node
        described = tuple(
            ("node", v.meta.get("shape"), v.meta.get("dtype")) if isinstance(v, fx.Node) else (type(v), repr(v))
            for v in flat
        )
        return str(node.target), shape, node.meta.get("dtype"), str(spec), described

    # Doing it

    def _as_one(self, nodes: list[fx.Node]) -> bool:
        """Does operations of a kind together, if they are many and their arguments come together."""
        if len(nodes) < MIN_ALIKE:
            return False
        flat, spec = tree_flatten((nodes[0].args, nodes[0].kwargs))
        slots = [i for i, v in enumerate(flat) if isinstance(v, fx.Node)]
        columns = [[tree_flatten((n.args, n.kwargs))[0][i] for n in nodes] for i in slots]
        same = [all(v is column[0] for v in column) for column in columns]
        if all(same):
            return False
        # In the order of what most arguments come from.
        key = next((c for c, s in zip(columns, same, strict=True) if not s and all(v in self.parts for v in c)), None)
        if key is not None:
            places = [(self.wholes[self.parts[v].whole], self.parts[v].place) for v in key]
            order = sorted(range(len(nodes)), key=places.__getitem__)
            nodes, columns = [nodes[i] for i in order], [[c[i] for i in order] for c in columns]
        inputs = [self._value(c[0]) if s else self._put_together(c) for c, s in zip(columns, same, strict=True)]

        def operation(*given: Tensor) -> Any:
            filled = list(flat)
            for i, value in zip(slots, given, strict=True):
                filled[i] = value
            args, kwargs = tree_unflatten(filled, spec)
            return nodes[0].target(*args, **kwargs)  # type: ignore[operator]

        examples = [
            torch.zeros((*(() if s else (len(nodes),)), *c[0].meta["shape"]), dtype=c[0].meta["dtype"]).to(self.device)
            for c, s in zip(columns, same, strict=True)
        ]
        mapped = torch.vmap(operation, in_dims=tuple(None if s else 0 for s in same))
        try:
            graph = record(mapped, *examples)
        except Exception:  # torch has no rule for it
            return False
        whole = self._inlined(graph, inputs)
        self.wholes[whole] = len(self.wholes)
        for i, node in enumerate(nodes):
            self.parts[node] = _Part(whole, i)
        return True

    def _alone(self, node: fx.Node) -> None:
        if node in self.terms:
            self.values[node] = self._added_up(self.terms[node])
        elif node.target is _STACK and len(node.all_input_nodes) >= MIN_ALIKE:
            tensors, dim = cast("tuple[list[fx.Node], int]", (*node.args, 0)[:2])
            whole = self._put_together(tensors)
            self.values[node] = self._call(node, torch.ops.aten.movedim.int, (whole, 0, dim)) if dim else whole
        else:
            self.values[node] = self.new.node_copy(node, self._value)

    def _value(self, node: fx.Node) -> fx.Node:
        """What stands for a node by itself."""
        if node not in self.values:
            part = self.parts[node]
            self.values[node] = self._call(node, _SELECT, (part.whole, 0, part.place))
        return self.values[node]

    def _put_together(self, nodes: list[fx.Node]) -> fx.Node:
        """Values of the same shape as one tensor along a new first dimension."""
        if all(n.op == "get_attr" for n in nodes):
            return self._constant(torch.stack([getattr(self.recorded, str(n.target)) for n in nodes]))
        pieces: list[tuple[fx.Node | None, list[Any]]] = []  # rows of a tensor, or nodes by themselves
        for node in nodes:
            whole, entry = self._found_in(node) or (None, node)
            if not pieces or pieces[-1][0] is not whole:
                pieces.append((whole, []))
            pieces[-1][1].append(entry)
        if len(pieces) <= FEW_PIECES:
            return self._joined(pieces)
        # Of the turns in turn: each tensor's rows once, and then in their order.
        gathered: dict[fx.Node | None, tuple[list[Any], list[int]]] = {}
        for i, (whole, entry) in enumerate((whole, entry) for whole, entries in pieces for entry in entries):
            of_whole = gathered.setdefault(whole, ([], []))
            of_whole[0].append(entry)
            of_whole[1].append(i)
        joined = self._joined([(whole, entries) for whole, (entries, _) in gathered.items()])
        places = torch.tensor([i for _, of_whole in gathered.values() for i in of_whole], device=self.device).argsort()
        return self.new.call_function(torch.ops.aten.index_select.default, (joined, 0, self._constant(places)))

    def _joined(self, pieces: list[tuple[fx.Node | None, list[Any]]]) -> fx.Node:
        made = [
            self.new.call_function(_STACK, ([self._value(v) for v in of],)) if whole is None else self._rows(whole, of)
            for whole, of in pieces
        ]
        return made[0] if len(made) == 1 else self.new.call_function(torch.ops.aten.cat.default, (made,))

    def _found_in(self, node: fx.Node) -> _Part | None:
        """Where a node is an entry of a tensor along some dimension: of a result together, or by its own nature."""
        if node in self.parts:
            return self.parts[node]
        if node.target is not _SELECT:
            return None
        base, dim, index = cast("tuple[fx.Node, int, int]", node.args)
        if (base, dim) not in self.rotated:
            value, moved = self._value(base), torch.ops.aten.movedim.int
            first = dim % len(base.meta["shape"]) == 0
            self.rotated[base, dim] = value if first else self.new.call_function(moved, (value, dim, 0))
        return _Part(self.rotated[base, dim], index % base.meta["shape"][dim])

    def _rows(self, whole: fx.Node, index: list[int]) -> fx.Node:
        """Entries of a tensor along its first dimension."""
        key = whole, tuple(index)
        if key not in self.selected:
            step = index[1] - index[0] if len(index) > 1 else 1
            regular = step > 0 and index == list(range(index[0], index[-1] + 1, step))
            if regular:
                args = (whole, 0, index[0], index[-1] + 1, step)
                self.selected[key] = self.new.call_function(torch.ops.aten.slice.Tensor, args)
            else:
                places = self._constant(torch.tensor(index, device=self.device))
                self.selected[key] = self.new.call_function(torch.ops.aten.index_select.default, (whole, 0, places))
        return self.selected[key]

    def _added_up(self, terms: Sequence[fx.Node]) -> fx.Node:
        wholes: dict[fx.Node, list[int]] = {}
        total: list[fx.Node] = []
        for term in terms:
            if (found := self._found_in(term)) is not None:
                wholes.setdefault(found.whole, []).append(found.place)
            else:
                total.append(self._value(term))
        for whole, index in wholes.items():
            rows = self._rows(whole, sorted(index))
            total.append(self.new.call_function(torch.ops.aten.sum.dim_IntList, (rows, [0])))
        value = total[0]
        for more in total[1:]:
            value = self.new.call_function(_ADD, (value, more))
        return value

    def _inlined(self, graph: fx.GraphModule, inputs: list[fx.Node]) -> fx.Node:
        given, values = iter(inputs), {}
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self._constant(getattr(graph, str(node.target)))
            elif node.op == "call_function":
                values[node] = self.new.node_copy(node, values.__getitem__)
            else:
                return values[node.args[0]]
        raise AssertionError

    def _constant(self, value: Tensor) -> fx.Node:
        name = f"constant_{self.count}"
        self.count += 1
        self.root.register_buffer(name, value, persistent=False)
        node = self.new.get_attr(name)
        node.meta["shape"], node.meta["dtype"] = value.shape, value.dtype
        return node

    def _call(self, like: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
        node = self.new.call_function(target, args)
        node.meta.update(like.meta)
        return node


def _is_sum(node: fx.Node) -> bool:
    # Of floating-point numbers: booleans add up to "or", and sums of integers have another type.
    floating = (dtype := node.meta.get("dtype")) is not None and dtype.is_floating_point
    if not floating or node.target is not _ADD or len(node.args) != 2 or node.kwargs:
        return False
    like = [a.meta.get("shape") if isinstance(a, fx.Node) else None for a in node.args]
    kinds = [a.meta.get("dtype") if isinstance(a, fx.Node) else None for a in node.args]
    return all(s == node.meta.get("shape") for s in like) and all(k == node.meta.get("dtype") for k in kinds)
