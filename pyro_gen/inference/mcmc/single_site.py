r"""Gibbs sampling of discrete coordinates, one after the other, for many chains at once.

Coordinate d becomes :math:`v_k` with probability

.. math:: \frac{\pi(z_d = v_k, z_{-d})}{\sum_l \pi(z_d = v_l, z_{-d})} ,

which takes K evaluations of the density. A transition is a sweep over all coordinates.

References:
    | Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images (Geman, Geman, 1984)
    | https://doi.org/10.1109/TPAMI.1984.4767596
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["SingleSiteGibbs", "SweepState"]


class SweepState(NamedTuple):
    """Where the chains are.

    Attributes:
        z: Positions, with shape :math:`(C, D)`.
        log_density: Their log-densities, with shape :math:`(C,)`, in nats.
    """

    z: Tensor
    log_density: Tensor


class SingleSiteGibbs(Sampler):
    """Gibbs sampling of coordinates that take a few values each; it can be recorded as part of a graph.

    Arguments:
        density: A density of one target.
        values: What each coordinate can be, with shape :math:`(K,)`.

    Example:
        >>> from pyro_gen._random import seeded
        >>> pair = Density.from_functions(lambda z: 2.0 * z[..., 0] * z[..., 1], dim=2)  # of spins -1 and 1
        >>> kernel = SingleSiteGibbs(pair, torch.tensor([-1.0, 1.0]))
        >>> with seeded(0):
        ...     state = kernel.init(torch.ones(4000, 2))
        ...     for _ in range(5):
        ...         state, _ = kernel.step(state, None)
        >>> alike = (state.z[:, 0] == state.z[:, 1]).double().mean().item()
        >>> abs(alike - torch.sigmoid(torch.tensor(4.0)).item()) < 0.01
        True
    """

    def __init__(self, density: Density, values: Tensor) -> None:
        super().__init__(density)
        self.values = values

    def init(self, z: Tensor) -> SweepState:
        return SweepState(z, self.density.log_density(z))

    def step(self, state: SweepState, progress: float | None) -> tuple[SweepState, dict[str, Tensor]]:
        z, log_density = state
        count, chains = len(self.values), len(z)
        for d in range(z.shape[-1]):
            before, after = z[:, :d], z[:, d + 1 :]
            at = self.values.to(z)[:, None, None].expand(count, chains, 1)
            candidates = torch.cat([before.expand(count, *before.shape), at, after.expand(count, *after.shape)], -1)
            log_weights = self.density.log_density(candidates.flatten(0, 1)).unflatten(0, (count, chains))
            # The largest of log-weights with Gumbel noise; a value off the support, where it is NaN, is not taken.
            noise = -torch.empty_like(log_weights).exponential_().clamp(min=1e-30).log()
            choice = (log_weights.nan_to_num(nan=-torch.inf) + noise).argmax(0)  # (C,)
            z = torch.cat([before, self.values.to(z)[choice].unsqueeze(-1), after], -1)
            log_density = log_weights.gather(0, choice.unsqueeze(0)).squeeze(0)
        return SweepState(z, log_density), {"lp": log_density}
