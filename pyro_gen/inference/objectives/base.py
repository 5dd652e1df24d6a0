"""What an objective is, a game of one or more players, and how its particles run."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pyro_gen._random import vmap_draws
from pyro_gen.density import any_missing
from pyro_gen.density.missing import active, latent_missing
from pyro_gen.packing import packed_inputs
from pyro_gen.program import Program

__all__ = ["Objective", "Player", "missing_refused", "over_particles", "positive", "vmapped"]


def _with_latent_missing(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(loss)
    def wrapper(self: "Objective", program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        program, x = packed_inputs(program, x)
        if not self.serves_missing and active(program) is None and any_missing(x):  # else it is known already
            raise ValueError(missing_refused(self))
        with latent_missing(program, x, *context):
            return loss(self, program, x, *context, **options)

    return wrapper


@dataclass(frozen=True)
class Player:
    """A player of a game: what it moves, what it minimises, how often a round, and with which optimiser settings.

    Attributes:
        name: Its name, in the history: the loss of a player that is not the first is ``<name>_loss``.
        parameters: What it moves; no two players move the same.
        loss: What it minimises, a function ``loss(program, x, *context)`` as :meth:`Objective.loss`; with a
            ``kl_weight`` where the objective :attr:`~Objective.anneals`. It is of the full data set: a sum over the
            rows of a minibatch times :func:`~pyro_gen.program.data_scale`. What others move is constant to it.
        steps: Its steps in a round, each on a minibatch of its own. A round is what :func:`pyro_gen.fit` calls a step.
        lr: Its learning rate, which the schedule multiplies; ``None`` for that of :func:`pyro_gen.fit`.
        betas: The decay rates of Adam's averages.
        clip: The bound to which the parameters are clipped after each step, or ``None``.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[..., Tensor]
    steps: int = 1
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None


class Objective(nn.Module):
    """What training minimises: of one player a negative bound on the log-likelihood of data, of several a game.

    It is a module: what it needs besides the program, a critic or persistent chains, are its modules and buffers, made
    in :meth:`prepare` where they depend on the program, and kept in checkpoints.

    A subclass has a :meth:`loss`, or :meth:`players`, or both: the loss is then what validation reports.

    Attributes:
        traceable: Whether the losses are pure functions of parameters, data and the buffers of the objective, which
            they may change, so that :func:`pyro_gen.fit` may turn them into graphs.
        anneals: Whether ``kl_weight`` means something to this objective.
        serves_missing: Whether it does what is right where entries of the data are missing; else they are refused.
        kinds: The kinds of density that it is right for, see :class:`~pyro_gen.traces.Structure`: of an
            ``"unnormalised"`` or an ``"implicit"`` one a bound is none.
    """

    traceable = True
    anneals = True
    serves_missing = True
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
            A scalar, the negative bound in nats of the full data set. By default the loss of the first player.
        """
        if type(self).players is Objective.players:
            raise NotImplementedError(f"{type(self).__name__} has neither a loss nor players.")
        options = {"kl_weight": kl_weight} if self.anneals else {}
        return self.players(program)[0].loss(program, x, *context, **options)

    def players(self, program: Program) -> Sequence[Player]:
        """Who plays, in the order of their turns; by default one player that moves all parameters by :meth:`loss`.

        Arguments:
            program: The program.
        """
        parameters = dict.fromkeys([*program.parameters(), *self.parameters()])
        return (Player("loss", tuple(p for p in parameters if p.requires_grad), self.loss),)

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Makes what the objective needs besides the program, before its players are asked for; by default nothing.

        Training calls it once, also where it goes on from a checkpoint, whose values are then loaded into the modules
        and buffers that this has made.

        Arguments:
            program: The program, on its device.
            x: Some rows of the data, with shape :math:`(N, *)`, up to a few thousand.
            context: What the program conditions on.
        """


def missing_refused(objective: Objective) -> str:
    """What is said of missing entries to an objective that does not serve them."""
    kinds, otherwise = objective.kinds, []
    if "implicit" in kinds:
        otherwise.append("fill them in by pg.impute of a program that has a density")
    elif "exact" in kinds or "bound" in kinds:
        otherwise.append("train a density by ELBO, which scores what was seen")
    if "unnormalised" in kinds:
        otherwise.append("train an energy by ContrastiveDivergence, which draws them")
    return (
        f"{type(objective).__name__} is for complete data, and some entries of x are missing (NaN): leave out the rows "
        f"that have some, or {', or '.join(otherwise)}."
    )


def positive(num_particles: int) -> int:
    """A number of particles, checked."""
    if isinstance(num_particles, bool) or not isinstance(num_particles, Integral) or num_particles < 1:
        raise ValueError(f"num_particles={num_particles!r}: at least one particle is needed, a whole number.")
    return num_particles


def vmapped(particle: Callable[..., Any], num_particles: int, *batched: Any) -> Any:
    """Runs a random function for many particles at once, each with draws of its own; outputs get a leading K."""
    with pyro.validation_enabled(False):  # validation looks at values, which vmap forbids
        try:
            return vmap_draws(particle, num_particles, *batched)
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
        # An autograd function of the old style cannot be vectorised: one particle after another.
        outs = [particle(*tree_map(lambda t, k=k: t[k], batched)) for k in range(num_particles)]
        return tree_map(lambda *leaves: torch.stack(leaves), *outs)


def over_particles(particle: Callable[[], Tensor], num_particles: int) -> Tensor:
    """The values of a random function for each particle, with a leading K."""
    if num_particles == 1:
        return particle().unsqueeze(0)
    return vmapped(particle, num_particles)  # type: ignore[no-any-return]
