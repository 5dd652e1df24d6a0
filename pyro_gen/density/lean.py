"""A recorded graph as a Python function that spends as little as can be on each call.

An operation on few numbers takes a microsecond, and the way to it as long: ``torch.ops.aten.mul.Tensor`` is found by
four look-ups and reads its arguments by a schema, where ``torch.mul`` has a parser of its own; a constant of a module
is found by a function in Python. Here both are names of the function's own scope.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

__all__ = ["lean"]

_ATEN = torch.ops.aten
# By name, functions of torch that take the arguments of these overloads as they are.
_OVERLOADS = {
    "Tensor": ("mul", "add", "sub", "div", "maximum", "minimum", "xlogy", "lt", "gt", "ge", "le", "eq", "ne"),
    "Scalar": ("mul", "add", "sub", "div", "rsub", "lt", "gt", "ge", "le", "eq", "ne", "masked_fill"),
    "Tensor_Scalar": ("pow",),
    "Tensor_Tensor": ("pow",),
    "dim_IntList": ("sum",),
    "self": ("where",),
    "int": ("select",),
    "dim": ("squeeze",),
    "default": (
        *("abs", "amax", "bmm", "cat", "clamp", "cumsum", "digamma", "erf", "exp", "expm1", "flip", "lgamma", "log"),
        *("log1p", "logaddexp", "logical_and", "logical_not", "logical_or", "mm", "neg", "permute", "reciprocal"),
        *("reshape", "rsqrt", "sigmoid", "sign", "sqrt", "square", "stack", "tanh", "unsqueeze", "logcumsumexp"),
    ),
}
_DIRECT: dict[Any, Any] = {
    getattr(getattr(_ATEN, name), overload): getattr(torch, name)
    for overload, names in _OVERLOADS.items()
    for name in names
    if overload in getattr(_ATEN, name).overloads()
}
_DIRECT |= {_ATEN.view.default: torch.Tensor.view, _ATEN.expand.default: torch.Tensor.expand}


def lean(recorded: fx.GraphModule) -> Callable[..., Any]:
    """Writes a graph as a function; an operation that is not known stands there as it was recorded."""
    names: dict[str, Any] = {}
    words: dict[int, str] = {}

    def bound(value: Any, kind: str) -> str:
        """The name of an object in the scope of the function."""
        if id(value) not in words:
            words[id(value)] = f"{kind}_{len(names)}"
            names[words[id(value)]] = value
        return words[id(value)]

    def text(value: Any) -> str:
        if isinstance(value, fx.Node):
            return local[value]
        if isinstance(value, list | tuple):
            inner = "".join(f"{text(v)}, " for v in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        if isinstance(value, dict):
            return "{" + "".join(f"{k!r}: {text(v)}, " for k, v in value.items()) + "}"
        return repr(value) if value is None or type(value) in (int, bool, str) else bound(value, "value")

    local: dict[fx.Node, str] = {}
    parameters, lines = [], []
    last = {used: node for node in recorded.graph.nodes for used in node.all_input_nodes}
    for node in recorded.graph.nodes:
        local[node] = node.name
        if node.op == "placeholder":
            parameters.append(node.name)
        elif node.op == "get_attr":
            local[node] = bound(_attribute(recorded, str(node.target)), "constant")
        elif node.op == "output":
            lines.append(f"return {text(node.args[0])}")
        else:
            function = bound(_DIRECT.get(node.target, node.target), "operation")
            given = [text(a) for a in node.args] + [f"{k}={text(v)}" for k, v in node.kwargs.items()]
            done = [local[n] for n in node.all_input_nodes if last[n] is node and n.op == "call_function"]
            free = "".join(f"; {name} = None" for name in done)  # its memory is the next one's, and in the cache
            lines.append(f"{node.name} = {function}({', '.join(given)}){free}")
    body = "\n    ".join(lines)
    exec(f"def recorded({', '.join(parameters)}):\n    {body}\n", names)
    made: Callable[..., Any] = names["recorded"]
    return made


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
