r"""Parallel tempering, for targets of many modes.

R replicas of each chain go by the densities

.. math:: \pi_i(z) \propto \pi_0(z) \, e^{\beta_i \ell(z)} , \qquad 0 = \beta_1 < \dots < \beta_R = 1 ,

with the prior :math:`\pi_0` and the log-likelihood :math:`\ell`. A transition moves each replica by Hamiltonian Monte
Carlo, but for that of the prior, which is drawn anew, and then swaps neighbours with probability

.. math:: \min \left( 1, e^{(\beta_{i + 1} - \beta_i) (\ell(z_i) - \ell(z_{i + 1}))} \right) .

The pairs (1, 2), (3, 4), ... and (2, 3), (4, 5), ... take turns, which is not reversible: a replica that was swapped
goes on in its direction until a swap is rejected. So draws of the prior travel to the target by drift and not by
diffusion, and chains reach modes that they cannot go to. Both terms of the density and their gradients travel with a
replica: at its new temperature they are combined anew, and a swap costs no evaluation.

With :math:`r_i` the probability that a swap of pair i is rejected, the sum :math:`\Lambda(\beta)` of those below
:math:`\beta` hardly depends on the ladder, nor does the communication barrier :math:`\Lambda = \Lambda(1)`. In rounds
of the warm-up the ladder is set anew, to equal parts of :math:`\Lambda(\beta)`: all pairs are then rejected alike,
which is best. The rate at which draws of the prior reach the target, per chain and transition, is then about

.. math:: \frac{1}{2 + 2 \sum_i r_i / (1 - r_i)} \; \to \; \frac{1}{2 + 2 \Lambda} \qquad (R \to \infty) ,

where each transition forgets the value of :math:`\ell`. About :math:`2 \Lambda + 1` temperatures are enough.

References:
    | Markov Chain Monte Carlo Maximum Likelihood (Geyer, 1991)
    | https://hdl.handle.net/11299/58440
    | Non-Reversible Parallel Tempering: a Scalable Highly Parallel MCMC Scheme (Syed et al., 2022)
    | https://arxiv.org/abs/1905.02939
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen._errors import AdviceError
from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.adaptation import Tuning, halton
from pyro_gen.inference.mcmc.hmc import Evaluation, Point
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["Tempering", "TemperingState", "equal_barriers", "swaps"]

MAX_STEPS = 32  # leapfrog steps of a transition


class TemperingState(NamedTuple):
    """Where the replicas are, from the prior to the target.

    Attributes:
        z: Positions at the target, with shape :math:`(C, *B, D)`.
        log_density: Their log-densities, with shape :math:`(C, *B)`, in nats.
        replicas: All positions, with shape :math:`(C, R, *B, D)`.
        parts: Log-prior and log-likelihood there, each with shape :math:`(C, R, *B)`, and their gradients.
        fresh: Whether a replica was at the prior since it was at the target, with shape :math:`(C, R, *B)`.
    """

    z: Tensor
    log_density: Tensor
    replicas: Tensor
    parts: tuple[Tensor, ...]
    fresh: Tensor


def swaps(log_likelihood: Tensor, betas: Tensor, parity: int) -> tuple[Tensor, Tensor]:
    """Draws the swaps of neighbouring replicas, by the global generator.

    Arguments:
        log_likelihood: Of the replicas, with shape :math:`(C, R, *B)`.
        betas: Their inverse temperatures, in rising order, with shape :math:`(R)`.
        parity: 0 for the pairs (0, 1), (2, 3), ...; 1 for the pairs (1, 2), (3, 4), ...

    Returns:
        For each temperature, from which one its new replica comes, with shape :math:`(C, R, *B)`, and the probabilities
        of acceptance of all pairs, with shape :math:`(C, R - 1, *B)`, of either parity.
    """
    count = len(betas)
    shape = (-1,) + (1,) * (log_likelihood.dim() - 2)
    gain = betas.diff().view(shape) * -log_likelihood.double().diff(dim=1)
    # Off the support of the likelihood a draw of the prior has minus infinity, and stays where it is.
    probability = gain.clamp(max=0.0).exp().nan_to_num(0.0)
    turn = (torch.arange(count - 1, device=betas.device) % 2 == parity).view(shape)
    swapped = turn & (torch.rand_like(probability) < probability)
    order = torch.arange(count, device=betas.device).view(shape).expand(log_likelihood.shape).clone()
    order[:, :-1] += swapped.long()
    order[:, 1:] -= swapped.long()
    return order, probability


def equal_barriers(betas: Tensor, rejection: Tensor) -> Tensor:
    """Sets a ladder anew, so that all neighbours are rejected alike.

    Arguments:
        betas: Inverse temperatures in rising order, from 0 to 1, with shape :math:`(R)`.
        rejection: The probability that a swap of each pair of neighbours is rejected, with shape :math:`(R - 1)`.

    Returns:
        The new inverse temperatures, at equal parts of the cumulated rejection between the old ones.
    """
    # Neighbours that are never rejected are set apart all the same, or the ladder would have equal rungs.
    cumulated = torch.cat([rejection.new_zeros(1), (rejection + 1e-3).cumsum(0)])
    wanted = torch.linspace(0, 1, len(betas), dtype=betas.dtype, device=betas.device) * cumulated[-1]
    right = torch.searchsorted(cumulated, wanted).clamp(1, len(betas) - 1)
    share = (wanted - cumulated[right - 1]) / (cumulated[right] - cumulated[right - 1])
    new = betas[right - 1].lerp(betas[right], share)
    new[0], new[-1] = 0.0, 1.0
    return new


def _gather(tensor: Tensor, order: Tensor) -> Tensor:
    index = order.view(order.shape + (1,) * (tensor.dim() - order.dim()))
    return tensor.take_along_dim(index, 1)


class Tempering(Sampler):
    r"""Non-reversible parallel tempering that learns its ladder, and step size and metric at each temperature.

    Besides ArviZ's figures, those of the target, each transition has ``round_trips``, whether a draw of the prior has
    arrived at the target, and ``swap_acceptance``, the mean probability over the pairs.

    Arguments:
        density: The density of a program with proper priors. Targets of one batch share the ladder.
        temperatures: The number R of replicas of each chain.
        metric: As for :class:`pyro_gen.inference.mcmc.HMC`, for each temperature.
        target_acceptance: What the harmonic mean over the chains of the acceptance of Hamiltonian Monte Carlo is to
            reach at each temperature.

    Raises:
        ValueError: A number does not make sense, or the prior is improper.

    Example:
        >>> import torch
        >>> from pyro_gen.density import Density
        >>> from pyro_gen.inference.mcmc import run
        >>> target = Density.from_functions(
        ...     lambda z: -50 * (z.square() - 1).square().sum(-1),  # modes at -1 and 1
        ...     dim=1,
        ...     log_prior=lambda z: -0.5 * z.square().sum(-1),
        ...     sample_prior=lambda chains: torch.randn(chains, 1),
        ... )
        >>> samples = run(target, Tempering, temperatures=6, chains=64, warmup=100, draws=100, init=torch.ones(64, 1))
        >>> bool(((samples.z > 0).float().mean() - 0.5).abs() < 0.05)
        True
    """

    ROUNDS = (0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.75)  # shares of the warm-up at which the ladder is set anew

    def __init__(
        self,
        density: Density,
        *,
        temperatures: int = 16,
        metric: str = "diagonal",
        target_acceptance: float = 0.8,
    ) -> None:
        super().__init__(density)
        if temperatures < 2:
            raise AdviceError(
                "{temperatures}: give at least 2, those of the prior and the target.", temperatures=temperatures
            )
        # Most rejections are near the prior.
        self.betas = torch.linspace(0, 1, temperatures, dtype=torch.float64, device=density.device).pow(4)
        self.tuning = Tuning(target_acceptance, metric)
        self.transitions = 0
        self._begin_round()
        self._due = list(self.ROUNDS)

    def _begin_round(self) -> None:
        self._rejected = torch.zeros_like(self.betas[1:])
        self._arrived = 0.0
        self._count = 0

    def _terms(self, z: Tensor) -> tuple[Tensor, ...]:
        """The terms of (C, R, *B, D) points, all evaluated at once."""
        terms = self.density.value_and_grad(z.flatten(0, 1))
        return tuple(t.unflatten(0, z.shape[:2]) for t in terms)

    def _tempered(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Log-densities and gradients at all temperatures but that of the prior."""
        log_prior, log_likelihood, grad_prior, grad_likelihood = parts
        beta = self.betas[1:].to(log_prior).view((-1,) + (1,) * (log_prior.dim() - 2))
        return log_prior + beta * log_likelihood, grad_prior + beta.unsqueeze(-1) * grad_likelihood

    def _target(self, z: Tensor) -> Evaluation:
        parts = self._terms(z)
        return *self._tempered(parts), parts

    def _point(self, state: TemperingState) -> Point:
        """All replicas but that of the prior, at their temperatures."""
        parts = tuple(t[:, 1:] for t in state.parts)
        log_density, grad = self._tempered(parts)
        log_density = torch.where(log_density.isfinite(), log_density, -math.inf)
        return Point(state.replicas[:, 1:], log_density, grad.nan_to_num(0.0, 0.0, 0.0), parts)

    def init(self, z: Tensor) -> TemperingState:
        state = self.place(z)
        self.tuning.begin(self._point(state))
        return state

    def place(self, z: Tensor) -> TemperingState:
        first = self.density.sample_prior(len(z)).to(z)
        replicas = torch.cat([first[:, None], z[:, None].expand(-1, len(self.betas) - 1, *z.shape[1:])], 1)
        return self._placed(replicas)

    def retempered(self, state: TemperingState) -> TemperingState:
        return self._placed(state.replicas)._replace(fresh=state.fresh)

    def _placed(self, replicas: Tensor) -> TemperingState:
        parts = self._terms(replicas)
        fresh = torch.zeros_like(parts[0], dtype=torch.bool)
        z = replicas[:, -1]
        state = TemperingState(z, z.new_zeros(z.shape[:-1]), replicas, parts, fresh)
        return state._replace(log_density=self._point(state).log_density[:, -1])

    def step(self, state: TemperingState, progress: float | None) -> tuple[TemperingState, dict[str, Tensor]]:
        if progress is None and not self.tuning.frozen:
            self._freeze()
        self.transitions += 1
        old = self._point(state)
        point, info = hmc.accept_or_stay(old, hmc.propose(old, self._target, self.tuning.scaled, self._num_steps()))
        if progress is not None:
            point = self.tuning.update(point, info.acceptance, progress)
        first = self.density.sample_prior(len(state.z)).to(state.z)[:, None]
        replicas = torch.cat([first, point.z], 1)
        parts = tuple(torch.cat(pair, 1) for pair in zip(self._terms(first), point.parts, strict=True))
        fresh = torch.cat([torch.ones_like(state.fresh[:, :1]), state.fresh[:, 1:]], 1)
        order, probability = swaps(parts[1], self.betas, self.transitions % 2)
        replicas, fresh = _gather(replicas, order), _gather(fresh, order)
        parts = tuple(_gather(t, order) for t in parts)
        arrived = fresh[:, -1].clone()
        fresh[:, -1] = False
        log_density = parts[0][:, -1] + parts[1][:, -1]
        step_size = self.tuning.step_size.to(log_density)
        figures = {
            "lp": log_density,
            "energy": info.energy[:, -1],
            "acceptance_rate": info.acceptance[:, -1],
            "n_steps": torch.full_like(arrived, info.num_steps, dtype=torch.int64),
            "diverging": info.diverging[:, -1],
            "step_size": step_size[-1].expand_as(log_density),
            "round_trips": arrived,
            "swap_acceptance": probability.mean(1).to(log_density),
        }
        if progress is not None:
            self._learn(1 - probability, arrived, progress)
        return TemperingState(replicas[:, -1], log_density, replicas, parts, fresh), figures

    def _num_steps(self) -> int:
        # A quarter of an oscillation in whitened coordinates at most temperatures, jittered for all of them together.
        length = 0.5 * math.pi * (0.5 + halton(self.transitions))
        return max(1, min(MAX_STEPS, round(length / float(self.tuning.step_size.quantile(0.25)))))

    def _learn(self, rejection: Tensor, arrived: Tensor, progress: float) -> None:
        """Takes up the swaps of a transition, and sets the ladder anew when a round is over."""
        if self._due and progress >= self._due[0]:
            while self._due and progress >= self._due[0]:
                self._due.pop(0)
            if self._count:
                self.betas = equal_barriers(self.betas, self._rejected / self._count)
            self._begin_round()
        self._rejected = self._rejected + rejection.movedim(1, 0).flatten(1).mean(1)
        self._arrived += float(arrived.double().mean())
        self._count += 1

    def _freeze(self) -> None:
        self.tuning.freeze()
        self.transitions = 0

    def report(self) -> dict[str, Any]:
        """The last ladder, and what its round in the warm-up found.

        Returns:
            ``betas``; ``rejection`` of each pair; ``barrier``, their sum; ``round_trip_rate``, the arrivals of draws of
            the prior at the target per chain and transition; ``best_rate``, that of infinitely many temperatures.
        """
        count = max(1, self._count)
        rejection = self._rejected / count
        barrier = float(rejection.sum())
        return {
            "step_size": self.tuning.step_size,
            "betas": self.betas.cpu(),
            "rejection": rejection.cpu(),
            "barrier": barrier,
            "round_trip_rate": self._arrived / count,
            "best_rate": 1 / (2 + 2 * barrier),
            "restarted": self.tuning.restarted,
        }

    def state_dict(self) -> dict[str, Any]:
        if not self.tuning.frozen:
            self._freeze()
        return {"tuning": self.tuning.state_dict(), "betas": self.betas.cpu(), "transitions": self.transitions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tuning.load_state_dict(state["tuning"])
        self.betas = state["betas"].to(self.betas)
        self.transitions = state["transitions"]
