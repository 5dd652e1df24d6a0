r"""A recorded graph in which what many numbers share is done once, not for each of them.

The gradient of a likelihood is mostly operations on a number for each chain and datum, and much of what is done to it
is the same for all data of a chain: :math:`\log \sigma` and its gradient are computed for each datum where the model
says :math:`\mathcal{N}(\mu_i, \sigma)`, and each residual is multiplied by :math:`-1`, 2 and :math:`1 / 2 \sigma^2` in
turn. Here every large tensor is held as

.. math:: s \, x + t

with :math:`s` and :math:`t` that broadcast, as few numbers as can be. Products, quotients and signs go into
:math:`s`, which leaves sums and matrix products, :math:`\sum_i s x_i = s \sum_i x_i`. Sums of differences are left
as they are: to take :math:`\sum_i (y_i - \mu)` apart would lose the digits that the difference saves. (A shift leaves a
sum of squares or of exponentials, which cannot cancel.)
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from pyro_gen.density.graphs import is_random, mutates, simplify
from pyro_gen.density.padded import join_gradients

__all__ = ["factored"]

LARGE = 2**11  # numbers, from which on the arithmetic counts, not the call
CALL = 2**13  # numbers, for which the arithmetic takes as long as a call
SMALLER = 4  # times: a part that is so much smaller is kept apart
_ATEN = torch.ops.aten
_MUL, _ADD, _SUM, _POW = _ATEN.mul.Tensor, _ATEN.add.Tensor, _ATEN.sum.dim_IntList, _ATEN.pow.Tensor_Scalar
_SCALES = {_ATEN.mul.Scalar: _MUL, _ATEN.div.Scalar: _ATEN.div.Tensor, _ATEN.add.Scalar: _ADD}
_SCALES |= {target: target for target in (_MUL, _ATEN.div.Tensor, _ADD, _ATEN.sub.Tensor)}


class _Small(NamedTuple):
    """A number, times a tensor that broadcasts and has the rank of what it belongs to."""

    number: float = 1.0
    node: fx.Node | None = None


class _Form(NamedTuple):
    """A large tensor, ``scale * core + shift``; without a core it is ``scale``."""

    core: fx.Node | None = None
    scale: _Small = _Small()
    shift: _Small | None = None


def factored(recorded: fx.GraphModule) -> fx.GraphModule:
    """Rewrites a graph of :func:`pyro_gen.density.graphs.record`.

    The same one is returned where it draws or writes in place, and where nothing is gained.
    """
    if any(mutates(node) or is_random(node) for node in recorded.graph.nodes):
        return recorded
    copy = fx.Graph()
    copy.output(copy.graph_copy(recorded.graph, {}))
    join_gradients(copy)
    made = _Factored(recorded, copy).graph()
    _fold(made)
    simplify(made)
    return made if _cost(made.graph) < _cost(recorded.graph) else recorded


def _cost(graph: fx.Graph) -> float:
    return sum(CALL + _shape(node).numel() for node in graph.nodes if node.op == "call_function")


def _fold(graph: fx.GraphModule) -> None:
    """Does at once what is done to constants alone, and reshapes once what is reshaped twice."""
    for node in list(graph.graph.nodes):
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or any(n.op != "get_attr" for n in inputs):
            continue
        values = {n: operator.attrgetter(str(n.target))(graph) for n in inputs}
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        value = node.target(*args, **kwargs)
        if not isinstance(value, Tensor):
            continue
        name = f"folded_{node.name}"
        graph.register_buffer(name, value, persistent=False)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta.update(shape=value.shape, dtype=value.dtype)
        node.replace_all_uses_with(constant)
    for node in graph.graph.find_nodes(op="call_function", target=_ATEN.reshape.default):
        if node.args[0].target in (_ATEN.reshape.default, _ATEN.view.default):
            node.args = (node.args[0].args[0], node.args[1])
    graph.graph.eliminate_dead_code()


class _Factored:
    def __init__(self, recorded: fx.GraphModule, graph: fx.Graph) -> None:
        self.recorded, self.old, self.new = recorded, graph, fx.Graph()
        self.forms: dict[fx.Node, _Form] = {}  # of large tensors of the recording
        self.plain: dict[fx.Node, fx.Node] = {}  # what stands for a node of the recording
        self.rewritten: set[fx.Node] = set()  # of the recording: they may have other strides now
        self.one_sign: set[fx.Node] = set()  # new nodes whose entries cannot cancel

    def graph(self) -> fx.GraphModule:
        for node in self.old.nodes:
            form = self._form(node) if node.op in ("call_function", "get_attr") else None
            if form is not None or any(n in self.rewritten for n in node.all_input_nodes):
                self.rewritten.add(node)
            if form is not None and _is_large(node):
                self.forms[node] = form
            elif form is not None:
                self.plain[node] = self._written(form, node)
            else:
                self._copy(node)
        return fx.GraphModule(self.recorded, self.new)

    # What an operation makes of forms

    def _form(self, node: Any) -> _Form | None:
        """The form of a large tensor, or of a small one that is made of a large one; ``None`` where there is none."""
        if node.op == "get_attr":
            return self._constant(node) if _is_large(node) else None
        inputs = node.all_input_nodes
        if not _is_large(node) and not any(n in self.forms for n in inputs):
            return None
        if any(n.meta.get("dtype") != node.meta.get("dtype") for n in inputs):
            return None
        if node.target is _ATEN.expand.default:
            return self._expanded(node)
        if node.target in _REARRANGED:
            return self._rearranged(node)
        if node.target is _SUM:
            return self._sum(node)
        if node.target in (_ATEN.mm.default, _ATEN.bmm.default):
            return self._product_of_matrices(node)
        if not _is_large(node):
            return None
        if node.target is _ATEN.neg.default:
            return _negative(self._operand(node.args[0], node))
        if node.target in _SCALES and len(node.args) == 2 and not node.kwargs:
            return self._arithmetic(node)
        return self._pointwise(node)

    def _constant(self, node: Any) -> _Form | None:
        value = operator.attrgetter(str(node.target))(self.recorded)
        first = value.flatten()[0]
        if not value.is_floating_point() or not bool((value == first).all()):
            return None
        self._copy(node)  # for those who need it whole
        return _Form(scale=_Small(float(first)))

    def _expanded(self, node: Any) -> _Form | None:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        if x in self.forms or not _much_smaller(x, node):
            return None
        return _Form(scale=_Small(1.0, self._aligned(self._value(x), len(_shape(node)))))

    def _operand(self, value: Any, node: fx.Node) -> _Form:
        """The form of an operand of a large result."""
        if not isinstance(value, fx.Node):
            return _Form(scale=_Small(float(value)))
        if value in self.forms:
            same_rank = len(_shape(value)) == len(_shape(node))
            return self.forms[value] if same_rank else _Form(self._value(value))
        if _much_smaller(value, node):
            return _Form(scale=_Small(1.0, self._aligned(self._value(value), len(_shape(node)))))
        return _Form(self._value(value))

    def _arithmetic(self, node: Any) -> _Form | None:
        if not all(isinstance(a, int | float | fx.Node) for a in node.args):
            return None
        a, b = (self._operand(v, node) for v in node.args)
        target = _SCALES[node.target]
        if target is _ATEN.sub.Tensor:
            target, b = _ADD, _negative(b)
        made = self._added(a, b) if target is _ADD else self._multiplied(a, b, node) if target is _MUL else None
        if target is _ATEN.div.Tensor:
            made = self._divided(a, b, node)
        return None if made is None else self._filled(made, node)

    def _filled(self, form: _Form, node: fx.Node) -> _Form | None:
        """The form with what is not much smaller than the result in its core, and a core of the result's shape."""
        core, scale, shift = form
        if scale.node is not None and not _much_smaller(scale.node, node):
            core = scale.node if core is None else self._both(_MUL, core, scale.node)
            scale = _Small(scale.number)
        if shift is not None and shift.node is not None and not _much_smaller(shift.node, node):
            return None
        return _Form(core, scale, shift) if core is None or _shape(core) == _shape(node) else None

    def _added(self, a: _Form, b: _Form) -> _Form | None:
        if a.core is not None and b.core is not None:
            return None
        if a.core is None:
            a, b = b, a
        if a.core is None:
            return _Form(scale=self._sum_of(a.scale, b.scale))
        return a._replace(shift=b.scale if a.shift is None else self._sum_of(a.shift, b.scale))

    def _multiplied(self, a: _Form, b: _Form, node: Any) -> _Form:
        a, b = (self._without_shift(f) for f in (a, b))
        cores = [f.core for f in (a, b) if f.core is not None]
        core = cores[0] if len(cores) == 1 else self._call(_MUL, (*cores,), _shape(node)) if cores else None
        return _Form(core, self._times(a.scale, b.scale))

    def _divided(self, a: _Form, b: _Form, node: Any) -> _Form | None:
        if (sigmoid := self._sigmoid(node)) is not None:  # x / (1 + exp(y)), the gradient of log(exp(a) + exp(b))
            return self._multiplied(a, _Form(sigmoid), node)
        a, b = (self._without_shift(f) for f in (a, b))
        if b.scale.number == 0:
            return None
        one_by = _Small(1 / b.scale.number, b.scale.node and self._like(_ATEN.reciprocal.default, b.scale.node))
        scale, core = self._times(a.scale, one_by), a.core
        if b.core is not None:
            divided = core is not None
            target, args = (_ATEN.div.Tensor, (core, b.core)) if divided else (_ATEN.reciprocal.default, (b.core,))
            core = self._call(target, args, _shape(node) if divided else _shape(b.core))
        return _Form(core, scale)

    def _sigmoid(self, node: Any) -> fx.Node | None:
        below = node.args[1]
        if not isinstance(below, fx.Node) or below.target is not _ATEN.add.Scalar or below.args[1] not in (1, 1.0):
            return None
        exp = below.args[0]
        if not isinstance(exp, fx.Node) or exp.target is not _ATEN.exp.default or exp.args[0] in self.forms:
            return None
        x: Any = exp.args[0]
        if x.target is _ATEN.sub.Tensor and len(x.args) == 2 and all(isinstance(a, fx.Node) for a in x.args):
            a, b = (self._value(v) for v in x.args)
            return self._like(_ATEN.sigmoid.default, self._both(_ATEN.sub.Tensor, b, a))
        return self._like(_ATEN.sigmoid.default, self._like(_ATEN.neg.default, self._value(x)))

    def _pointwise(self, node: Any) -> _Form | None:
        """A function of each number, where it is the same for many."""
        inputs = node.all_input_nodes
        if torch.Tag.pointwise not in node.target.tags or not inputs:
            return None
        forms = {n: self._operand(n, node) for n in inputs}
        if any(f.core is not None or f.scale.node is None for f in forms.values()):
            return None
        values = {n: self._small(f.scale) for n, f in forms.items()}
        args = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        made = self.new.call_function(node.target, *args)
        shape = _broadcast(*(_shape(v) for v in values.values()))
        made.meta.update(shape=shape, dtype=node.meta.get("dtype"))
        return _Form(scale=_Small(1.0, made)) if _much_smaller(made, node) else None

    def _rearranged(self, node: Any) -> _Form | None:
        x = node.args[0]
        if x not in self.forms:
            return None
        form = self.forms[x]
        if node.target is _ATEN.squeeze.dim and _shape(x) == _shape(node):
            return form

        def turned(part: fx.Node | None) -> fx.Node | None:
            args = node.args[1:]
            return part and self._call(node.target, (part, *args), _REARRANGED[node.target](_shape(part), *args))

        scale = form.scale._replace(node=turned(form.scale.node))
        shift = form.shift and form.shift._replace(node=turned(form.shift.node))
        return _Form(turned(form.core), scale, shift)

    def _sum(self, node: Any) -> _Form | None:
        x, dims, keep = (*node.args, False)[:3]
        if x not in self.forms or not isinstance(dims, Sequence) or not dims or len(node.args) > 3 or node.kwargs:
            return None
        form, shape = self.forms[x], _shape(x)
        count = math.prod(shape[int(d)] for d in dims)

        def once(small: _Small) -> bool:
            return small.node is None or _is_constant_along(small.node, dims)

        def summed(small: _Small, times: float) -> _Small:
            node = small.node and self._reshaped(small.node, _summed_shape(small.node, dims, keep))
            return _Small(times * small.number, node)

        if form.core is None:
            return _Form(scale=summed(form.scale, count)) if once(form.scale) and form.scale.node is not None else None
        if not once(form.scale) or (form.shift is not None and not (once(form.shift) and form.core in self.one_sign)):
            return None
        # The same sum is often wanted with these dimensions and without.
        core = self._call(_SUM, (form.core, dims), _summed_shape(form.core, dims, False))
        core = self._reshaped(core, _shape(node))
        return _Form(core, summed(form.scale, 1.0), form.shift and summed(form.shift, count))

    def _product_of_matrices(self, node: Any) -> _Form | None:
        factors, scale = [], _Small()
        for matrix, contracted in zip(node.args, (-1, -2), strict=True):
            form = self.forms.get(matrix)
            core = None if form is None or form.shift is not None else form.core
            node_of_scale = form and form.scale.node
            if form is None or core is None or (node_of_scale and not _is_constant_along(node_of_scale, [contracted])):
                factors.append(self._value(matrix))
            else:
                factors.append(core)
                scale = self._times(scale, form.scale)
        return _Form(self._call(node.target, tuple(factors), _shape(node)), scale)

    # Small parts

    def _times(self, a: _Small, b: _Small) -> _Small:
        nodes = [s.node for s in (a, b) if s.node is not None]
        node = nodes[0] if len(nodes) == 1 else self._both(_MUL, *nodes) if nodes else None
        return _Small(a.number * b.number, node)

    def _sum_of(self, a: _Small, b: _Small) -> _Small:
        if a.node is None and b.node is None:
            return _Small(a.number + b.number)
        if a.node is None:
            a, b = b, a
        return _Small(1.0, self._both(_ADD, self._small(a), b.number if b.node is None else self._small(b)))

    def _small(self, small: _Small) -> fx.Node:
        assert small.node is not None
        return self._times_number(small.node, small.number)

    def _times_number(self, node: fx.Node, number: float) -> fx.Node:
        if number == 1:
            return node
        return self._like(_ATEN.neg.default, node) if number == -1 else self._both(_MUL, node, number)

    def _aligned(self, node: fx.Node, rank: int) -> fx.Node:
        shape = _shape(node)
        return self._reshaped(node, torch.Size((1,) * (rank - len(shape)) + tuple(shape)))

    # New nodes

    def _call(self, target: Any, args: tuple[Any, ...], shape: torch.Size) -> fx.Node:
        made = self.new.call_function(target, args)
        made.meta.update(shape=shape, dtype=next(a for a in args if isinstance(a, fx.Node)).meta.get("dtype"))
        return made

    def _reshaped(self, node: fx.Node, shape: torch.Size) -> fx.Node:
        same = _shape(node) == shape
        return node if same else self._call(_ATEN.reshape.default, (node, list(shape)), shape)

    def _like(self, target: Any, node: fx.Node) -> fx.Node:
        return self._call(target, (node,), _shape(node))

    def _both(self, target: Any, a: fx.Node, b: Any) -> fx.Node:
        shape = _broadcast(*(_shape(v) for v in (a, b) if isinstance(v, fx.Node)))
        return self._call(target, (a, b), shape)

    def _without_shift(self, form: _Form) -> _Form:
        return form if form.shift is None else _Form(self._sized(form))

    def _sized(self, form: _Form) -> fx.Node:
        """A form that has a core as a tensor."""
        assert form.core is not None
        value, scale, shift = form.core, form.scale, form.shift
        if scale == _Small(-1.0) and shift is not None and shift.node is not None:
            return self._both(_ATEN.sub.Tensor, self._small(shift), value)
        value = self._times_number(value, scale.number) if scale.node is None else value
        value = value if scale.node is None else self._both(_MUL, value, self._small(scale))
        if shift is not None:
            value = self._both(_ADD, value, shift.number if shift.node is None else self._small(shift))
        return value

    def _written(self, form: _Form, node: fx.Node) -> fx.Node:
        """A form as a tensor of the shape of a node."""
        if form.core is not None:
            return self._sized(form)
        small = self._small(form.scale)
        if _shape(small) == _shape(node):
            return small
        return self._call(_ATEN.expand.default, (small, list(_shape(node))), _shape(node))

    def _value(self, node: fx.Node) -> fx.Node:
        if node not in self.plain:
            self.plain[node] = self._written(self.forms[node], node)
        return self.plain[node]

    def _copy(self, node: Any) -> None:
        made = self._broadcasting(node) or self.new.node_copy(node, self._value)
        made.meta = dict(node.meta)
        if node.target is _ATEN.view.default and node.args[0] in self.rewritten:
            made.target = _ATEN.reshape.default
        if node.target is _ATEN.exp.default or (node.target is _POW and node.args[1] in (2, 2.0, 4, 4.0)):
            self.one_sign.add(made)
        self.plain[node] = made

    def _broadcasting(self, node: Any) -> fx.Node | None:
        """A function of each number, of operands that are not written out in full."""
        inputs = [n for n in node.all_input_nodes if n in self.forms and self.forms[n].core is None]
        tags = getattr(node.target, "tags", ())
        if not inputs or torch.Tag.pointwise not in tags:
            return None
        values = {n: self._value(n) for n in node.all_input_nodes if n not in inputs}
        for n in inputs:
            scale = self.forms[n].scale
            values[n] = self._value(n) if scale.node is None else self._small(scale)
        if _broadcast(*(_shape(v) for v in values.values())) != _shape(node):
            return None
        args: Any = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return self.new.call_function(node.target, *args)


