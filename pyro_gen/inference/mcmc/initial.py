"""Where chains start."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyro_gen.density import Density, ProgramDensity, evaluation
from pyro_gen.density.support import obstacle
from pyro_gen.inference.importance import draws_for
from pyro_gen.program import Program

__all__ = ["Init", "points", "uniform"]

TRIES = 100

Init = str | Tensor | Mapping[str, Tensor] | Callable[[Density, int], Tensor]


def uniform(density: Density, chains: int) -> Tensor:
    """Points uniform in (-2, 2) in every unconstrained coordinate, with shape :math:`(C, *B, D)`; draws."""
    shape = (chains, *density.batch_shape, density.dim)
    return 4 * torch.rand(shape, dtype=density.dtype, device=density.device) - 2


def prior(density: Density, chains: int) -> Tensor:
    """Draws from the prior, with shape :math:`(C, *B, D)`."""
    return density.sample_prior(chains)


def guide(density: Density, chains: int) -> Tensor:
    """Draws from the guide of the program, with shape :math:`(C, *B, D)`.

    Raises:
        ValueError: There is no guide, or it does not sample what the model does.
    """
    if not isinstance(density, ProgramDensity) or not isinstance(program := density.program, Program):
        raise ValueError('run(init="guide"): the density is not that of a pyro_gen.Program, which has a guide.')
    with evaluation(program):
        return density.unconstrain(draws_for(density, chains)[0])


def pathfinder(density: Density, chains: int) -> Tensor:
    """Draws of :func:`pyro_gen.inference.mcmc.pathfinder.pathfinder`, with shape :math:`(C, *B, D)`."""
    from pyro_gen.inference.mcmc.pathfinder import pathfinder

    return pathfinder(density, chains, int(torch.randint(2**31, ())))


def count(init: Init) -> int:
    """The number of chains where none is given."""
    if isinstance(init, Mapping):
        init = next(iter(init.values()))
    return len(init) if isinstance(init, Tensor) else 64


def points(density: Density, init: Init, chains: int) -> Tensor:
    """Makes starting points at which density and gradient are finite; draws by the global generator.

    Arguments:
        density: The density.
        init: ``"uniform"``, ``"prior"``, ``"guide"`` or ``"pathfinder"``; unconstrained points with shape
            :math:`(C, *B, D)`; values by name, each with shape :math:`(C, *)`; or a function of density and C. What
            draws is asked again for the points that are not on the support.
        chains: The number C of chains.

    Raises:
        ValueError: There is no such source, the points have another shape, or they are not on the support.
    """
    shape = (chains, *density.batch_shape, density.dim)
    source: Callable[[Density, int], Tensor] | None = None
    if isinstance(init, Tensor):
        z = init
    elif isinstance(init, Mapping):
        if not isinstance(density, ProgramDensity):
            raise ValueError("A density of plain functions has no named sites: give the starting points as a tensor.")
        wrong = [n for n, v in init.items() if not isinstance(v, Tensor) or v.dim() == 0 or len(v) != chains]
        if wrong:
            raise ValueError(
                f"The starting values of {wrong[0]!r} are not one for each chain: give a tensor with {chains} rows, "
                "the number of chains."
            )
        z = density.unconstrain(dict(init))
    else:
        if isinstance(init, str) and init not in SOURCES:
            raise ValueError(f"run(init={init!r}): choose from {', '.join(SOURCES)}, or give the points.")
        source = SOURCES[init] if isinstance(init, str) else init
        z = source(density, chains)
    if tuple(z.shape) != shape:
        raise ValueError(f"The starting points have shape {tuple(z.shape)}, where {shape} was expected.")
    z = z.detach().to(density.device, density.dtype)
    for _ in range(TRIES):
        held = density.draw_held(z) if isinstance(density, ProgramDensity) and density.hold else None
        log_density, grad = density.log_density_and_grad(z, held=held)
        good = log_density.isfinite() & grad.isfinite().all(-1)
        if bool(good.all()):
            return z
        if source is None:
            break
        z = torch.where(good.unsqueeze(-1), z, source(density, chains).to(z))
    raise ValueError(
        f"{int((~good).sum())} of {good.numel()} starting points have no finite log-density and gradient"
        + (f" after {TRIES} tries" if source is not None else "")
        + (
            f": {found}."
            if isinstance(density, ProgramDensity) and (found := obstacle(density, z, held))
            else ": give points on the support by init, a tensor or a dictionary of values by name."
        )
    )


SOURCES: dict[str, Callable[[Density, int], Tensor]] = {
    "uniform": uniform,
    "prior": prior,
    "guide": guide,
    "pathfinder": pathfinder,
}
