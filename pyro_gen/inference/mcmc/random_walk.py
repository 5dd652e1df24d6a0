r"""Random-walk Metropolis, for many chains at once: it needs no gradient.

From :math:`z` a chain goes to :math:`z' = z + s L \xi` with :math:`\xi \sim \mathcal{N}(0, I)`, and stays there with
probability

.. math:: \min \Big( 1, \frac{\pi(z')}{\pi(z)} \Big) .

On a Gaussian target of many dimensions D the walk mixes fastest with :math:`L L^\top` the covariance of the target,
:math:`s = 2.38 / \sqrt{D}`, and an acceptance of 0.234; in one dimension at 0.44, and near
:math:`0.234 + 0.206 / D` between.

In the warm-up :math:`L` follows the covariance over chains and time, and :math:`\log s` the acceptance, by the
recursion of Robbins and Monro

.. math:: \log s_{t+1} = \log s_t + t^{-1/2} \, (\bar{a}_t - a^*) .

References:
    | Weak convergence and optimal scaling of random walk Metropolis algorithms (Roberts, Gelman, Gilks, 1997)
    | https://doi.org/10.1214/aoap/1034625254
    | Optimal scaling for various Metropolis-Hastings algorithms (Roberts, Rosenthal, 2001)
    | https://doi.org/10.1214/ss/1015346320
    | An adaptive Metropolis algorithm (Haario, Saksman, Tamminen, 2001)
    | https://doi.org/10.2307/3318737
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.mcmc.hmc import Metric
from pyro_gen.inference.mcmc.sampler import Sampler

__all__ = ["RandomWalk", "WalkState"]


class WalkState(NamedTuple):
    """Where the chains are.

    Attributes:
        z: Positions, with shape :math:`(C, *B, D)`.
        log_density: Their log-densities, with shape :math:`(C, *B)`, in nats.
    """

    z: Tensor
    log_density: Tensor


class RandomWalk(Sampler):
    """Random-walk Metropolis that learns the covariance and the scale of its steps from all chains together.

    Arguments:
        density: The density.
        target_acceptance: The mean acceptance over the chains to reach; ``None`` for that which is best on a Gaussian,
            0.44 in one dimension and 0.234 in many.

    Raises:
        ValueError: The acceptance is not between 0 and 1.

    Example:
        >>> import math
        >>> from pyro_gen.density import Density
        >>> from pyro_gen.inference.mcmc import run
        >>> steps = Density.from_functions(lambda z: -z.abs().floor().sum(-1), dim=1)  # it has no gradient
        >>> samples = run(steps, "rwm", chains=64, warmup=100, draws=100)
        >>> exact = 1 - 1 / math.e  # of the mass lies in (-1, 1)
        >>> abs((samples.z.abs() < 1).float().mean().item() - exact) < 0.03
        True
    """

    gradients = False
    FREEZE = 0.9  # share of the warm-up after which nothing changes
    SHARES = 4.0  # the covariance is that of the last quarter of the time

    def __init__(self, density: Density, *, target_acceptance: float | None = None) -> None:
        super().__init__(density)
        if target_acceptance is not None and not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance={target_acceptance}: give a number between 0 and 1.")
        self.target_acceptance = target_acceptance or 0.234 + 0.206 / density.dim
        like = torch.ones(*density.batch_shape, density.dim, dtype=torch.float64, device=density.device)
        self.log_scale = torch.full_like(like[..., 0], math.log(2.38 / density.dim**0.5))
        self.factor = self._covariance = like.diag_embed()
        self._mean = torch.zeros_like(like)
        self._log_scales = self.log_scale
        self._time = 0

    def init(self, z: Tensor) -> WalkState:
        log_density = self.density.log_density(z)
        return WalkState(z, torch.where(log_density.isfinite(), log_density, -math.inf))

    def step(self, state: WalkState, progress: float | None) -> tuple[WalkState, dict[str, Tensor]]:
        metric = Metric.dense(self.factor.to(state.z))
        scale = self.log_scale.exp().to(state.z)
        z = metric.drift(state.z, scale.unsqueeze(-1) * torch.randn_like(state.z))
        log_density = self.density.log_density(z)
        # Also where the density is plus infinity: a chain that went there would never come back.
        gain = torch.where(log_density.isfinite(), log_density - state.log_density, -math.inf)
        acceptance = gain.clamp(max=0.0).exp()
        accepted = torch.rand_like(acceptance) < acceptance
        state = WalkState(
            torch.where(accepted.unsqueeze(-1), z, state.z), torch.where(accepted, log_density, state.log_density)
        )
        figures = {
            "lp": state.log_density,
            "acceptance_rate": acceptance,
            "n_steps": torch.ones_like(acceptance, dtype=torch.int64),
            "step_size": scale.expand_as(acceptance),
        }
        if progress is not None and progress < self.FREEZE:
            self._adapt(state.z.double(), acceptance.double())
        return state, figures

    def _adapt(self, z: Tensor, acceptance: Tensor) -> None:
        self._time += 1
        error = acceptance.mean(0) - self.target_acceptance
        self._log_scales = self._log_scales + self._time**-0.5 * error
        # The average over the last quarter of the time is steadier than where the recursion is.
        weight = self.SHARES / (self._time + self.SHARES)
        self.log_scale = self.log_scale.lerp(self._log_scales, weight)
        mean = z.mean(0)
        if self._time == 1:
            self._mean = mean
        between = (mean - self._mean).unsqueeze(-1)
        within = (z - mean).movedim(0, -1)
        spread = within @ within.mT / len(z) + (1 - weight) * between @ between.mT
        self._mean, self._covariance = self._mean.lerp(mean, weight), self._covariance.lerp(spread, weight)
        # Few draws make a covariance too long: lean on its diagonal. Successive draws of one chain count less.
        count = len(z) * max(1.0, self._time / self.SHARES / 10)
        diagonal = self._covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).diag_embed()
        self.factor = torch.linalg.cholesky(diagonal.lerp(self._covariance, count / (count + z.shape[-1])))

    def report(self) -> dict[str, Any]:
        return {"step_size": self.log_scale.exp()}

    def state_dict(self) -> dict[str, Any]:
        return {"log_scale": self.log_scale.cpu(), "factor": self.factor.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_scale = state["log_scale"].to(self.log_scale)
        self.factor = state["factor"].to(self.factor)
