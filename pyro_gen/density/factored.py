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
from pyro_gen.density.sizes import REARRANGED, broadcast, is_constant_along, shape_of, summed_shape

__all__ = ["factored"]

LARGE = 2**11  # numbers, from which on the arithmetic counts, not the call
CALL = 2**13  # numbers, for which the arithmetic takes as long as a call
SMALLER = 4  # times: a part that is so much smaller is kept apart
_ATEN = torch.ops.aten
_MUL, _DIV, _ADD, _SUM = _ATEN.mul.Tensor, _ATEN.div.Tensor, _ATEN.add.Tensor, _ATEN.sum.dim_IntList
_SCALES = {_ATEN.mul.Scalar: _MUL, _ATEN.div.Scalar: _DIV, _ATEN.add.Scalar: _ADD}
_SCALES |= {target: target for target in (_MUL, _DIV, _ADD, _ATEN.sub.Tensor)}


class _Small(NamedTuple):
    """A number, times a tensor that broadcasts and has the rank of what it belongs to."""

    number: float = 1.0
    node: fx.Node | None = None


class _Form(NamedTuple):
    """A large tensor: ``number * core``, multiplied or divided by the ``factors`` in turn, ``+ shift``.

    In turn, as the recording does it: a product of factors may overflow where each step does not.
    """

    core: fx.Node | None = None
    number: float = 1.0
    factors: tuple[tuple[Any, fx.Node], ...] = ()
    shift: _Small | None = None  # without a core all there is


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
    return sum(CALL + shape_of(node).numel() for node in graph.nodes if node.op == "call_function")


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
        if node.target in REARRANGED:
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
        return _Form(shift=_Small(float(first)))

    def _expanded(self, node: Any) -> _Form | None:
        x = node.args[0]
        assert isinstance(x, fx.Node)
        if x in self.forms or not _much_smaller(x, node):
            return None
        return _Form(shift=_Small(1.0, self._aligned(self._value(x), len(shape_of(node)))))

    def _operand(self, value: Any, node: fx.Node) -> _Form:
        """The form of an operand of a large result."""
        if not isinstance(value, fx.Node):
            return _Form(shift=_Small(float(value)))
        if value in self.forms:
            same_rank = len(shape_of(value)) == len(shape_of(node))
            return self.forms[value] if same_rank else _Form(self._value(value))
        if _much_smaller(value, node):
            return _Form(shift=_Small(1.0, self._aligned(self._value(value), len(shape_of(node)))))
        return _Form(self._value(value))

    def _arithmetic(self, node: Any) -> _Form | None:
        if not all(isinstance(a, int | float | fx.Node) for a in node.args):
            return None
        a, b = (self._operand(v, node) for v in node.args)
        target = _SCALES[node.target]
        if target is _DIV:
            made = self._divided(a, b, node)
        elif target is _MUL:
            made = self._multiplied(a, b)
        else:
            made = self._added(a, b if target is _ADD else _negative(b))
        return None if made is None else self._filled(made, node)

    def _filled(self, form: _Form, node: fx.Node) -> _Form | None:
        """The form with what is not much smaller than the result in its core, and a core of the result's shape."""
        parts = [part for _, part in form.factors]
        if form.core is None:
            assert form.shift is not None
            if form.shift.node is not None and not _much_smaller(form.shift.node, node):
                form = _Form(form.shift.node, form.shift.number)
        elif any(not _much_smaller(part, node) for part in parts):
            form = _Form(self._sized(form._replace(shift=None)), shift=form.shift)
        elif form.shift is not None and form.shift.node is not None and not _much_smaller(form.shift.node, node):
            return None
        return form if form.core is None or shape_of(form.core) == shape_of(node) else None

    def _added(self, a: _Form, b: _Form) -> _Form | None:
        if a.core is not None and b.core is not None:
            return None
        return (b if a.core is None else a)._replace(shift=self._sum_of(a.shift, b.shift))

    def _multiplied(self, a: _Form, b: _Form) -> _Form:
        if a.core is None:
            a, b = b, a
        if a.core is None:
            assert a.shift is not None and b.shift is not None
            return _Form(shift=self._times(b.shift, a.shift))
        a = self._without_shift(a)
        if b.core is None:
            assert b.shift is not None
            more = () if b.shift.node is None else ((_MUL, b.shift.node),)
            return _Form(a.core, a.number * b.shift.number, (*a.factors, *more))
        b = self._without_shift(b)
        numbers = a.number * b.number
        return _Form(
            self._both(_MUL, self._sized(a._replace(number=1.0)), self._sized(b._replace(number=1.0))), numbers
        )

    def _divided(self, a: _Form, b: _Form, node: Any) -> _Form | None:
        if (sigmoid := self._sigmoid(node)) is not None:  # x / (1 + exp(y)), the gradient of log(exp(a) + exp(b))
            return self._multiplied(a, _Form(sigmoid))
        if b.core is not None:
            if a.core is None and (a.shift is None or a.shift.node is None):
                return None
            below = self._sized(b)
            above = self._sized(a) if a.core is not None else self._small(a.shift)
            return _Form(self._both(_DIV, above, below))
        assert b.shift is not None
        if b.shift.number == 0:
            return None
        if a.core is not None:
            a = self._without_shift(a)
            more = () if b.shift.node is None else ((_DIV, b.shift.node),)
            return _Form(a.core, a.number / b.shift.number, (*a.factors, *more))
        assert a.shift is not None
        if b.shift.node is None:
            return _Form(shift=a.shift._replace(number=a.shift.number / b.shift.number))
        if a.shift.node is None:
            number = a.shift.number / b.shift.number
            return _Form(shift=_Small(number, self._like(_ATEN.reciprocal.default, b.shift.node)))
        ratio = self._both(_DIV, a.shift.node, b.shift.node)
        return _Form(shift=_Small(a.shift.number / b.shift.number, ratio))

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
        if any(f.core is not None or f.shift is None or f.shift.node is None for f in forms.values()):
            return None
        values = {n: self._small(f.shift) for n, f in forms.items()}
        args = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        made = self.new.call_function(node.target, *args)
        made.meta.update(shape=broadcast(*(shape_of(v) for v in values.values())), dtype=node.meta.get("dtype"))
        return _Form(shift=_Small(1.0, made)) if _much_smaller(made, node) else None

    def _rearranged(self, node: Any) -> _Form | None:
        x = node.args[0]
        if x not in self.forms:
            return None
        form, args = self.forms[x], node.args[1:]
        if node.target is _ATEN.squeeze.dim and shape_of(x) == shape_of(node):
            return form

        def turned(part: fx.Node) -> fx.Node:
            return self._call(node.target, (part, *args), REARRANGED[node.target](shape_of(part), *args))

        return _applied(turned, form)

    def _sum(self, node: Any) -> _Form | None:
        x, dims, keep = (*node.args, False)[:3]
        if x not in self.forms or not isinstance(dims, Sequence) or not dims or len(node.args) > 3 or node.kwargs:
            return None
        form, shape = self.forms[x], shape_of(x)
        count = math.prod(shape[int(d)] for d in dims)

        parts = [part for _, part in form.factors]
        in_shift = [] if form.shift is None or form.shift.node is None else [form.shift.node]
        if not all(is_constant_along(part, dims) for part in (*parts, *in_shift)):
            return None

        def short(part: fx.Node) -> fx.Node:
            return self._reshaped(part, summed_shape(part, dims, keep))

        shift = form.shift and _Small(count * form.shift.number, form.shift.node and short(form.shift.node))
        if form.core is None:
            return _Form(shift=shift) if in_shift else None
        if form.shift is not None and form.core not in self.one_sign:
            return None
        # The same sum is often wanted with these dimensions and without.
        core = self._call(_SUM, (form.core, dims), summed_shape(form.core, dims, False))
        factors = tuple((target, short(part)) for target, part in form.factors)
        return _Form(self._reshaped(core, shape_of(node)), form.number, factors, shift)

    def _product_of_matrices(self, node: Any) -> _Form | None:
        matrices: list[fx.Node] = []
        number = 1.0
        factors: tuple[tuple[Any, fx.Node], ...] = ()
        for matrix, contracted in zip(node.args, (-1, -2), strict=True):
            form = self.forms.get(matrix, _Form())
            fits = all(is_constant_along(part, [contracted]) for _, part in form.factors)
            if form.core is None or form.shift is not None or not fits:
                matrices.append(self._value(matrix))
                continue
            matrices.append(form.core)
            number *= form.number
            factors = (*factors, *form.factors)
        return _Form(self._call(node.target, tuple(matrices), shape_of(node)), number, factors)

    # Small parts

    def _times(self, a: _Small, b: _Small) -> _Small:
        nodes = [s.node for s in (a, b) if s.node is not None]
        node = nodes[0] if len(nodes) == 1 else self._both(_MUL, *nodes) if nodes else None
        return _Small(a.number * b.number, node)

    def _sum_of(self, a: _Small | None, b: _Small | None) -> _Small | None:
        if a is None or b is None:
            return a or b
        if a.node is None and b.node is None:
            return _Small(a.number + b.number)
        if a.node is None:
            a, b = b, a
        return _Small(1.0, self._both(_ADD, self._small(a), b.number if b.node is None else self._small(b)))

    def _small(self, small: _Small | None) -> fx.Node:
        assert small is not None and small.node is not None
        return self._times_number(small.node, small.number)

    def _times_number(self, node: fx.Node, number: float) -> fx.Node:
        if number == 1:
            return node
        return self._like(_ATEN.neg.default, node) if number == -1 else self._both(_MUL, node, number)

    def _aligned(self, node: fx.Node, rank: int) -> fx.Node:
        shape = shape_of(node)
        return self._reshaped(node, torch.Size((1,) * (rank - len(shape)) + tuple(shape)))

    # New nodes

    def _call(self, target: Any, args: tuple[Any, ...], shape: torch.Size) -> fx.Node:
        made = self.new.call_function(target, args)
        made.meta.update(shape=shape, dtype=next(a for a in args if isinstance(a, fx.Node)).meta.get("dtype"))
        return made

    def _reshaped(self, node: fx.Node, shape: torch.Size) -> fx.Node:
        same = shape_of(node) == shape
        return node if same else self._call(_ATEN.reshape.default, (node, list(shape)), shape)

    def _like(self, target: Any, node: fx.Node) -> fx.Node:
        return self._call(target, (node,), shape_of(node))

    def _both(self, target: Any, a: fx.Node, b: Any) -> fx.Node:
        shape = broadcast(*(shape_of(v) for v in (a, b) if isinstance(v, fx.Node)))
        return self._call(target, (a, b), shape)

    def _without_shift(self, form: _Form) -> _Form:
        return form if form.shift is None else _Form(self._sized(form))

    def _sized(self, form: _Form) -> fx.Node:
        """A form that has a core as a tensor."""
        assert form.core is not None
        value, number, shift = form.core, form.number, form.shift
        for target, part in form.factors:
            if value is form.core and _is_large(value):  # one pass over large numbers less; a product is faster, too
                if target is _DIV:
                    target, part = _MUL, self._like(_ATEN.reciprocal.default, part)
                part, number = self._times_number(part, number), 1.0
            value = self._both(target, value, part)
        if number == -1 and shift is not None and shift.node is not None:
            return self._both(_ATEN.sub.Tensor, self._small(shift), value)
        value = self._times_number(value, number)
        if shift is not None:
            value = self._both(_ADD, value, shift.number if shift.node is None else self._small(shift))
        return value

    def _written(self, form: _Form, node: fx.Node) -> fx.Node:
        """A form as a tensor of the shape of a node."""
        if form.core is not None:
            return self._sized(form)
        small = self._small(form.shift)
        if shape_of(small) == shape_of(node):
            return small
        return self._call(_ATEN.expand.default, (small, list(shape_of(node))), shape_of(node))

    def _value(self, node: fx.Node) -> fx.Node:
        if node not in self.plain:
            self.plain[node] = self._written(self.forms[node], node)
        return self.plain[node]

    def _copy(self, node: Any) -> None:
        made = self._broadcasting(node) or self.new.node_copy(node, self._value)
        made.meta = dict(node.meta)
        if node.target is _ATEN.view.default and node.args[0] in self.rewritten:
            made.target = _ATEN.reshape.default
        if node.target is _ATEN.exp.default or (
            node.target is _ATEN.pow.Tensor_Scalar and node.args[1] in (2, 2.0, 4, 4.0)
        ):
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
            small = self.forms[n].shift
            values[n] = self._value(n) if small is None or small.node is None else self._small(small)
        if broadcast(*(shape_of(v) for v in values.values())) != shape_of(node):
            return None
        args: Any = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return self.new.call_function(node.target, *args)


def _negative(form: _Form) -> _Form:
    shift = form.shift and form.shift._replace(number=-form.shift.number)
    return form._replace(number=-form.number, shift=shift)


def _applied(function: Callable[[fx.Node], fx.Node], form: _Form) -> _Form:
    """What is done to the dimensions of a tensor, done to its parts."""
    factors = tuple((target, function(part)) for target, part in form.factors)
    shift = form.shift and form.shift._replace(node=form.shift.node and function(form.shift.node))
    return _Form(form.core and function(form.core), form.number, factors, shift)


def _is_large(node: fx.Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and dtype.is_floating_point and shape_of(node).numel() >= LARGE


def _much_smaller(node: fx.Node, other: fx.Node) -> bool:
    return "shape" in node.meta and SMALLER * shape_of(node).numel() <= shape_of(other).numel()
