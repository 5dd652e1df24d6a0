"""Whether the sums over discrete latent variables are those of the model.

A variable that is summed out has all of its values at once, along a dimension of their own. A model that takes
elements of it out of their plate (``z[i]``), or compares them with each other (``z[i] == z[j]``), meets the values
where it meant the elements: torch raises an error of shapes, or, where the numbers happen to fit, gives a wrong
density. So the sum, with the weights of all values but one assignment set to 0, is compared with a run of the model at
that assignment.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_gen.density.base import Held
from pyro_gen.density.enumeration import NotSummableError, contract
from pyro_gen.density.errors import error_line, first_line
from pyro_gen.density.sites import HeldValues, Unconstrained, is_deterministic
from pyro_gen.traces import sample_sites

if TYPE_CHECKING:
    from pyro_gen.density.joint import ProgramDensity

ASSIGNMENTS = 3  # of the variables that are summed out, at which the sum is compared


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
        summed, run = (float(t) for t in at_assignment(target, z, held, data, draw_summed(target, z, held, data)))
        if math.isfinite(run) and abs(summed - run) > 1e-3 + 1e-4 * abs(run):
            raise NotSummableError(
                _reason(target, f"log p is {run:.6g} at one assignment, and {summed:.6g} in the sum")
            )


def at_assignment(
    target: "ProgramDensity", z: Tensor, held: Held, data: tuple[Any, ...], values: Held
) -> tuple[Tensor, Tensor]:
    """The joint log-density of one chain at values of the variables that are summed out, in two ways.

    As the sum in which all other values have weight 0, and by a run of the model with these values.
    """

    def total(sites: Iterable[Any]) -> Tensor:
        return torch.stack([z.new_zeros(()), *(s["log_prob"].sum() for s in sites)]).sum()

    trace, _ = target.run_at(z, held, data)
    for name, value in values.items():
        site: Any = trace.nodes[name]
        same = site["value"] == value
        for _ in range(site["fn"].event_dim):
            same = same.all(-1)
        site["log_prob"] = torch.where(same, site["log_prob"], -torch.inf)
    sites, over = target.scored(trace)
    summed = total(s for n, s in sites.items() if not over[n]) + contract(trace, [n for n in sites if over[n]])
    run, _ = target.run_at(z, {**held, **values}, data)
    return summed, total(s for s in sample_sites(run).values() if not is_deterministic(s))


def draw_summed(target: "ProgramDensity", z: Tensor, held: Held, data: tuple[Any, ...]) -> dict[str, Tensor]:
    """Draws the variables that are summed out from their prior given one chain's point."""
    sites = sample_sites(target.run(data, Unconstrained(target.slots, z), HeldValues(held)))
    return {name: sites[name]["value"] for name in target.enumerated}


def _reason(target: "ProgramDensity", found: str) -> str:
    names = ", ".join(repr(name) for name in target.enumerated)
    block = ", ".join(f'{name!r}: "enumerate"' for name in target.enumerated)
    return (
        f"The discrete latent variable {names} cannot be summed out: the model does not carry all its values at once "
        f"({found}), as where elements are taken out of their plate or compared, z[i] == z[j]. Sample it by Gibbs "
        f'blocks: pg.posterior(..., method="gibbs", blocks={{{block}}}).'
    )
