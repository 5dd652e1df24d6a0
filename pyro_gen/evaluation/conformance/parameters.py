"""Checks of where parameters are, and of what training mode changes."""

import pyro
from torch import Tensor

from pyro_gen._internals import BATCH_NORM, DROPOUT, parameter_context
from pyro_gen.evaluation.conformance.case import SIDES, Case
from pyro_gen.evaluation.conformance.check import Failed, check
from pyro_gen.evaluation.conformance.gradients import loss_of
from pyro_gen.evaluation.conformance.scores import close, differing, gap, quoted, sizes

__all__ = ["parameters", "train_eval"]


@check
def parameters(case: Case) -> None:
    """Every trained tensor is a parameter of the module; Pyro's parameter store is not used."""
    with pyro.get_param_store().scope():
        loss, _, _ = loss_of(case, case.x)
        # Inside a module Pyro keeps a store of its own, as little known to state_dict as the global one.
        names = [*pyro.get_param_store().keys(), *parameter_context(case.program).param_state["params"]]
    if names:
        raise Failed(
            f"pyro.param puts {quoted(names)} into Pyro's parameter store, where state_dict and optimiser do not "
            "find them.",
            "Set nn.Parameter or pyro.nn.PyroParam attributes in __init__, or make the program with "
            "Program.from_functions.",
        )
    registered = {id(p) for p in case.program.parameters()}
    strange = [t for t in _leaves(loss) if id(t) not in registered]
    if strange:
        raise Failed(
            f"The loss depends on {len(strange)} trainable tensors that are not parameters of the program, of shapes "
            f"{', '.join(sizes(t.shape) for t in strange[:5])}.",
            "Keep networks in attributes, nn.ModuleList or nn.ParameterList, not in plain lists, dicts or globals; in "
            "functions announce them by pyro.module(name, network).",
        )


def _leaves(loss: Tensor) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    stack, visited = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            found[id(variable)] = variable
        stack.extend(f for f, _ in node.next_functions)
    return list(found.values())


@check
def train_eval(case: Case) -> str | None:
    """Training and evaluation mode give the same log-densities, unless Dropout or BatchNorm make the difference."""
    modal = sorted({type(m).__name__ for m in case.program.modules() if isinstance(m, DROPOUT | BATCH_NORM)})
    for side in SIDES:
        evaluation = case.scores(side)
        training = case.train().scores(side)
        case.program.eval()
        name = differing(evaluation, training, close)
        if name is not None and not modal:
            raise Failed(
                f"Site '{name}' of the {side}: the log-density in training mode differs from that in evaluation mode "
                f"by {gap(evaluation[name], training[name])}.",
                "Look for what asks self.training. If it is meant, make it a module that says so (nn.Dropout).",
            )
    return f"has {', '.join(modal)}" if modal else None
