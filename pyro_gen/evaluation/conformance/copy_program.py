"""Copies of programs."""

import copy
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_gen._internals import autoguide_model, set_autoguide_model
from pyro_gen.packing import PackedProgram
from pyro_gen.program import Program

__all__ = ["copy_program"]


def copy_program(program: Program) -> Program:
    """Copies a program.

    Pyro's autoguides drop their model when they are copied, the original theirs too: both get it back.
    """
    if isinstance(program, PackedProgram):
        return PackedProgram(copy_program(program.inner), program.variables)
    # Pyro's transforms keep results of the last call, which cannot be copied with the graph that they came from.
    values = [v for m in program.modules() for v in vars(m).values()]
    values += [w for v in values if isinstance(v, tuple) for w in v]
    memo: dict[int, Any] = {id(v): v.detach().clone() for v in values if isinstance(v, Tensor) and not v.is_leaf}
    guides = {n: autoguide_model(m) for n, m in program.named_modules() if isinstance(m, AutoGuide)}
    try:
        clone = copy.deepcopy(program, memo)
    finally:
        for name, model in guides.items():
            original: Any = program.get_submodule(name)
            set_autoguide_model(original, model)
    for name, model in guides.items():
        copied: Any = clone.get_submodule(name)
        set_autoguide_model(copied, copy.deepcopy(model, memo))
    return clone
