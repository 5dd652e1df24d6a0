"""Samplers: what :func:`pyro_gen.inference.mcmc.run` steps. A pure kernel, and the state of its adaptation."""

import abc
from typing import Any

from torch import Tensor

from pyro_gen.density import Density

__all__ = ["Sampler"]


class Sampler(abc.ABC):
    """A Markov chain Monte Carlo method on a density, for many chains at once.

    What a chain carries from one draw to the next is a state that :meth:`step` takes and returns. What the method
    learns during the warm-up (step sizes, metric, trajectory length) is the sampler's own and frozen afterwards: only
    then does :meth:`step` leave the density invariant.

    Arguments:
        density: The density.
    """

    def __init__(self, density: Density) -> None:
        self.density = density

    @abc.abstractmethod
    def init(self, z: Tensor) -> Any:
        """Makes the state of chains that start at ``z``, with shape :math:`(C, *B, D)`.

        Returns:
            A NamedTuple of tensors, or of nested tuples of them, with fields ``z`` and ``log_density``.
        """

    @abc.abstractmethod
    def step(self, state: Any, progress: float | None) -> tuple[Any, dict[str, Tensor]]:
        """Makes one transition; draws by the global generator.

        Arguments:
            state: The state of the chains.
            progress: The share of the warm-up that is done, in [0, 1): the sampler adapts. ``None`` after the warm-up.

        Returns:
            The new state, and figures with ArviZ's names, each with shape :math:`(C, *B)`: ``lp``, ``energy``,
            ``acceptance_rate``, ``n_steps``, ``diverging``, ``step_size``, ``tree_depth``, as far as they apply.
        """

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What the sampler has learnt, as nested dictionaries of tensors, numbers and strings."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what another sampler with the same options has learnt."""
