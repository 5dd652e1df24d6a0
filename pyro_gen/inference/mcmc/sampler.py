"""Samplers: kernels that are stepped, and the state of their adaptation.

Markov chain Monte Carlo, annealed importance sampling, sequential Monte Carlo and contrastive divergence all take one,
as a class, as a function that makes one for a density, or by its name (:func:`pyro_gen.inference.mcmc.make_sampler`). A
sampler does not know which of them steps it.
"""

import abc
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.adaptation import Trajectory, Tuning, halton
from pyro_gen.inference.mcmc.hmc import Point

__all__ = ["HMC", "MALA", "Sampler"]


class Sampler(abc.ABC):
    """A Markov chain Monte Carlo method on a density, for many chains at once.

    What a chain carries from one draw to the next is a state that :meth:`step` takes and returns. What the method
    learns during the warm-up (step sizes, metric, trajectory length) is the sampler's own and frozen afterwards: only
    then does :meth:`step` leave the density invariant.

    A kernel that learns nothing defines :meth:`init` and :meth:`step`. One that learns also defines :meth:`place`,
    :meth:`state_dict` and :meth:`load_state_dict`.

    Arguments:
        density: The density.

    Attributes:
        gradients: Whether it asks for gradients of the density; what does not runs on a model that has none.

    Example:
        >>> import torch
        >>> from typing import NamedTuple
        >>> from pyro_gen.inference.mcmc import Sampler, run
        >>> class Chains(NamedTuple):
        ...     z: torch.Tensor
        ...     log_density: torch.Tensor
        >>> class Walk(Sampler):  # random-walk Metropolis with unit steps
        ...     def init(self, z):
        ...         return Chains(z, self.density.log_density(z))
        ...     def step(self, state, progress):
        ...         new = self.init(state.z + torch.randn_like(state.z))
        ...         acceptance = (new.log_density - state.log_density).exp().clamp(max=1)
        ...         moved = torch.rand_like(acceptance) < acceptance
        ...         z = torch.where(moved.unsqueeze(-1), new.z, state.z)
        ...         log_density = torch.where(moved, new.log_density, state.log_density)
        ...         return Chains(z, log_density), {"lp": log_density, "acceptance_rate": acceptance}
        >>> target = Density.from_functions(lambda z: -0.5 * z.square().sum(-1), dim=1)
        >>> bool((run(target, Walk, chains=256, draws=50).z.var() - 1).abs() < 0.1)
        True
    """

    gradients = True

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
            The new state, and figures with ArviZ's names, as far as they apply: ``lp``, ``energy``,
            ``acceptance_rate``, ``n_steps``, ``diverging``, ``step_size``, ``tree_depth``; each with shape
            :math:`(C, *B)`, or :math:`(*B)` or :math:`()` where it is the same for all.
        """

    def place(self, z: Tensor) -> Any:
        """Makes the state of chains that stand at ``z``, without a change to what the sampler has learnt.

        As :meth:`init`, where that begins no adaptation. Whoever changes the density, by other parameters say, places
        the chains anew: a state holds the values of the density that it was made with.
        """
        return self.init(z)

    def retempered(self, state: Any) -> Any:
        """Makes the state of the same chains at another ``beta`` of a :class:`pyro_gen.density.Tempered` density.

        To go on with values at the old temperature leaves another density invariant. Samplers that carry the parts of
        the density need not evaluate it again.
        """
        return self.place(state.z)

    def state_dict(self) -> dict[str, Any]:
        """What the sampler has learnt, as nested dictionaries of tensors, numbers and strings."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes up what another sampler with the same options has learnt."""

    def report(self) -> dict[str, Any]:
        """What the warm-up found, by name, for people to read."""
        return {}

    def held(self, state: Any) -> dict[str, Tensor]:
        """The values in a state of the sites that the density holds, by name, each with shape :math:`(C, *B, *)`."""
        return {}


