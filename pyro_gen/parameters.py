"""The parameters and networks of statements, ``pyro.param`` and ``pyro.module``, that a module owns."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import transform_to

from pyro_gen._internals import own_modules, own_parameters, parameter_store

__all__ = ["ModuleParameters", "Networks", "OwnNetworks", "standing_in"]


def _announced(msg: Any) -> tuple[str, nn.Module] | None:
    """Name and network of a ``pyro.module`` statement, where a message to an effect handler comes from one."""
    if "$$$" not in msg["name"]:  # Pyro's mark between the name of a network and that of a parameter
        return None
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code is not pyro.module.__code__:  # the message has a parameter alone
        frame = frame.f_back
    return None if frame is None else (frame.f_locals["name"], frame.f_locals["nn_module"])


def _is_statement(msg: Any) -> bool:
    """Whether a message is a ``pyro.param`` statement, and no note that a PyroModule was asked for a parameter."""
    return getattr(msg["fn"], "__self__", None) is parameter_store()


class OwnNetworks(Messenger):
    """Effect handler: statements in the methods of a module.

    ``pyro.module`` of a part of the module leaves its parameters where they are; ``pyro.param`` makes a parameter of
    the module, in its part ``pyro_params``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None or not _is_statement(msg):
            return
        if (found := _announced(msg)) is not None:
            if any(part is found[1] for part in self.module.modules()):
                msg["value"] = msg["args"][1]
            return
        if PARAMETERS not in own_modules(self.module):
            self.module.add_module(PARAMETERS, nn.Module())
        ModuleParameters(self.module.get_submodule(PARAMETERS), Networks(), self.module).serve(msg)


PARAMETERS = "pyro_params"


class ModuleParameters(Messenger):
    """Effect handler: serves ``pyro.param`` statements from a module, where they are created at first sight.

    Arguments:
        module: The module. Networks of ``pyro.module`` statements become parts of it.
        networks: Receives the networks that the statements name.
        whole: What the module is a part of: networks that it has otherwise stay where they are.
    """

    def __init__(self, module: nn.Module, networks: dict[str, nn.Module], whole: nn.Module) -> None:
        super().__init__()
        self.module, self.networks, self.whole = module, networks, whole

    def _pyro_param(self, msg: Any) -> None:
        if _is_statement(msg):
            self.serve(msg)

    def serve(self, msg: Any) -> None:
        """Gives a statement its value."""
        if (found := _announced(msg)) is not None:
            name = found[0].replace(".", "__")
            if name not in own_modules(self.module) and not any(part is found[1] for part in self.whole.modules()):
                self.networks[name] = found[1]
                self.module.add_module(name, found[1].train(self.module.training))
            msg["value"] = msg["args"][1]  # the network's own, no copy
            return
        name = msg["name"].replace(".", "__").replace("$$$", "__")
        init, constraint = (*msg["args"][1:], None, None)[:2]
        constraint = msg["kwargs"].get("constraint", constraint) or dist.constraints.real
        transform = transform_to(constraint)
        if name not in own_parameters(self.module):
            if init is None:
                raise ValueError(f"pyro.param('{msg['name']}') is read before it has an initial value.")
            value = init() if callable(init) else init
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(transform.inv(value.detach().clone()))
            self.module.register_parameter(name, value)
        msg["value"] = transform(own_parameters(self.module)[name])


class Networks(dict[str, nn.Module]):
    """The networks that functions name, which copies of a program share with it: a closure does not follow a copy."""

    def __deepcopy__(self, memo: Any) -> "Networks":
        return self


@contextmanager
def standing_in(own: nn.Module, named: nn.Module) -> Iterator[None]:
    """Has a network compute with the parameters and buffers, and in the mode, of a copy of it."""
    pairs = [(n, o) for n, o in zip(named.modules(), own.modules(), strict=True) if n is not o]
    kept = [(n, {k: n.__dict__[k] for k in _STATE}) for n, _ in pairs]
    try:
        for n, o in pairs:
            n.__dict__.update({k: o.__dict__[k] for k in _STATE})
        yield
    finally:
        for n, state in kept:
            n.__dict__.update(state)


_STATE = ("_parameters", "_buffers", "training")
