r"""Objectives for latent dimensions that vary independently: total correlation, in minibatches or by a critic.

The divergence of the ELBO, averaged over data, is the sum of three: with the aggregate :math:`q(z) =
\frac{1}{N} \sum_n q(z \mid x_n)`,

.. math::
    \mathbb{E}_n \, \mathrm{KL}\big(q(z \mid x_n) \,\|\, p(z)\big) = I_q(z; n)
    + \mathrm{KL}\Big(q(z) \,\Big\|\, \prod_j q(z_j)\Big) + \sum_j \mathrm{KL}\big(q(z_j) \,\|\, p(z_j)\big) ,

what z tells of the datum, the *total correlation* of the dimensions, and how far each is from its prior. A weight on
all three (``ELBO(beta=)``) also takes away what z tells; these objectives weigh the second alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import softplus

from pyro_gen._random import seeded
from pyro_gen._sizes import check_weights
from pyro_gen.inference.objectives.base import Objective, Player
from pyro_gen.inference.objectives.importance import local_log_weight
from pyro_gen.inference.objectives.pairs import (
    require_proposals,
    require_reparameterised,
    trace_pair_with_missing,
)
from pyro_gen.nets import MLP
from pyro_gen.program import Program, data_scale, data_size
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, latent_sites, trace_side

__all__ = ["BetaTCVAE", "FactorVAE", "aggregate_log_densities", "codes", "one_code"]


def one_code(objective: Objective, guide_trace: Trace) -> Any:
    """The only latent site of a guide, a vector for each datum.

    Raises:
        ValueError: There are several, or it is none.
    """
    sites = latent_sites(guide_trace)
    site = next(iter(sites.values()), None)
    if len(sites) != 1 or site is None or not is_local(site) or site["fn"].event_dim != 1 or site["value"].dim() != 2:
        found = ", ".join(f"'{n}' of shape {tuple(s['value'].shape)}" for n, s in sites.items()) or "none"
        raise ValueError(
            f"{type(objective).__name__} is for programs with one latent variable for each datum, a vector of shape "
            f"(N, K), as z ~ Normal(loc, scale).to_event(1); the guide has {found}."
        )
    return site


def codes(objective: Objective, program: Program, x: Tensor, *context: Any) -> Tensor:
    """A draw of the guide for each datum, with shape (N, K)."""
    return one_code(objective, trace_side(program, "guide", x, *context))["value"]  # type: ignore[no-any-return]


def aggregate_log_densities(site: Any, size: float) -> tuple[Tensor, Tensor]:
    r"""The log-densities of the aggregate posterior and of its dimensions at a draw for each datum of a minibatch.

    With S of N data, the own posterior of a draw has weight 1 / N as it has in the aggregate, and the S - 1 others
    stand for all others:

    .. math::
        \hat{q}(z_i) = \tfrac{1}{N} q(z_i \mid x_i) + \tfrac{N - 1}{N (S - 1)} \sum_{j \ne i} q(z_i \mid x_j)

    which is unbiased, and q(z) itself where the minibatch is the data.

    Arguments:
        site: A site of the guide with independent dimensions, of shape (S, K).
        size: The number N of data.

    Returns:
        With shapes (S,) and (S, K), in nats.
    """
    law, z, rows = site["fn"], site["value"], len(site["value"])
    if not isinstance(law, Independent) or law.reinterpreted_batch_ndims != 1:
        raise ValueError(
            f"The total correlation needs a guide with independent dimensions, Normal(loc, scale).to_event(1) say: "
            f"site '{site['name']}' has {type(law).__name__}."
        )
    pairs = law.base_dist.log_prob(z.unsqueeze(1))  # (S, S, K): of draw i under the posterior of datum j
    own = torch.eye(rows, dtype=torch.bool, device=z.device)
    others = math.log(max(size - 1, 1e-30) / size / max(rows - 1, 1))
    weights = torch.where(own, -math.log(size), others).to(z)  # (S, S)
    joint = (pairs.sum(-1) + weights).logsumexp(1)
    return joint, (pairs + weights.unsqueeze(-1)).logsumexp(1)


@objective
class BetaTCVAE(Objective):
    r"""The ELBO with the weight :math:`\beta` on the total correlation of the latent dimensions.

    The aggregate is estimated in the minibatch (:func:`aggregate_log_densities`): its logarithm is too low there by
    what Jensen's inequality takes, the less the larger the minibatch. In evaluation mode the loss is the bound.

    References:
        | Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse & Duvenaud, 2018)
        | https://arxiv.org/abs/1802.04942

    Arguments:
        beta: The weight; 1 for the ELBO.
    """

    def __init__(self, beta: float = 6.0) -> None:
        super().__init__()
        check_weights(self, beta=beta)
        self.beta = beta

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        scale = data_scale(x)
        with data_size(len(x)):
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
        require_proposals(guide_trace)
        require_reparameterised(guide_trace)
        log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
        bound = log_likelihood + kl_weight * log_ratio  # (N,)
        if self.training:
            joint, dimensions = aggregate_log_densities(one_code(self, guide_trace), scale * len(x))
            bound = bound - kl_weight * (self.beta - 1) * (joint - dimensions.sum(-1))
        return -scale * bound.sum()


@objective
class FactorVAE(Objective):
    r"""The ELBO less :math:`\gamma` times the total correlation, which a critic tells: a game of two players.

    The critic learns to tell draws of q(z) from such whose dimensions come from different data, draws of
    :math:`\prod_j q(z_j)`. Its best score is the logarithm of the ratio of the densities, whose mean under q(z) is the
    total correlation.

    References:
        | Disentangling by Factorising (Kim & Mnih, 2018)
        | https://arxiv.org/abs/1802.05983

    Arguments:
        gamma: The weight :math:`\gamma`; 0 for the ELBO.
        critic: A network from codes of shape (N, K) to scores of shape (N,) or (N, 1); or the widths of the hidden
            layers of a multilayer perceptron, which is then made for the codes.
        critic_lr: Its learning rate, by default that of :func:`pyro_gen.fit`.

    Attributes:
        critic: The critic; of widths, ``None`` until :meth:`prepare`.
    """

    def __init__(
        self, gamma: float = 10.0, critic: nn.Module | Sequence[int] = (128, 128), critic_lr: float | None = None
    ) -> None:
        super().__init__()
        check_weights(self, gamma=gamma)
        self.gamma, self.critic_lr = gamma, critic_lr
        self.hidden = () if isinstance(critic, nn.Module) else tuple(critic)
        self.critic = critic if isinstance(critic, nn.Module) else None

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Makes the critic, where its widths are given."""
        with seeded(0), torch.no_grad():
            z = codes(self, program, x, *context)
        if self.critic is None:
            self.critic = MLP((z.shape[1], *self.hidden, 1), activation="leaky_relu").to(z)

    def players(self, program: Program) -> Sequence[Player]:
        if self.critic is None:
            raise ValueError("FactorVAE: give a critic, or call prepare(program, x) first, as pg.fit does.")
        its = [p for p in self.critic.parameters() if p.requires_grad]
        critics = {id(p) for p in its}
        own = [p for p in program.parameters() if p.requires_grad and id(p) not in critics]
        return (
            Player("loss", own, self.loss),
            Player("critic", its, self.critic_loss, lr=self.critic_lr, betas=(0.5, 0.9)),
        )

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        """The loss of the program, of the full data set; in evaluation mode the negative bound."""
        with data_size(len(x)):
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
        require_proposals(guide_trace)
        require_reparameterised(guide_trace)
        log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
        bound = log_likelihood + kl_weight * log_ratio  # (N,)
        if self.training:
            bound = bound - kl_weight * self.gamma * self._scores(one_code(self, guide_trace)["value"])
        return -data_scale(x) * bound.sum()

    def critic_loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        """The loss of the critic, of the full data set; arguments as of :meth:`~Objective.loss`."""
        z = codes(self, program, x, *context).detach()
        mixed = torch.stack([column[torch.rand_like(column).argsort()] for column in z.unbind(1)], 1)
        return data_scale(x) * (softplus(-self._scores(z)) + softplus(self._scores(mixed))).sum() / 2

    def _scores(self, z: Tensor) -> Tensor:
        scores: Tensor = self.critic(z)  # type: ignore[misc]
        if scores.shape not in ((len(z),), (len(z), 1)):
            raise ValueError(f"The critic returns shape {tuple(scores.shape)}, not {(len(z),)}: one score per datum.")
        return scores.reshape(len(z))
