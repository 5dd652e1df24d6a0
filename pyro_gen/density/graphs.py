"""A function of tensors as a graph of plain tensor operations, recorded once and made small.

A dispatch mode sees each operation on plain tensors, below ``vmap`` and autograd. Those that depend on the inputs are
written down; the others are constants. What an operation on few numbers costs is mostly the call, so each one that can
go, goes: what is computed twice is computed once, and what changes nothing is left out.

``torch.fx``'s own recorder, ``make_fx``, does the same job; it imports the compiler first (a second), and takes ten
times as long for each operation.
"""

# ruff: noqa: SLF001 -- names of torch's operations begin with an underscore, and so does what tells one from another

import operator
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "compile_graph",
    "compiler_available",
    "count_work",
    "is_random",
    "mutates",
    "nan_on_failure",
    "record",
    "simplify",
]

_SAME = (torch.ops.aten.alias.default, torch.ops.aten.detach.default, torch.ops.aten.lift_fresh_copy.default)
_TAKES_OUT = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
_BY_SHAPE = (
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_full.default,
)
_NEUTRAL = {
    torch.ops.aten.add.Tensor: 0,
    torch.ops.aten.sub.Tensor: 0,
    torch.ops.aten.mul.Tensor: 1,
    torch.ops.aten.div.Tensor: 1,
}
_COMMUTATIVE = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)
_RESHAPES = (torch.ops.aten.view.default, torch.ops.aten.expand.default, torch.ops.aten._unsafe_view.default)


def compiler_available() -> bool:
    """Whether this machine has the C++ compiler that ``torch.compile`` needs on the CPU."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


class nan_on_failure(TorchDispatchMode):
    """Where a matrix has no Cholesky factor, the factor is NaN and nothing is raised: one chain must not stop all."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, to keep it away from the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._linalg_check_errors.default:
            return None
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.linalg_cholesky_ex.default:
            factor, info = out
            return torch.where((info != 0)[..., None, None], torch.nan, factor), info
        return out


class _Recorder(TorchDispatchMode):
    """Writes down the operations that depend on the inputs, or draw."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, to keep it away from the mode

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.nodes: Any = WeakTensorKeyDictionary()
        self.constants: Any = WeakTensorKeyDictionary()
        self.views: Any = WeakTensorKeyDictionary()  # of what is not recorded: how they were made
        self.captured: set[int] = set()  # the memory of constants, which ``root`` holds
        # The memory of what began as a constant and was written to. Held, or a later constant might be put there.
        self.written: dict[int, Tensor] = {}
        self.count = 0
        for i, tensor in enumerate(inputs):
            self._track(tensor, self.graph.placeholder(f"input_{i}"))

    def _track(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["shape"], node.meta["dtype"] = tensor.shape, tensor.dtype
        self.nodes[tensor] = node

    def node_of(self, value: Any) -> Any:
        """The node of a tensor, one for a constant if need be; anything else is itself."""
        if not isinstance(value, Tensor):
            return value
        if value not in self.nodes:
            if _memory(value) in self.written:
                self._make_view(value)
                return self.nodes[value]
            name = f"constant_{self.count}"
            self.count += 1
            self.root.register_buffer(name, value.detach(), persistent=False)
            self._track(value, self.graph.get_attr(name))
            self.constants[value] = name
            self.captured.add(_memory(value))
        return self.nodes[value]

    def _make_variable(self, constant: Tensor) -> None:
        """Prepares a constant for being written to: zeros by the gradient of an index, empty space by a draw."""
        if constant in self.views:
            base = self.views[constant][1][0]
            if _memory(base) not in self.written:
                self._make_variable(base)
            self._make_view(constant)
            return
        if _memory(constant) in self.captured or constant.untyped_storage().nbytes() > constant.nbytes:
            raise RuntimeError("a constant is changed in place after it was used")
        before = self.node_of(constant.clone())
        self._track(constant, self.graph.call_function(torch.ops.aten.clone.default, (before,)))
        self.written[_memory(constant)] = constant

    def _make_view(self, view: Tensor) -> None:
        if view not in self.views:
            raise RuntimeError("a part of a constant is changed in place")
        func, args, kwargs = self.views[view]
        nodes, options = tree_map(self.node_of, (args, kwargs))
        self._track(view, self.graph.call_function(func, nodes, options))

    def _depends(self, tensor: Tensor) -> bool:
        return (tensor in self.nodes and tensor not in self.constants) or _memory(tensor) in self.written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
        depends = any(self._depends(t) for t in tensors)
        if func in _TAKES_OUT and depends:
            raise RuntimeError("the value of a tensor is taken out of it (data-dependent)")
        random = torch.Tag.nondeterministic_seeded in func.tags
        changed = args[0] if func._schema.is_mutable and isinstance(args[0], Tensor) else None
        if func in _BY_SHAPE or not (depends or random):
            if changed is not None and _memory(changed) in self.captured:
                raise RuntimeError("a constant is changed in place after it was used")
            out = func(*args, **kwargs)
            if isinstance(out, Tensor) and tensors and out is not changed and _memory(out) == _memory(tensors[0]):
                self.views[out] = func, args, kwargs
            return out
        if changed is not None and not self._depends(changed):
            self._make_variable(changed)
        nodes, options = tree_map(self.node_of, (args, kwargs))
        out = func(*args, **kwargs)
        node = self.graph.call_function(func, nodes, options)
        if isinstance(out, Tensor):
            self._track(out, node)
        elif isinstance(out, tuple | list):
            for i, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._track(part, self.graph.call_function(operator.getitem, (node, i)))
        return out


class _Counter(TorchDispatchMode):
    """Counts operations, and the numbers that they read and write."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, to keep it away from the mode

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.numbers = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_flatten((args, kwargs, out))[0] if isinstance(t, Tensor)]
        if not func.is_view and sizes:
            self.operations, self.numbers = self.operations + 1, self.numbers + max(sizes)
        return out


