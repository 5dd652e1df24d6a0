"""Whether an objective is right for what a program is, and which objectives are."""

from pyro_gen.inference.kinds import WHY
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.program import Program
from pyro_gen.registry import OBJECTIVES

__all__ = ["require_suitable", "suitable"]


def suitable(kind: str) -> list[str]:
    """The names of the registered objectives for a kind of density.

    Example:
        >>> "ContrastiveDivergence" in suitable("unnormalised"), "ELBO" in suitable("unnormalised")
        (True, False)
    """
    return [name for name, cls in OBJECTIVES.items() if kind in cls.kinds]


def require_suitable(program: Program, objective: Objective, kind: str) -> None:
    """Refuses an objective that is wrong for a program, a user's own objective too.

    Arguments:
        program: The program.
        objective: The objective.
        kind: The kind of the program's density, see :class:`~pyro_gen.traces.Structure`.

    Raises:
        ValueError: The kind is none of the objective's; the message names the objectives that do apply.
    """
    if kind in objective.kinds:
        return
    censored = " (censored data need no factor, see pg.distributions.Censored; pg.posterior needs no objective)"
    raise ValueError(
        f"{type(program).__name__} is {kind} ({WHY[kind]}), and {type(objective).__name__} is right for what is "
        f"{' or '.join(objective.kinds)}: give objective= one of {', '.join(suitable(kind))}, or one of your own that "
        f"says kinds = ({kind!r},){censored if kind == 'unnormalised' else ''}."
    )
