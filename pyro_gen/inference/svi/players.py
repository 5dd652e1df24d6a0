"""The players of a game at work: each with its loss, its optimiser, its step and the minibatches that it sees."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_gen.data import Batches
from pyro_gen.inference.objectives import Objective, Player
from pyro_gen.inference.svi.step import LossModule
from pyro_gen.program import Program

__all__ = ["Learner", "make_optimizer", "players_of"]


@dataclass
class Learner:
    """A player at work.

    Attributes:
        player: The player.
        module: Its loss.
        optimizer: Of its parameters.
        step: Moves them by what a minibatch says; returns the loss per datum before it and the norm of the gradient,
            and moves nothing where one of them is not finite.
        batches: Its minibatches: each player goes through the data in an order of its own.
    """

    player: Player
    module: LossModule
    optimizer: torch.optim.Optimizer
    step: Callable[[Sequence[Tensor], Tensor], tuple[float, float]]
    batches: Batches

    def minibatches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """What it sees in an epoch, as many passes through the data as it has steps in a round."""
        for i in range(self.player.steps):
            yield from self.batches.epoch(epoch * self.player.steps + i)


def players_of(program: Program, objective: Objective) -> tuple[Player, ...]:
    """The players of an objective, checked.

    Raises:
        ValueError: They cannot play: there are none, or a name, a parameter or a setting does not suit.
    """
    players, name = tuple(objective.players(program)), type(objective).__name__
    if not players:
        raise ValueError(f"{type(program).__name__} has no parameters to train: {name} has no players for it.")
    known = {id(p): n for module in (program, objective) for n, p in module.named_parameters()}
    moved_by: dict[int, str] = {}
    columns = {"train", "validation"}
    for i, player in enumerate(players):
        head = f"The player {player.name!r} of {name}"
        if not player.name.isidentifier() or (i > 0 and player.name in columns):
            raise ValueError(
                f"{head} has a name that is no identifier, or that of another: the history has {player.name}_loss."
            )
        columns.add(player.name)
        if player.steps < 1 or (player.lr is not None and not player.lr > 0):
            raise ValueError(f"{head} has steps={player.steps}, lr={player.lr}: both are positive.")
        if not any(p.requires_grad for p in player.parameters):
            raise ValueError(
                f"{type(program).__name__} has no parameters to train."
                if len(players) == 1
                else f"{head} has no parameters to train."
            )
        for parameter in player.parameters:
            if id(parameter) not in known:
                raise ValueError(
                    f"{head} moves a parameter of shape {tuple(parameter.shape)} that is neither the program's nor the "
                    "objective's: set its module on the objective, in prepare."
                )
            if (other := moved_by.setdefault(id(parameter), player.name)) != player.name:
                raise ValueError(f"{head} moves '{known[id(parameter)]}', and {other!r} does: give it to one of them.")
    return players


def make_optimizer(module: LossModule, player: Player, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Adam, or AdamW with ``weight_decay``, of a player's parameters."""
    parameters = list(module.own.values())
    rate = lr if player.lr is None else player.lr
    if weight_decay:
        return torch.optim.AdamW(parameters, lr=rate, betas=player.betas, weight_decay=weight_decay, fused=True)
    return torch.optim.Adam(parameters, lr=rate, betas=player.betas, fused=True)
