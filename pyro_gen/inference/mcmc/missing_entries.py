"""Transitions of any sampler for missing entries of data, as :meth:`pyro_gen.Program.kernel` makes them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_gen.density import Density, Tempered
from pyro_gen.density.energy import EnergyDensity
from pyro_gen.inference.mcmc.sampler import Sampler
from pyro_gen.program import Program

__all__ = ["move_missing"]


def move_missing(
    sampler: Callable[[Density], Sampler],
    program: Program,
    x: Tensor,
    missing: Tensor,
    beta: float,
    *context: Any,
    steps: int = 1,
) -> Tensor:
    """Moves the missing entries of data by a sampler that learns nothing, by the global generator.

    Arguments:
        sampler: Makes it for a density of the data.
        program: The program.
        x: Complete data of C chains, with shape :math:`(C, N, *)`.
        missing: Which entries are moved, with shape :math:`(N, *)`.
        beta: The inverse temperature of the factor.
        context: What the model conditions on.
        steps: The number of transitions.

    Returns:
        The data after them, with shape :math:`(C, N, *)`.
    """
    density = EnergyDensity(program, x[0], *context, moving=None if bool(missing.all()) else missing)
    target = Tempered(density)
    target.beta = beta
    kernel = sampler(target)
    state = kernel.place(x.flatten(0, 1).flatten(1))
    for _ in range(steps):
        state, _ = kernel.step(state, None)
    return density.data(state.z).view_as(x)
