"""The evidence lower bound, which is the default objective."""

from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_gen._sizes import check_weights
from pyro_gen.inference.objectives.base import Objective, over_particles, positive
from pyro_gen.inference.objectives.pairs import (
    is_delta,
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_proposals,
    require_reparameterised,
    trace_pair_with_missing,
)
from pyro_gen.program import Program
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, sample_sites, site_log_prob

__all__ = ["ELBO", "resolve_objective"]


def resolve_objective(program: Program, objective: Objective | None) -> Objective:
    """The objective that is given, else the program's own, else the ELBO.

    Raises:
        TypeError: It is no objective.
    """
    objective = objective or getattr(program, "objective", None) or ELBO()
    if not isinstance(objective, Objective):
        raise TypeError(f"objective={objective!r}: give an objective such as ELBO() or IWAE(10), from pg.inference.")
    return objective


@objective
class ELBO(Objective):
    r"""The evidence lower bound, :math:`\mathbb{E}_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))`.

    The divergence of a site is taken in closed form where one is known and the model conditions the site only on
    what the guide samples before it; otherwise it is estimated by the same draws.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
        | https://arxiv.org/abs/1312.6114
        | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), free bits
        | https://arxiv.org/abs/1606.04934
        | beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017), beta
        | https://openreview.net/forum?id=Sy2fzU9gl

    Arguments:
        num_particles: Draws per datum; more of them lower the variance of the gradient.
        analytic_kl: Whether to use closed-form divergences.
        free_bits: Nats per latent dimension below which the divergence, averaged over the minibatch, is not pushed in
            training; in evaluation mode the loss is the bound. Where the divergence is not known per dimension, the
            dimensions of a site share their nats.
        beta: The weight of the divergence in training; in evaluation mode the loss is the bound.
    """

    everything = False  # whether all discrete latent variables that the guide does not sample are summed out

    def __init__(
        self, num_particles: int = 1, analytic_kl: bool = True, free_bits: float = 0.0, beta: float = 1.0
    ) -> None:
        super().__init__()
        check_weights(self, free_bits=free_bits, beta=beta)
        self.beta = beta
        self.num_particles, self.analytic_kl, self.free_bits = positive(num_particles), analytic_kl, free_bits

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> Tensor:
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context, everything=self.everything)
            require_proposals(guide_trace)
            require_reparameterised(guide_trace)
            divergence = self._divergence(model_trace, guide_trace)
            log_likelihood = torch.stack([site_log_prob(s).sum() for s in observed_sites(model_trace)]).sum()
            # A factor of the guide is a loss of its own, of a classifier say (Kingma et al., 2014, equation 9).
            more = [site_log_prob(s).sum() for s in observed_sites(guide_trace)]
            return (self.beta if self.training else 1.0) * kl_weight * divergence - log_likelihood + sum(more)

        return over_particles(particle, self.num_particles).mean()

    def _divergence(self, model_trace: Trace, guide_trace: Trace) -> Tensor | float:
        latents = paired_latents(model_trace, guide_trace)
        guide_order = [n for n in sample_sites(guide_trace) if n in latents]
        total: Tensor | float = 0.0
        for i, (name, (p, q)) in enumerate(latents.items()):
            before_in_model = set(list(latents)[:i])
            before_in_guide = set(guide_order[: guide_order.index(name)])
            divergence = None
            if self.analytic_kl and p is not None and before_in_model <= before_in_guide:
                divergence = _analytic_kl(p, q, self.free_bits > 0)
            if divergence is None:
                divergence = -log_ratio_of(p, q, site_log_prob)
            total = total + self._freed(divergence, q)
        return total

    def _freed(self, divergence: Tensor, site: Any) -> Tensor:
        if self.free_bits == 0 or not self.training or not is_local(site):
            return divergence.sum()
        # divergence: (*batch, *event) when it is known per dimension, else (*batch)
        rows = divergence.reshape(site["fn"].batch_shape.numel(), -1)  # (N, dimensions)
        floor = self.free_bits * site["scale"] * (site["fn"].event_shape.numel() / rows.shape[1])
        return rows.mean(0).clamp(min=floor).sum() * len(rows)


def _analytic_kl(p: Any, q: Any, per_dimension: bool) -> Tensor | None:
    """KL(q || p) of a site with its batch shape (and event shape, if asked and known), or None if not closed-form."""
    if p["mask"] is not None or q["mask"] is not None or not _same(p["scale"], q["scale"]):
        return None
    if is_delta(q):  # Pyro's closed form leaves out the Delta's own log-density, an autoguide's Jacobian
        return None
    p_fn, q_fn = p["fn"], q["fn"]
    if (
        per_dimension
        and isinstance(p_fn, torch.distributions.Independent)
        and isinstance(q_fn, torch.distributions.Independent)
        and p_fn.reinterpreted_batch_ndims == q_fn.reinterpreted_batch_ndims
    ):
        p_fn, q_fn = p_fn.base_dist, q_fn.base_dist
    try:
        return kl_divergence(q_fn, p_fn) * q["scale"]  # type: ignore[no-any-return]
    except NotImplementedError:
        return None


def _same(a: Any, b: Any) -> bool:
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b
