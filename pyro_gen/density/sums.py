"""Whether the sums over discrete latent variables are those of the model.

A variable that is summed out has all of its values at once, along a dimension of their own. A model that takes
elements of it out of their plate (``z[i]``), or compares them with each other (``z[i] == z[j]``), meets the values
where it meant the elements: torch raises an error of shapes, or, where the numbers happen to fit, gives a wrong
density. So the sum, with the weights of all values but one assignment set to 0, is compared with a run of the model at
that assignment.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_gen.density.base import error_line
from pyro_gen.density.enumeration import NotSummableError
from pyro_gen.density.inputs import first_line

if TYPE_CHECKING:
    from pyro_gen.density.joint import ProgramDensity

ASSIGNMENTS = 3


@contextmanager
def summing(target: "ProgramDensity") -> Iterator[None]:
    """Says of an error of the model what is behind it, where a run with single values had none."""
    try:
        yield
    except NotSummableError:
        raise
    except Exception as error:
        if not target.enumerated:
            raise
        raise NotSummableError(_reason(target, f"{first_line(error)}{error_line(error)}")) from error


def check_sums(target: "ProgramDensity", z: Tensor, held: Mapping[str, Tensor], data: tuple[Any, ...]) -> None:
    """Compares sums with the model at some assignments.

    Arguments:
        target: A density with variables that are summed out.
        z: A point of one chain.
        held: Values of the held sites.
        data: What the model is called with.

    Raises:
        NotSummableError: They differ.
    """
    for _ in range(ASSIGNMENTS):
        summed, run = (float(t) for t in target.at_assignment(z, held, data, target.draw_summed(z, held, data)))
        if math.isfinite(run) and abs(summed - run) > 1e-3 + 1e-4 * abs(run):
            raise NotSummableError(
                _reason(target, f"log p is {run:.6g} at one assignment, and {summed:.6g} in the sum")
            )


def _reason(target: "ProgramDensity", found: str) -> str:
    names = ", ".join(repr(name) for name in target.enumerated)
    block = ", ".join(f'{name!r}: "enumerate"' for name in target.enumerated)
    return (
        f"The discrete latent variable {names} cannot be summed out: the model does not carry all its values at once "
        f"({found}), as where elements are taken out of their plate or compared, z[i] == z[j]. Sample it by Gibbs "
        f'blocks: pg.posterior(..., method="gibbs", blocks={{{block}}}).'
    )
