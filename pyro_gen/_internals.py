"""What Pyro and torch keep to themselves and this package cannot do without, in one place.

All else reads no other object's underscored attributes (ruff's SLF001): where Pyro or torch change one, it is mended
here.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_PARAM_STORE, _PYRO_STACK
from torch import Tensor, fx, nn

M = TypeVar("M", bound=nn.Module)

# Public functions give the same of most modules, but skip what is None or there twice.


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters that stand on a module itself, by name."""
    return module._parameters  # noqa: SLF001


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that stand on a module itself, by name."""
    return module._buffers  # noqa: SLF001


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules that stand on a module itself, by name."""
    return module._modules  # noqa: SLF001


_MEMBERS = [n for n in vars(nn.Module()) if n != "training"]
_MEMBERS += ["_pyro_context", "_pyro_name", "_pyro_params", "_pyro_samples"]


def share_members(module: PyroModule, other: PyroModule) -> None:
    """Gives a module that was not initialised the parameters, buffers, modules and hooks of another, now and later."""
    module.__dict__.update({name: other.__dict__[name] for name in _MEMBERS})


def without_parts(module: M) -> M:
    """A shallow copy of a module that has lost its parameters and the modules inside of it."""
    fresh = copy.copy(module)
    fresh._parameters, fresh._modules = {}, {}  # noqa: SLF001
    return fresh


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return tensor._version  # noqa: SLF001


DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001 -- the base class of all dropout layers
BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._NormBase  # noqa: SLF001 -- ... of all that keep statistics of rows


# torch.func has no public question for these.


def is_vmapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for one of a batch, inside ``torch.vmap``."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))  # noqa: SLF001


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor belongs to any transformation of ``torch.func``: ``vmap``, ``grad``, ``jvp`` ..."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))  # noqa: SLF001


def operation_schema(operation: Any) -> Any:
    """What torch knows of one of its operations: its arguments, what it returns, and what it writes into."""
    return operation._schema  # noqa: SLF001


def compile_for(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compiles a graph for inputs of these shapes and strides, without the guards that ``torch.compile`` adds.

    Its draws are those of the graph: torch's own, which are faster than the compiler's, too. On CPUs what calls its
    kernels is C++, and does not look at each result: a small step was a quarter Python.
    """
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    options = {"fallback_random": True, "size_asserts": False, "alignment_asserts": False}
    options["cpp_wrapper"] = all(given.device.type == "cpu" for given in inputs)
    table = {**select_decomp_table(), torch.ops.aten.log1p.default: log1p_by_log}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch to its own compiler
        return compile_fx(graph, list(inputs), config_patches=options, decompositions=table)  # type: ignore[return-value]


def log1p_by_log(y: Tensor) -> Tensor:
    """log(1 + y) to some units in the last place, by a logarithm, which on CPUs is ten times faster than torch's log1p.

    What 1 + y loses to rounding cancels in y / ((1 + y) - 1).

    References:
        | What Every Computer Scientist Should Know About Floating-Point Arithmetic (Goldberg, 1991), theorem 4
        | https://doi.org/10.1145/103162.103163

    Example:
        >>> y = torch.tensor([-1.0, -0.5, 0.0, 1e-10, 0.3, 1e20, torch.inf])
        >>> torch.testing.assert_close(log1p_by_log(y), y.log1p(), rtol=1e-6, atol=0)
    """
    if y.device.type != "cpu" or not y.is_floating_point():
        return NotImplemented  # type: ignore[no-any-return]
    u = 1 + y
    return torch.where((u == 1) | (y == torch.inf), y, u.log() * (y / (u - 1)))


# Torch's own gamma distribution checks its arguments and makes tensors of them first.


def standard_gamma(shape: Tensor) -> Tensor:
    """Draws from gamma distributions of rate 1, by the global generator; differentiable in the shape parameter."""
    return torch._standard_gamma(shape)  # noqa: SLF001


def standard_gamma_slope(shape: Tensor, value: Tensor) -> Tensor:
    """How a value of the standard gamma distribution moves with its shape parameter, at a given probability."""
    return torch._standard_gamma_grad(shape, value)  # noqa: SLF001


# Pyro's effect handlers, parameters and autoguides.


def handlers() -> list[Any]:
    """The effect handlers inside which this is called, the innermost last."""
    return list(_PYRO_STACK)


@contextmanager
def without_handlers() -> Iterator[None]:
    """A block outside of all effect handlers and plates, inside of which it is written."""
    plates: list[Any] = _DIM_ALLOCATOR._stack  # noqa: SLF001
    kept = (list(_PYRO_STACK), list(plates))
    _PYRO_STACK.clear()
    plates.clear()
    try:
        yield
    finally:
        _PYRO_STACK[:], plates[:] = kept


def parameter_store() -> Any:
    """Pyro's parameter store, by which a handler knows a ``pyro.param`` statement."""
    return _PYRO_PARAM_STORE


def parameter_context(module: PyroModule) -> Any:
    """The context in which a module keeps parameters of statements inside of it."""
    return module._pyro_context  # noqa: SLF001


def autoguide_model(guide: AutoGuide) -> Any:
    """The model of an autoguide as it keeps it: in a tuple, so that it is no part of it."""
    return guide._model  # noqa: SLF001


def set_autoguide_model(guide: AutoGuide, model: Any) -> None:
    """Gives an autoguide another model, in a tuple."""
    guide._model = model  # noqa: SLF001


def autoguide_plates(guide: AutoGuide) -> Mapping[str, Any]:
    """The plates that an autoguide has seen in its run of the model, by name."""
    return guide._prototype_frames  # noqa: SLF001


# Distributions.


def site_mask(distribution: Any) -> Any:
    """The mask of a ``MaskedDistribution``: a tensor, a boolean, or ``None``."""
    return distribution._mask  # noqa: SLF001


def enumeration_dims(tensor: Tensor) -> Any:
    """The names of the dimensions of a packed tensor, one letter each."""
    return tensor._pyro_dims  # type: ignore[attr-defined]  # noqa: SLF001


def set_enumeration_dims(tensor: Tensor, names: str) -> Tensor:
    """Names the dimensions of a tensor, one letter each, as those of a packed one."""
    tensor._pyro_dims = names  # type: ignore[attr-defined]  # noqa: SLF001
    return tensor


def without_validation(distribution: Any) -> Any:
    """The same distribution, which from now on takes any value."""
    distribution._validate_args = False  # noqa: SLF001
    return distribution


# Pyro's hidden Markov models keep their factors to themselves.


def gaussian_hmm_parts(d: Any) -> tuple[Any, Any, Any]:
    """The factors of a ``pyro.distributions.GaussianHMM``: of the initial state, of transitions, of observations."""
    return d._init, d._trans, d._obs  # noqa: SLF001


def gaussian_hmm_with(d: Any, observation: Any, shape: Sequence[int]) -> Any:
    """The same model with another factor of observations, for sequences of a shape (*, T, D)."""
    new = copy.copy(d)
    batch = torch.broadcast_shapes(d.batch_shape, tuple(shape[:-2]))
    new._init, new._obs, new._duration = d._init.expand(batch), observation, shape[-2]  # noqa: SLF001
    new._batch_shape, new._event_shape = batch, torch.Size(shape[-2:])  # noqa: SLF001
    return new
