"""The samplers by name."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from pyro_gen._errors import refuse_unknown
from pyro_gen.density import Density
from pyro_gen.inference.mcmc.gibbs import Gibbs
from pyro_gen.inference.mcmc.nuts import NUTS
from pyro_gen.inference.mcmc.random_walk import RandomWalk
from pyro_gen.inference.mcmc.sampler import HMC, MALA, Sampler
from pyro_gen.inference.mcmc.tempering import Tempering

__all__ = ["SAMPLERS", "Kernel", "make_sampler"]

SAMPLERS: dict[str, type[Sampler]] = {
    "hmc": HMC,
    "nuts": NUTS,
    "mala": MALA,
    "rwm": RandomWalk,
    "gibbs": Gibbs,
    "tempering": Tempering,
}

Kernel = str | Callable[..., Sampler]
"""A name of :data:`SAMPLERS`, a class of samplers, or a function that makes one for a density."""


def make_sampler(kernel: Kernel, density: Density, **options: Any) -> Sampler:
    """Makes a sampler for a density.

    Arguments:
        kernel: A name of :data:`SAMPLERS`, a class of samplers, or a function that makes one for a density, such as
            ``functools.partial(HMC, num_steps=5)``.
        density: The density.
        options: Of the sampler.

    Raises:
        ValueError: There is no such name.
        TypeError: What is given makes no sampler.

    Example:
        >>> from functools import partial
        >>> target = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=2)
        >>> make_sampler(partial(HMC, num_steps=5), target).num_steps
        5
    """
    if isinstance(kernel, str):
        if kernel not in SAMPLERS:
            raise ValueError(f"There is no sampler {kernel!r}: choose from {', '.join(SAMPLERS)}, or give a class.")
        check_options(f"the sampler {kernel!r}", kernel, options)
        kernel = SAMPLERS[kernel]
    made = kernel(density, **options) if callable(kernel) else kernel
    if not isinstance(made, Sampler):
        raise TypeError(
            f"The kernel {kernel!r} gave {type(made).__name__}, no Sampler: give a subclass of pyro_gen.inference.mcmc."
            "Sampler, a function that makes one for a density, or a name."
        )
    return made


def check_options(who: str, kernel: str, options: Iterable[str]) -> None:
    """Refuses options that a sampler does not have.

    Arguments:
        who: Who was given them, as the subject of a sentence.
        kernel: A name of :data:`SAMPLERS`.
        options: Their names.

    Raises:
        ValueError: There is one.
    """
    known = inspect.signature(SAMPLERS[kernel]).parameters
    names = [name for name, p in known.items() if name != "density" and p.kind is not p.VAR_KEYWORD]
    if len(names) + 1 == len(known):
        refuse_unknown(who, options, names)