def count_work(function: Callable[..., Any], *examples: Tensor) -> tuple[int, int]:
    """How many operations on tensors a function takes, and on how many numbers in all."""
    counter = _Counter()
    with counter:
        function(*(e.detach() for e in examples))
    return counter.operations, counter.numbers


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


def record(function: Callable[..., Any], *examples: Tensor) -> fx.GraphModule:
    """Records a function at example inputs as a graph, and simplifies it.

    Arguments:
        function: A function of tensors whose operations do not depend on their values. Draws stay draws.
        examples: Tensors with the shapes and dtypes of later inputs.

    Returns:
        The graph, a module with the signature of ``function``.

    Raises:
        Exception: Whatever the function raises when it cannot be recorded.
    """
    inputs = [e.detach() for e in examples]  # objects of their own: one tensor may be given twice
    recorder = _Recorder(inputs)
    with recorder, nan_on_failure():  # type: ignore[no-untyped-call]
        result = function(*inputs)
    recorder.graph.output(tree_map(recorder.node_of, result))
    recorded = fx.GraphModule(recorder.root, recorder.graph)
    simplify(recorded)
    return recorded


def compile_graph(graph: fx.GraphModule, *examples: Any) -> Callable[..., Any]:
    """Compiles a recorded graph by ``torch.compile`` and runs it once.

    Raises:
        Exception: Whatever the compiler of this machine makes of it.
    """
    compiled: Callable[..., Any] = torch.compile(graph, dynamic=False)
    compiled(*examples)
    return compiled


def simplify(recorded: fx.GraphModule) -> None:
    """Leaves out what changes nothing, what nobody uses, and what was computed before."""
    graph = recorded.graph
    _out_of_place(graph)
    for node in graph.nodes:
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code(_must_stay)
    if not any(mutates(node) for node in graph.nodes):
        _drop_neutral(recorded)
        _merge_equal(graph)
        graph.eliminate_dead_code(_must_stay)
    recorded.recompile()