class HMC(Sampler):
    r"""Hamiltonian Monte Carlo that learns step size, metric and trajectory length from all chains together.

    The number of steps is that of the mean trajectory length, times a number between 1/2 and 3/2 that follows a Halton
    sequence, the same for all chains: equal trajectories would resonate with the oscillations of the target.

    Arguments:
        density: The density.
        criterion: What the trajectory length maximises, ``"snaper"`` or ``"chees"``.
        metric: ``"diagonal"``, ``"dense"``, ``"low_rank"`` or ``"auto"``: dense where there are at least five chains
            for each dimension and it repays its cost, else diagonal.
        target_acceptance: What the harmonic mean of the acceptance over the chains is to reach.
        max_steps: The greatest number of leapfrog steps.
        step_size: A fixed step size in whitened coordinates, or ``None`` to learn it.
        num_steps: A fixed number of leapfrog steps, or ``None`` to learn the length of the trajectory.

    Raises:
        ValueError: There is no such criterion or metric, or a number does not make sense.
    """

    # Until these shares of the warm-up trajectories have one step, and few; then it learns how many they should have.
    MALA, SHORT = 0.1, 0.45
    MAX_WARMUP_STEPS = 32
    JITTER = 0.5

    def __init__(
        self,
        density: Density,
        *,
        criterion: str = "snaper",
        metric: str = "auto",
        target_acceptance: float = 0.8,
        max_steps: int = 1000,
        step_size: float | None = None,
        num_steps: int | None = None,
    ) -> None:
        super().__init__(density)
        for name, value in (("max_steps", max_steps), ("num_steps", num_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give a positive number.")
        self.target = hmc.plain(density)
        self.tuning = Tuning(target_acceptance, metric, step_size)
        self.trajectory = Trajectory(criterion)
        self.max_steps, self.num_steps = max_steps, num_steps
        self.transitions = 0

    def init(self, z: Tensor) -> Point:
        point = self.place(z)
        self.tuning.begin(point)
        return point

    def place(self, z: Tensor) -> Point:
        return hmc.init(z, self.target)

    def retempered(self, state: Point) -> Point:
        return hmc.retempered(state, self.density) or self.place(state.z)

    def step(self, state: Point, progress: float | None) -> tuple[Point, dict[str, Tensor]]:
        if progress is None:
            self._freeze()
        proposal = hmc.propose(state, self.target, self.tuning.scaled, self._jittered(progress))
        point, info = hmc.accept_or_stay(state, proposal)
        step_size = self.tuning.step_size.to(info.energy)
        figures = {
            "lp": point.log_density,
            "energy": info.energy,
            "acceptance_rate": info.acceptance,
            "n_steps": torch.tensor(info.num_steps, device=step_size.device),
            "diverging": info.diverging,
            "step_size": step_size,
        }
        if progress is not None and progress < self.tuning.FREEZE:
            if progress >= self.MALA and self.num_steps is None:
                self.trajectory.update(
                    state.z,
                    proposal,
                    info.acceptance,
                    self.tuning.mean,
                    self.tuning.metric,
                    step_size * info.num_steps,
                    learn=progress >= self.SHORT,
                )
            metric = self.tuning.metric
            point = self.tuning.update(point, info.acceptance, progress)
            if self.tuning.metric is not metric:
                self.trajectory.renew()
        elif progress is not None:
            self._freeze()
        return point, figures

    def _jittered(self, progress: float | None) -> int:
        if self.num_steps is not None:
            return self.num_steps
        self.transitions += 1
        jitter = 1 + self.JITTER * (2 * halton(self.transitions) - 1)
        most = self.max_steps
        if progress is not None and progress < self.SHORT:
            most = min(most, 1 if progress < self.MALA else self.MAX_WARMUP_STEPS)
        return max(1, min(most, round(self._mean_steps() * jitter)))

    def _mean_steps(self) -> float:
        # Of many targets, with steps of their own, most go at least the whole length.
        step_size = self.tuning.step_size
        return self.trajectory.length / float(step_size if step_size.dim() == 0 else step_size.quantile(0.25))

    def _freeze(self) -> None:
        if not self.tuning.frozen:
            self.tuning.freeze()
            self.trajectory.freeze()
            self.transitions = 0

    def report(self) -> dict[str, Any]:
        return {
            "step_size": self.tuning.step_size,
            "num_steps": self.num_steps or self._mean_steps(),
            "metric": self.tuning.metric.kind,
            "restarted": self.tuning.restarted,
        }

    def state_dict(self) -> dict[str, Any]:
        self._freeze()
        return {
            "tuning": self.tuning.state_dict(),
            "spread": self.trajectory.spread,
            "log_factor": self.trajectory.log_factor,
            "transitions": self.transitions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tuning.load_state_dict(state["tuning"])
        self.trajectory.spread, self.trajectory.log_factor = state["spread"], state["log_factor"]
        self.transitions = state["transitions"]


class MALA(HMC):
    """The Metropolis-adjusted Langevin algorithm: :class:`HMC` with one leapfrog step, and the acceptance it likes.

    Arguments:
        density: The density.
        metric: As in :class:`HMC`.
        target_acceptance: What the harmonic mean of the acceptance over the chains is to reach.
        step_size: A fixed step size in whitened coordinates, or ``None`` to learn it.
    """

    def __init__(
        self,
        density: Density,
        *,
        metric: str = "auto",
        target_acceptance: float = 0.5,
        step_size: float | None = None,
    ) -> None:
        super().__init__(density, metric=metric, target_acceptance=target_acceptance, step_size=step_size, num_steps=1)
