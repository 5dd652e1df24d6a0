"""Gibbs sampling of a program's parameters: the loop, which is the same for all of them."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["FitProgress", "Schedule", "blocked_gibbs", "is_small", "join_chains"]

SMALL_TABLE_ENTRIES = 16_000  # entries of tables that cost little, and of whose parameters draws say most

S = TypeVar("S")

FitProgress = Callable[[float, str], None]  # takes the share that is done, and words


class Schedule(NamedTuple):
    """How long to sample.

    Attributes:
        burn_in: Sweeps before the first that may be stored.
        draws: States that are stored of each chain.
        thin: Of this many sweeps the last is stored.
    """

    burn_in: int
    draws: int
    thin: int


def is_small(x: Tensor) -> bool:
    """Whether a table x has so few entries that more is sampled of it."""
    return x.numel() <= SMALL_TABLE_ENTRIES


def join_chains(draws: Sequence[Tensor]) -> Tensor:
    """Draws of C chains, each with shape :math:`(C, *)`, as draws with shape :math:`(S, *)`, chain after chain.

    In the order in which they were made every second draw, say, would be one chain's.
    """
    return torch.stack(list(draws), 1).flatten(0, 1)


def blocked_gibbs(
    sweep: Callable[[S], S],
    state: S,
    schedule: Schedule,
    progress: FitProgress | None,
    deadline: float | None,
    words: str = "Gibbs sampling",
) -> list[S]:
    """Sweeps over all parameters again and again.

    Arguments:
        sweep: Makes the next state of all chains; draws by the global generator. state: Where the chains start.
            schedule: How long to sample. progress: Called with the share that is done, and words. deadline: The time of
            :func:`time.monotonic` after which it stops, with what is stored by then, or the last state.
        words: What it is called for people.

    Returns:
        The states that are stored.

    Example:
        >>> blocked_gibbs(lambda i: i + 1, 0, Schedule(burn_in=10, draws=3, thin=2), None, None)
        [12, 14, 16]
    """
    burn_in, thin = schedule.burn_in, schedule.thin
    total = burn_in + schedule.draws * thin
    states: list[S] = []
    for i in range(total):
        state = sweep(state)
        if i >= burn_in and (i - burn_in) % thin == thin - 1:
            states.append(state)
        late = deadline is not None and time.monotonic() > deadline
        if progress is not None:
            progress((i + 1) / total, words + ", stopped early: out of time" * late)
        if late:
            return states or [state]
    return states
