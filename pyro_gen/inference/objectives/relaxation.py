r"""The ELBO with discrete draws of the guide relaxed, so that a gradient goes through them.

A bit is where noise falls, :math:`z = 1[\ell + L > 0]` with a logistic L; a symbol the greatest of perturbed
logits, :math:`z = \arg\max_c (\ell_c + G_c)` with Gumbel G. At the temperature :math:`\tau` the step becomes a slope,

.. math::
    \tilde{z} = \sigma\big((\ell + L) / \tau\big), \qquad
    \tilde{z} = \operatorname{softmax}\big((\ell + G) / \tau\big) ,

and the objective is

.. math:: \mathbb{E} \big[ \log p(x \mid \tilde{z}) \big] - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)

with the divergence of the discrete laws, exact. It is that of another model, of which :math:`\tau \to 0` is the one
that is meant, with a variance of the gradient that grows; it is no bound on its likelihood. Straight-through keeps the
model and changes the gradient: the model sees the discrete draw, the guide the slope of :math:`\tilde{z}`. This is a
bound, and its gradient is biased: :math:`\log p(x \mid z)` is taken for linear between the values of z.

References:
    | The Concrete Distribution (Maddison, Mnih & Teh, 2017)
    | https://arxiv.org/abs/1611.00712
    | Categorical Reparameterization with Gumbel-Softmax (Jang, Gu & Poole, 2017)
    | https://arxiv.org/abs/1611.01144
    | Estimating or Propagating Gradients Through Stochastic Neurons (Bengio, Leonard & Courville, 2013)
    | https://arxiv.org/abs/1308.3432
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_gen.distributions.innermost import innermost
from pyro_gen.inference.objectives.base import Objective, over_particles, positive
from pyro_gen.inference.objectives.pairs import (
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_proposals,
    trace_pair_with_missing,
)
from pyro_gen.program import Program
from pyro_gen.registry import objective
from pyro_gen.traces import is_subsample, sample_sites, site_log_prob

__all__ = ["RelaxedELBO"]


@objective
class RelaxedELBO(Objective):
    """The ELBO with Bernoulli and one-hot categorical sites of the guide relaxed.

    In evaluation mode nothing is relaxed: the loss is the bound.

    Arguments:
        temperature: The temperature in training, positive; by the papers between 1/2 and 2/3.
        straight_through: Whether the model sees the discrete draw, and only the gradient is that of the relaxed one.
        num_particles: Draws per datum.

    Raises:
        ValueError: The temperature is not positive.
    """

    def __init__(self, temperature: float = 0.5, straight_through: bool = False, num_particles: int = 1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"RelaxedELBO(temperature={temperature!r}): a temperature is positive.")
        self.temperature, self.straight_through = temperature, straight_through
        self.num_particles = positive(num_particles)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> Tensor:
            with _Relaxed(self.temperature, self.straight_through, self.training):
                model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
            require_proposals(guide_trace)
            for name, site in sample_sites(guide_trace).items():
                if not (site["is_observed"] or site["fn"].has_rsample or _relaxable(site["fn"])):
                    raise ValueError(
                        f"Site '{name}' ({type(innermost(site['fn'])).__name__}) has no relaxation: give it a "
                        "Bernoulli or a OneHotCategorical distribution, or use ScoreFunctionELBO."
                    )
            latents = paired_latents(model_trace, guide_trace).values()
            divergence = torch.stack([_divergence(p, q) for p, q in latents]).sum()
            log_likelihood = torch.stack([site_log_prob(s).sum() for s in observed_sites(model_trace)]).sum()
            own = [site_log_prob(s).sum() for s in observed_sites(guide_trace)]  # a loss of the guide, see ELBO
            return kl_weight * divergence - log_likelihood + sum(own)

        return over_particles(particle, self.num_particles).mean()


def _relaxable(distribution: Any) -> bool:
    return isinstance(innermost(distribution), dist.Bernoulli | dist.OneHotCategorical)


def _divergence(p: Any | None, q: Any) -> Tensor:
    """KL(q || p) of a site, summed: of discrete laws exact, of others as they are drawn."""
    if p is not None and _relaxable(q["fn"]):
        value = _exact(q["fn"], p["fn"]) * q["scale"]
        return value.sum() if q["mask"] is None else torch.where(q["mask"], value, 0.0).sum()
    return -log_ratio_of(p, q, site_log_prob).sum()


def _exact(q: Any, p: Any) -> Tensor:
    """KL(q || p) by batch shape. That of torch indexes by a mask, which ``vmap`` does not do."""
    a, b = (innermost(law).logits.expand(law.shape()) for law in (q, p))
    if isinstance(innermost(q), dist.Bernoulli):
        value = a.sigmoid() * (a - b) - F.softplus(a) + F.softplus(b)
    else:
        log_q, log_p = a.log_softmax(-1), b.log_softmax(-1)
        value = log_q.exp() * torch.where(log_q > -math.inf, log_q - log_p, 0.0)
    return sum_rightmost(value, len(q.event_shape))  # type: ignore[no-any-return]  # Pyro has no types


class _Relaxed(Messenger):
    """Effect handler: discrete latent variables are relaxed draws of their laws."""

    def __init__(self, temperature: float, straight_through: bool, training: bool) -> None:
        super().__init__()
        self.temperature, self.straight_through, self.training = temperature, straight_through, training

    def _pyro_sample(self, msg: Any) -> None:
        if not self.training or is_subsample(msg) or msg["is_observed"] or msg["value"] is not None:
            return
        if not _relaxable(msg["fn"]):
            return
        shape = msg["fn"].shape()
        logits = innermost(msg["fn"]).logits.expand(shape)
        noise = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        if isinstance(innermost(msg["fn"]), dist.Bernoulli):
            moved = logits + noise.logit()
            soft, hard = (moved / self.temperature).sigmoid(), (moved > 0).to(moved)
        else:
            moved = logits - (-noise.log()).log()
            soft = (moved / self.temperature).softmax(-1)
            hard = (moved == moved.max(-1, keepdim=True).values).to(moved)
        msg["value"] = hard + soft - soft.detach() if self.straight_through else soft
