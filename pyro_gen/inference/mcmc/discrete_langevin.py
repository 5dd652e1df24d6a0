r"""Discrete Langevin proposals: many discrete coordinates move at once, each where the gradient says.

A log-density of discrete :math:`z` that is written as a differentiable function has a gradient :math:`g(z)` all the
same, and :math:`g_d \, (v - z_d)` says about what it gains where coordinate d becomes v. All coordinates are proposed
independently of each other,

.. math::
    q(z' \mid z) = \prod_d \frac{\exp a_d(z'_d)}{\sum_v \exp a_d(v)}, \qquad
    a_d(v) = \tfrac{1}{2} \, g_d(z) \, (v - z_d) - \frac{(v - z_d)^2}{2 \alpha} ,

and the proposal is accepted with the probability that leaves :math:`\pi` invariant,
:math:`\min \{ 1, \pi(z') \, q(z \mid z') \, / \, \pi(z) \, q(z' \mid z) \}`. It takes one gradient, where a sweep of
Gibbs sampling takes as many evaluations as there are coordinates and values. The step size :math:`\alpha` is drawn anew
for every chain and transition: some steps flip many coordinates, others few.

References:
    | A Langevin-like Sampler for Discrete Distributions (Zhang, Liu & Liu, 2022)
    | https://arxiv.org/abs/2206.09914
    | Oops I Took A Gradient: Scalable Sampling for Discrete Distributions (Grathwohl et al., 2021), one at a time
    | https://arxiv.org/abs/2102.04509
"""

import math

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.hmc import Point
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["DiscreteLangevin"]


class DiscreteLangevin(Sampler):
    r"""Langevin-like transitions of coordinates that take a few values each, the same for all.

    It learns nothing, and can be recorded as part of a graph.

    Arguments:
        density: A density that is differentiable in its coordinates, as if they were numbers between the values too.
        values: What each coordinate can be, in order, with shape :math:`(K,)`; 0 and 1 by default.
        largest: The largest step size, in units of the square of the least distance of two values.
        smallest: The smallest.

    Raises:
        ValueError: The step sizes are not positive, or not in order.

    Example:
        >>> from pyro_gen._random import seeded
        >>> pair = Density.from_functions(lambda z: 2.0 * z[..., 0] * z[..., 1], dim=2)
        >>> kernel = DiscreteLangevin(pair, torch.tensor([-1.0, 1.0]))
        >>> with seeded(0):
        ...     state = kernel.init(torch.ones(4000, 2))
        ...     for _ in range(60):
        ...         state, _ = kernel.step(state, None)
        >>> alike = (state.z[:, 0] == state.z[:, 1]).double().mean().item()
        >>> abs(alike - torch.sigmoid(torch.tensor(4.0)).item()) < 0.01
        True
    """

    def __init__(
        self, density: Density, values: Tensor | None = None, *, largest: float = 0.7, smallest: float = 0.15
    ) -> None:
        super().__init__(density)
        if not 0 < smallest <= largest:
            raise ValueError(f"smallest={smallest}, largest={largest}: give positive step sizes, in this order.")
        self.values = torch.tensor([0.0, 1.0]) if values is None else values
        self.smallest, self.largest = smallest, largest
        self.target = hmc.plain(density)

    def init(self, z: Tensor) -> Point:
        return hmc.init(z, self.target)

    def retempered(self, state: Point) -> Point:
        return hmc.retempered(state, self.density) or self.place(state.z)

    def step(self, state: Point, progress: float | None) -> tuple[Point, dict[str, Tensor]]:
        values = self.values.to(state.z).view(-1, *(1 for _ in state.z.shape))  # (K, 1, ...)
        log_steps = torch.rand_like(state.log_density) * math.log(self.largest / self.smallest)
        alpha = self.smallest * log_steps.exp() * self.values.diff().min().square().to(state.z)  # (C, *B)
        log_forward = self._log_proposal(state, values, alpha)  # (K, C, *B, D)
        below = log_forward.exp().cumsum(0)[:-1]
        choice = (torch.rand_like(state.z) > below).sum(0)  # draws of q, by inversion
        new = hmc.init(self.values.to(state.z)[choice], self.target)
        before = (state.z == values).int().argmax(0)
        log_ratio = _of(self._log_proposal(new, values, alpha), before) - _of(log_forward, choice)
        log_ratio = (new.log_density - state.log_density + log_ratio).nan_to_num(nan=-math.inf)
        acceptance = log_ratio.clamp(max=0.0).exp()
        point = hmc.select(torch.rand_like(acceptance) < acceptance, new, state)
        return point, {"lp": point.log_density, "acceptance_rate": acceptance, "step_size": alpha}

    @staticmethod
    def _log_proposal(point: Point, values: Tensor, alpha: Tensor) -> Tensor:
        """Log-probabilities of each value of each coordinate, (K, C, *B, D)."""
        change = values - point.z
        return (0.5 * point.grad * change - change.square() / (2 * alpha.unsqueeze(-1))).log_softmax(0)


def _of(log_q: Tensor, choice: Tensor) -> Tensor:
    """The log-probability (C, *B) of the values with these numbers, (C, *B, D)."""
    return log_q.gather(0, choice.unsqueeze(0)).squeeze(0).sum(-1)
