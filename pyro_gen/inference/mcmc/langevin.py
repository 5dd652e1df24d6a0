r"""The Metropolis-adjusted Langevin algorithm without a warm-up, for a few transitions at a time.

From :math:`z` a chain goes to

.. math::
    z' = z + \tfrac{1}{2} \epsilon^2 L L^\top \nabla \log \pi(z) + \epsilon L \xi, \qquad
    \xi \sim \mathcal{N}(0, I),

and stays there with the probability that leaves :math:`\pi` invariant. Contrastive divergence makes a few transitions
of a density that moves with each step of training, so nothing can be learnt beforehand. The scales :math:`L` are read
off the chains where they start, and :math:`\log \epsilon` is drawn anew for every chain and transition, uniformly over
a decade: some steps go far, others are accepted near a sharp ridge, and each leaves :math:`\pi` invariant.

References:
    | Exponential convergence of Langevin distributions and their discrete approximations (Roberts & Tweedie, 1996)
    | https://doi.org/10.2307/3318418
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.adaptation import fisher_diagonal
from pyro_gen.inference.mcmc.hmc import Metric, Point
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["Langevin"]


class Langevin(Sampler):
    r"""Langevin transitions whose step sizes are random and whose scales are those of the chains at the start.

    It learns nothing, and can be recorded as part of a graph.

    Arguments:
        density: The density.
        largest: The largest step size, in units of the scales and of :math:`D^{-1/6}`.
        smallest: The smallest.

    Raises:
        ValueError: The step sizes are not positive, or not in order.

    Example:
        >>> from pyro_gen._random import seeded
        >>> normal = Density.from_functions(lambda z: -0.5 * (z - 3).square().sum(-1), dim=2)
        >>> kernel = Langevin(normal)
        >>> with seeded(0):
        ...     state = kernel.init(torch.randn(500, 2))
        ...     for _ in range(50):
        ...         state, _ = kernel.step(state, None)
        >>> bool(((state.z - 3).mean(0).abs() < 0.2).all())
        True
    """

    def __init__(self, density: Density, *, largest: float = 1.65, smallest: float = 0.165) -> None:
        super().__init__(density)
        if not 0 < smallest <= largest:
            raise ValueError(f"smallest={smallest}, largest={largest}: give positive step sizes, in this order.")
        shrink = density.dim ** (-1 / 6)
        self.smallest, self.largest = smallest * shrink, largest * shrink
        self.target = hmc.plain(density)
        self.scale: Tensor | None = None

    def init(self, z: Tensor) -> Point:
        point = hmc.init(z, self.target)
        self.scale = fisher_diagonal(*(t.var(0, correction=0) for t in (point.z, point.grad)))
        return point

    def place(self, z: Tensor) -> Point:
        return hmc.init(z, self.target)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": None if self.scale is None else self.scale.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"]

    def step(self, state: Point, progress: float | None) -> tuple[Point, dict[str, Tensor]]:
        assert self.scale is not None
        share = torch.rand_like(state.log_density)
        step_size = self.smallest * (share * math.log(self.largest / self.smallest)).exp()
        point, info = hmc.step(state, self.target, step_size, Metric.diagonal(self.scale), 1)
        figures = {
            "lp": point.log_density,
            "energy": info.energy,
            "acceptance_rate": info.acceptance,
            "diverging": info.diverging,
            "step_size": step_size,
        }
        return point, figures