def _negative(form: _Form) -> _Form:
    def turned(small: _Small) -> _Small:
        return small._replace(number=-small.number)

    return _Form(form.core, turned(form.scale), form.shift and turned(form.shift))


# ----------------------------------------------------------------------------------------------------------------------
# Shapes


def _shape(node: fx.Node) -> torch.Size:
    return node.meta.get("shape") or torch.Size()


def _is_large(node: fx.Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and dtype.is_floating_point and _shape(node).numel() >= LARGE


def _much_smaller(node: fx.Node, other: fx.Node) -> bool:
    return "shape" in node.meta and SMALLER * _shape(node).numel() <= _shape(other).numel()


def _is_constant_along(node: fx.Node, dims: Any) -> bool:
    return all(_shape(node)[int(d)] == 1 for d in dims)


def _broadcast(*shapes: torch.Size) -> torch.Size:
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True)
    sizes = [max(column) if 0 not in column else 0 for column in columns]
    return torch.Size(sizes)


def _summed_shape(node: fx.Node, dims: Any, keep: Any) -> torch.Size:
    shape = _shape(node)
    gone = {int(d) % len(shape) for d in dims}
    return torch.Size([1 if i in gone else n for i, n in enumerate(shape) if keep or i not in gone])


_REARRANGED: dict[Any, Callable[..., torch.Size]] = {
    _ATEN.permute.default: lambda s, dims: torch.Size([s[d] for d in dims]),
    _ATEN.transpose.int: lambda s, a, b: _swapped(s, a, b),
    _ATEN.t.default: lambda s: torch.Size(s[::-1]),
    _ATEN.unsqueeze.default: lambda s, d: torch.Size([*s[: d % (len(s) + 1)], 1, *s[d % (len(s) + 1) :]]),
    _ATEN.squeeze.dim: lambda s, d: torch.Size([n for i, n in enumerate(s) if i != d % len(s) or n != 1]),
}


def _swapped(shape: torch.Size, a: int, b: int) -> torch.Size:
    sizes = list(shape)
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return torch.Size(sizes)