def _changes_nothing(node: fx.Node) -> bool:
    if node.target in _RESHAPES:
        return _shape(node) == _shape(node.args[0]) is not None
    # The gradient of a square has a power of 1.
    return node.target in _SAME or (node.target is torch.ops.aten.pow.Tensor_Scalar and node.args[1] in (1, 1.0))


def _shape(node: Any) -> torch.Size | None:
    return node.meta.get("shape") if isinstance(node, fx.Node) else None


def is_random(node: fx.Node) -> bool:
    """Whether an operation draws."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def mutates(node: fx.Node) -> bool:
    """Whether an operation writes into memory that it was given."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _must_stay(node: fx.Node) -> bool:
    # A draw that nobody uses stays too: without it the others would change.
    return node.op in ("placeholder", "output") or mutates(node) or is_random(node)


def _out_of_place(graph: fx.Graph) -> None:
    """Replaces op_(x, ...) by op(x, ...), where x is no view and has none; draws stay the same draws."""
    for node in list(graph.nodes):
        if not mutates(node):
            continue
        packet, overload = node.target._opname, node.target._overloadname
        name = "normal_functional" if packet == "normal_" else packet.removesuffix("_")
        plain = getattr(getattr(torch.ops.aten, name, None), overload, None)
        x = node.args[0]
        views = [user for user in x.users if user is not node and user < node and _is_view(user)]
        if plain is None or not packet.endswith("_") or x.op != "call_function" or _is_view(x) or views:
            continue
        with graph.inserting_before(node):
            new = graph.call_function(plain, node.args, node.kwargs)
            new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        for user in list(x.users):
            if user is not new and user is not node and not user < node:
                user.replace_input_with(x, new)
        graph.erase_node(node)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliased = schema is not None and any(r.alias_info is not None for r in schema.returns)
    return aliased or node.target is operator.getitem


def _drop_neutral(recorded: fx.GraphModule) -> None:
    """Leaves out x + 0, x - 0, 1 x, x / 1, and the sum over a dimension that was made for it."""
    for node in recorded.graph.nodes:
        if node.target in _NEUTRAL and not node.kwargs:
            number, commutes = _NEUTRAL[node.target], node.target in _COMMUTATIVE
            for x, other in (node.args, node.args[::-1])[: 1 + commutes]:
                if _is_filled_with(recorded, other, number) and _alike(node, x):
                    node.replace_all_uses_with(x)
                    break
        elif node.target is torch.ops.aten.sum.dim_IntList and node.args[0].target is torch.ops.aten.unsqueeze.default:
            x, dim = node.args[0].args
            rank = len(_shape(node.args[0]) or ())
            if len(node.args) == 2 and [d % rank for d in node.args[1]] == [dim % rank] and _alike(node, x):
                node.replace_all_uses_with(x)
    recorded.graph.eliminate_dead_code(_must_stay)


def _alike(a: fx.Node, b: Any) -> bool:
    """Whether two nodes have values of the same shape and dtype."""
    return isinstance(b, fx.Node) and (_shape(a), a.meta.get("dtype")) == (_shape(b), b.meta.get("dtype"))


def _is_filled_with(recorded: fx.GraphModule, node: Any, number: int) -> bool:
    if isinstance(node, int | float):
        return node == number
    if not (isinstance(node, fx.Node) and node.op == "get_attr"):
        return False
    value = operator.attrgetter(str(node.target))(recorded)
    return isinstance(value, Tensor) and bool((value == number).all())


def _merge_equal(graph: fx.Graph) -> None:
    """Replaces an operation by an earlier one with the same arguments."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or is_random(node):
            continue
        key = (node.op, str(node.target), _hashable(node.args), _hashable(node.kwargs))
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _hashable(arguments: Any) -> Any:
    if isinstance(arguments, list | tuple):
        return tuple(_hashable(a) for a in arguments)
    if isinstance(arguments, dict):
        return tuple((k, _hashable(v)) for k, v in arguments.items())
    # 1, 1.0 and True are equal to Python and different to PyTorch.
    return arguments if isinstance(arguments, fx.Node) else (type(arguments), repr(arguments))
