"""Where chains start."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyro_gen.density import Density, ProgramDensity, evaluation
from pyro_gen.density.support import obstacle
from pyro_gen.inference.mcmc.pathfinder import TRIES, pathfinder, search
from pyro_gen.inference.mcmc.starts import evaluate, far, flat, uniform
from pyro_gen.inference.proposals import draws_for
from pyro_gen.program import Program

__all__ = ["Init", "NoStart", "points"]

MIN_USABLE_SHARE = 0.05  # the share of points on the support below which their region is no place to start from

Init = str | Tensor | Mapping[str, Tensor] | Callable[[Density, int], Tensor]


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


def paths(density: Density, chains: int) -> Tensor:
    """Draws of :func:`pyro_gen.inference.mcmc.pathfinder.pathfinder`, with shape :math:`(C, *B, D)`."""
    return pathfinder(density, chains, int(torch.randint(2**31, ())))


class NoStart(ValueError):
    """There are no points on the support to start from.

    Attributes:
        started: The targets that have them, a mask with shape :math:`(*B)`.
    """

    def __init__(self, text: str, started: Tensor) -> None:
        super().__init__(text)
        self.started = started


def count(init: Init) -> int | None:
    """The number of chains that starting points are given for, ``None`` where they are to be drawn."""
    if isinstance(init, Mapping):
        init = next(iter(init.values()))
    return len(init) if isinstance(init, Tensor) else None


def points(density: Density, init: Init, chains: int, gradients: bool = True) -> Tensor:
    """Makes starting points at which density and gradient are finite; draws by the global generator.

    Arguments:
        density: The density.
        init: ``"uniform"``, ``"prior"``, ``"guide"`` or ``"pathfinder"``; unconstrained points with shape
            :math:`(C, *B, D)`; values by name, each with shape :math:`(C, *)`; or a function of density and C. What
            draws is asked again for the points that are not on the support. Of targets for which the uniform points
            will not do, by far, chains start where :func:`pyro_gen.inference.mcmc.pathfinder.search` finds a place.
        chains: The number C of chains.
        gradients: Whether the chains need gradients, which are then to be finite, too.

    Raises:
        NoStart: The points are not on the support.
        ValueError: There is no such source, or the points have another shape.
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
    log_density, usable = evaluate(density, z, gradients)
    hopeless = torch.zeros_like(usable[0])
    wide = source is uniform and density.dim > 0 and gradients  # else all sites are held, or nothing climbs
    if wide:
        hopeless = (usable.double().mean(0) < MIN_USABLE_SHARE) | flat(density, z)
    for _ in range(TRIES):
        if source is None or bool((usable | hopeless).all()):
            break
        z = torch.where(usable.unsqueeze(-1), z, source(density, chains).to(z))
        log_density, usable = evaluate(density, z, gradients)
    if wide:
        hopeless = hopeless | ~usable.all(0) | far(density, log_density, usable)
        if bool(hopeless.any()):
            found, _ = search(density, chains)
            z = torch.where(hopeless.unsqueeze(-1), found, z)
            _, usable = evaluate(density, z)
            # Where some chains of a target have a place, the others begin there too.
            rows = usable.reshape(chains, -1)
            donors = torch.multinomial(rows.mT.double() + 1e-30, chains, replacement=True).mT
            donors = torch.where(rows, torch.arange(chains, device=z.device).unsqueeze(-1), donors)
            z = (old := z.reshape(chains, -1, density.dim)).gather(0, donors.unsqueeze(-1).expand_as(old)).view_as(z)
            usable = usable.any(0).expand_as(usable)
    if bool(usable.all()):
        return z
    held = density.draw_held(z) if isinstance(density, ProgramDensity) and density.hold else None
    raise NoStart(
        f"{int((~usable).sum())} of {usable.numel()} starting points have no finite log-density"
        + (" and gradient" if gradients else "")
        + (f" after {TRIES} tries" if source is not None else "")
        + (
            f": {reason}."
            if isinstance(density, ProgramDensity) and (reason := obstacle(density, z, held))
            else ": give points on the support by init, a tensor or a dictionary of values by name; or data in units "
            "in which they are nearer to 1, or in float64."
        ),
        usable.all(0),
    )


SOURCES: dict[str, Callable[[Density, int], Tensor]] = {
    "uniform": uniform,
    "prior": prior,
    "guide": guide,
    "pathfinder": paths,
}
