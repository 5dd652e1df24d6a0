"""What an objective is, and how its particles run."""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pyro_gen._random import vmap_draws
from pyro_gen.density.missing import latent_missing
from pyro_gen.program import Program

__all__ = ["Objective", "over_particles", "positive", "vmapped"]


def _with_latent_missing(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(loss)
    def wrapper(self: "Objective", program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        with latent_missing(program, x, *context):
            return loss(self, program, x, *context, **options)

    return wrapper


class Objective(nn.Module):
    """A negative bound on the log-likelihood of data under a program.

    Attributes:
        traceable: Whether the loss is a pure function of parameters and data, so that :func:`pyro_gen.fit` may turn
            it into a graph.
        anneals: Whether ``kl_weight`` means something to this objective.
        kinds: The kinds of density that it is right for, see :class:`~pyro_gen.traces.Structure`: of an
            ``"unnormalised"`` or an ``"implicit"`` one a bound is none.
    """

    traceable = True
    anneals = True
    kinds: tuple[str, ...] = ("exact", "bound")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "loss" in cls.__dict__:
            cls.loss = _with_latent_missing(cls.__dict__["loss"])  # type: ignore[method-assign]

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        r"""Computes the loss.

        In a subclass it runs with missing entries that feed a later density as latent variables, see
        :mod:`pyro_gen.density.missing`.

        Arguments:
            program: The program.
            x: The data, with shape :math:`(N, *)`, NaN where nothing was observed.
            context: What the program conditions on.
            kl_weight: Multiplies :math:`\log q(z) - \log p(z)` (KL annealing); 1 for the bound itself.

        Returns:
            A scalar, the negative bound in nats of the full data set.
        """
        raise NotImplementedError


def positive(num_particles: int) -> int:
    """A number of particles, checked."""
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles}: at least one particle is needed.")
    return num_particles


def vmapped(particle: Callable[..., Any], num_particles: int, *batched: Any) -> Any:
    """Runs a random function for many particles at once, each with draws of its own; outputs get a leading K."""
    with pyro.validation_enabled(False):  # validation looks at values, which vmap forbids
        try:
            return vmap_draws(particle, num_particles, *batched)
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
        # Pyro's own gradients of Beta and Dirichlet draws cannot be vectorised: one particle after another.
        outs = [particle(*tree_map(lambda t, k=k: t[k], batched)) for k in range(num_particles)]
        return tree_map(lambda *leaves: torch.stack(leaves), *outs)


def over_particles(particle: Callable[[], Tensor], num_particles: int) -> Tensor:
    """The values of a random function for each particle, with a leading K."""
    if num_particles == 1:
        return particle().unsqueeze(0)
    return vmapped(particle, num_particles)  # type: ignore[no-any-return]
