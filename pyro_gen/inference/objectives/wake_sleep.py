r"""Wake-sleep: a game of model and guide, in which discrete latent variables need no gradient through their draws.

With particles :math:`z_k \sim q_\phi(z \mid x)`, weights :math:`w_k = p_\theta(x, z_k) / q_\phi(z_k \mid x)` and
:math:`\tilde w_k = w_k / \sum_j w_j`, all draws constants, the players follow

.. math::
    \text{model:} \quad & \sum_k \tilde w_k \, \nabla_\theta \log p_\theta(x, z_k) , \\
    \text{guide, awake:} \quad & \sum_k \tilde w_k \, \nabla_\phi \log q_\phi(z_k \mid x) , \\
    \text{guide, asleep:} \quad & \nabla_\phi \log q_\phi(z \mid x), \quad (x, z) \sim p_\theta(x, z) .

The model climbs the importance-weighted bound for proposals as they are. The guide lowers
:math:`\mathrm{KL}(p_\theta(z \mid x) \,\|\, q_\phi(z \mid x))`, averaged over the data when awake and over the dreams
of the model when asleep: it covers the posterior, where that of the ELBO picks a part of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_gen.density.missing import latent_missing
from pyro_gen.inference.objectives.base import Objective, Player, positive, vmapped
from pyro_gen.inference.objectives.generation import ancestral, rehearse
from pyro_gen.inference.objectives.importance import local_log_densities
from pyro_gen.inference.objectives.pairs import trace_pair_with_missing
from pyro_gen.program import Program, data_scale, data_size, fixed
from pyro_gen.registry import objective
from pyro_gen.traces import latent_sites, per_datum_log_prob, trace_side

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


class _Constant(Messenger):
    """Effect handler: no gradient goes through draws."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


@objective
class ReweightedWakeSleep(Objective):
    r"""Reweighted wake-sleep: the model climbs the importance-weighted bound, the guide learns from its weighted draws.

    The loss, which validation reports, is the negative bound. For local latent variables, discrete or continuous, and a
    guide that has parameters of its own.

    References:
        | Reweighted Wake-Sleep (Bornschein & Bengio, 2015)
        | https://arxiv.org/abs/1406.2751
        | Revisiting Reweighted Wake-Sleep (Le et al., 2019)
        | https://arxiv.org/abs/1805.10469

    Arguments:
        num_particles: The number of particles :math:`K`.
        sleep: The share of the sleep phase in the guide's loss, between 0 and 1. Asleep, the guide sees what the model
            generates, with the missing entries of the data left out.

    Raises:
        ValueError: A latent variable is global, or a parameter is of model and guide both.
    """

    anneals = False
    kinds = ("bound",)

    def __init__(self, num_particles: int, sleep: float = 0.0) -> None:
        super().__init__()
        if not 0 <= sleep <= 1:
            raise ValueError(f"sleep={sleep}: the share of the sleep phase is between 0 and 1.")
        self.num_particles, self.sleep = positive(num_particles), sleep
        self.of_model: tuple[str, ...] = ()
        self.of_guide: tuple[str, ...] = ()

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        rehearse(program, x, *context)
        named = {n: p for n, p in program.named_parameters() if p.requires_grad}
        with torch.enable_grad(), pyro.validation_enabled(False), data_size(len(x)):
            log_p, log_q = self._log_densities(program, x, *context)
        self.of_model, self.of_guide = (_moving(log_density, named) for log_density in (log_p, log_q))
        if shared := [n for n in self.of_model if n in self.of_guide]:
            raise ValueError(
                f"The parameter '{shared[0]}' of {type(program).__name__} is one of the model and of the guide, which "
                f"{type(self).__name__} moves by a loss for each: give the guide one of its own, or train by an ELBO."
            )

    def players(self, program: Program) -> Sequence[Player]:
        named: dict[str, nn.Parameter] = dict(program.named_parameters())
        both = (("model", self.of_model, self.loss), ("guide", self.of_guide, self.guide_loss))
        return [Player(name, [named[n] for n in names], loss) for name, names, loss in both if names]

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        log_p, log_q = vmapped(lambda: self._log_densities(program, x, *context), self.num_particles)  # (K, N) each
        bound = torch.logsumexp(log_p - log_q.detach(), 0) - math.log(self.num_particles)  # (N,)
        return -data_scale(x) * bound.sum()

    def guide_loss(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        """The guide's cross-entropy: to its weighted draws, to the model's dreams, or both.

        Arguments:
            program: The program.
            x: The data, with shape :math:`(N, *)`, NaN where nothing was observed.
            context: What the program conditions on.

        Returns:
            A scalar, in nats of the full data set.
        """
        total = x.new_zeros(())
        with latent_missing(program, x, *context):
            if self.sleep < 1:
                log_p, log_q = vmapped(lambda: self._log_densities(program, x, *context), self.num_particles)
                weights = torch.softmax((log_p - log_q).detach(), 0)  # (K, N)
                total = total - (1 - self.sleep) * (weights * log_q).sum()
            if self.sleep > 0:
                total = total - self.sleep * self._dreamt(program, x, *context).sum()
        return data_scale(x) * total

    @staticmethod
    def _log_densities(program: Program, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        """Log p(x_n, z_n) and log q(z_n | x_n) at draws of the guide, (N,) each."""
        with data_size(len(x)), _Constant():
            return local_log_densities(*trace_pair_with_missing(program, x, *context))

    @staticmethod
    def _dreamt(program: Program, x: Tensor, *context: Any) -> Tensor:
        """Log q(z_n | x_n) of what the model draws, (N,)."""
        with torch.no_grad(), data_size(len(x)), pyro.poutine.trace() as tape:
            dream = ancestral(program, x, *context)
        latents = {n: s["value"] for n, s in latent_sites(tape.trace).items()}
        with data_size(len(x)), fixed(latents):
            guide = trace_side(program, "guide", torch.where(torch.isnan(x), x, dream), *context)
        sites = latent_sites(guide)
        if foreign := [n for n in sites if n not in latents]:
            raise ValueError(
                f"The guide samples '{foreign[0]}' and the model does not, so that there is none in its dreams: use "
                "sleep=0."
            )
        return torch.stack([per_datum_log_prob(s) for s in sites.values()]).sum(0)


@objective
class WakeSleep(ReweightedWakeSleep):
    """Wake-sleep: the model learns from one draw of the guide for each datum, the guide from dreams of the model.

    The model climbs the ELBO for proposals as they are.

    References:
        | The wake-sleep algorithm for unsupervised neural networks (Hinton, Dayan, Frey & Neal, 1995)
        | https://doi.org/10.1126/science.7761831
    """

    def __init__(self) -> None:
        super().__init__(num_particles=1, sleep=1.0)


def _moving(log_density: Tensor, named: dict[str, nn.Parameter]) -> tuple[str, ...]:
    """The names of the parameters that a log-density depends on."""
    if not log_density.requires_grad:
        return ()
    gradients = torch.autograd.grad(log_density.sum(), list(named.values()), allow_unused=True)
    return tuple(n for n, g in zip(named, gradients, strict=True) if g is not None)
