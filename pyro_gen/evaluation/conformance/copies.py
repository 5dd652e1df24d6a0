"""The check of copies, saved and loaded."""

import io

import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.copy_program import copy_program
from pyro_gen.evaluation.conformance.gradients import gradients_of, loss_of
from pyro_gen.evaluation.conformance.scores import differing, quoted, same
from pyro_gen.program import Program

__all__ = ["save_load"]


@check
def save_load(case: Case) -> None:
    """A saved state_dict, loaded into another copy, gives identical log-densities; copies are independent."""

    def scores(program: Program) -> dict[str, Tensor]:
        return {f"{side} {n}": v for side in SIDES for n, v in case.scores(side, program=program).items()}

    file = io.BytesIO()
    before = scores(case.program)
    torch.save(case.program.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = copy_program(case.program)
    with torch.no_grad(), seeded(case.seed):
        for p in other.parameters():
            p.add_(0.01 * torch.randn_like(p) * (1 + p.abs()))
    changed = scores(other)
    if (name := differing(before, scores(case.program), same)) is not None:
        raise Failed(
            f"Changing the parameters of a copy (copy.deepcopy) changes the program itself at {name}.",
            "Keep all networks and parameters on the program, none in globals or closures.",
        )
    if list(other.parameters()) and differing(before, changed, same) is None:
        raise Failed(
            "Changing the parameters of a copy changes none of its log-densities.",
            "Compute from parameters at every call, keep no results of an earlier one, and keep all networks on the "
            "program, none in globals or closures.",
        )
    if case.kind not in ("unnormalised", "implicit"):
        twin = Case(other, case.x, case.context, case.seed)
        own, copied = (gradients_of(c.program, loss_of(c, c.x)[0]) for c in (case, twin))
        lost = [n for n, g in own.items() if g is not None and copied[n] is None]
        if lost:
            raise Failed(
                f"A copy (copy.deepcopy) does not compute with its own {quoted(lost)}.",
                "Keep networks on the program: a function's closure and global variables do not follow a copy.",
            )
    other.load_state_dict(state)
    if (name := differing(before, scores(other), same)) is not None:
        raise Failed(
            f"After saving and loading, the log-density at {name} is another.",
            "Everything that it depends on must be in state_dict: register_buffer for constants that change, no "
            "results kept from an earlier call.",
        )
