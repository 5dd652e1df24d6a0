"""Score-function gradients, for guides whose draws cannot be reparameterised."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen.inference.objectives.base import Objective, positive, vmapped
from pyro_gen.inference.objectives.importance import local_log_weight
from pyro_gen.inference.objectives.pairs import (
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_proposals,
    trace_pair_with_missing,
)
from pyro_gen.program import Program, data_scale, data_size
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, latent_sites, per_datum_log_prob, site_log_prob

__all__ = ["VIMCO", "ScoreFunctionELBO"]


@objective
class ScoreFunctionELBO(Objective):
    r"""The ELBO with score-function gradients where a guide's site cannot be reparameterised.

    With the learning signal :math:`f_n`, all terms of the ELBO that datum :math:`n` enters, a non-reparameterisable
    local site contributes :math:`(f_n - b) \nabla \log q(z_n \mid x_n)`; a global one takes the whole ELBO as its
    signal. The control variate :math:`b` does not depend on the current draw, so the gradient stays unbiased.

    References:
        | Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning (Williams, 1992)
        | Neural Variational Inference and Learning in Belief Networks (Mnih & Gregor, 2014), the neural baseline
        | https://arxiv.org/abs/1402.0030
        | Buy 4 REINFORCE Samples, Get a Baseline for Free! (Kool, van Hoof & Welling, 2019), leave one out
        | https://openreview.net/forum?id=r1lgTGL5DE

    Arguments:
        baseline: ``"decaying_average"`` of past signals; ``"leave_one_out"``, the mean signal of the other draws of the
            same datum; a network that maps ``x`` to shape :math:`(N,)` (trained along by least squares); or ``None``.
        decay: The decay of the average.
        num_particles: Draws per datum.
    """

    average: Tensor
    started: Tensor

    def __init__(
        self, baseline: str | nn.Module | None = "decaying_average", decay: float = 0.9, num_particles: int = 1
    ) -> None:
        super().__init__()
        if isinstance(baseline, str) and baseline not in ("decaying_average", "leave_one_out"):
            raise ValueError(f'baseline={baseline!r}: give "decaying_average", "leave_one_out", a network or None.')
        if baseline == "leave_one_out" and num_particles < 2:
            raise ValueError('baseline="leave_one_out" is the mean of the other draws: give num_particles=2 or more.')
        self.baseline, self.decay, self.num_particles = baseline, decay, positive(num_particles)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> tuple[Tensor, ...]:
            return self._particle(program, x, *context, kl_weight=kl_weight)

        if self.num_particles == 1:
            parts = tuple(part.unsqueeze(0) for part in particle())
        else:
            parts = vmapped(particle, self.num_particles)
        local, global_, shared, log_q, log_q_global = parts  # (K, N), (K,), (K,), (K, N), (K,)
        scale = data_scale(x)
        elbo = scale * local.sum(1) + global_ + shared  # (K,)
        terms = local + shared.unsqueeze(1) / scale
        if self.baseline == "leave_one_out":
            signal, whole = _less_the_others(terms), _less_the_others(elbo)
        else:
            baseline = self._baseline(x)  # () or (N,)
            signal, whole = terms - baseline, elbo - scale * baseline.expand(len(x)).sum()
        surrogate = scale * (signal.detach() * log_q).sum(1) + whole.detach() * log_q_global
        if isinstance(self.baseline, nn.Module):
            surrogate = surrogate - (terms.detach() - baseline).square().sum(1)
        elif self.baseline == "decaying_average" and self.training:
            self._update_average(terms.detach().mean())
        return -(elbo + surrogate - surrogate.detach()).mean()

    def _particle(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float) -> tuple[Tensor, ...]:
        """Of one draw: the terms of each datum, (N,), of global variables, and of what may depend on all variables;
        the guide's log-densities, of each datum and of global variables.
        """
        with data_size(len(x)):
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
        require_proposals(guide_trace)
        local, log_q = x.new_zeros(len(x)), x.new_zeros(len(x))
        global_, shared, log_q_global = x.new_zeros(()), x.new_zeros(()), x.new_zeros(())
        for p, q in paired_latents(model_trace, guide_trace).values():
            scored = not q["fn"].has_rsample
            if is_local(q):
                local = local + kl_weight * log_ratio_of(p, q, per_datum_log_prob)
                log_q = log_q + per_datum_log_prob(q) if scored else log_q
            else:
                global_ = global_ + kl_weight * log_ratio_of(p, q, lambda site: site_log_prob(site).sum())
                log_q_global = log_q_global + site_log_prob(q).sum() if scored else log_q_global
        for site in observed_sites(model_trace):
            if is_local(site):
                local = local + per_datum_log_prob(site)
            else:
                shared = shared + site_log_prob(site).sum()
        for site in observed_sites(guide_trace):  # a loss of its own, see ELBO
            if is_local(site):
                local = local - per_datum_log_prob(site)
            else:
                shared = shared - site_log_prob(site).sum()
        return local, global_, shared, log_q, log_q_global

    def _baseline(self, x: Tensor) -> Tensor:
        if isinstance(self.baseline, nn.Module):
            value: Tensor = self.baseline(x)
            if value.shape != (len(x),):
                raise ValueError(f"The baseline network returns shape {tuple(value.shape)}, not {(len(x),)}.")
            return value
        return self.average.clone()

    def _update_average(self, signal: Tensor) -> None:
        decay = torch.where(self.started, self.decay, 0.0)
        self.average.mul_(decay).add_((1 - decay) * signal)
        self.started.fill_(True)


@objective
class VIMCO(Objective):
    r"""The importance-weighted bound with score-function gradients, a baseline of its own for each draw.

    With the weights :math:`w_k` of K draws and :math:`L = \log \frac{1}{K} \sum_k w_k`, a site that cannot be
    reparameterised contributes

    .. math:: \sum_k (L - L_{-k}) \nabla \log q(z_k \mid x), \qquad
        L_{-k} = L \text{ with the geometric mean of the others for } w_k ,

    which leaves the gradient without bias and tells each draw what it has added.

    References:
        | Variational Inference for Monte Carlo Objectives (Mnih & Rezende, 2016)
        | https://arxiv.org/abs/1602.06725

    Arguments:
        num_particles: The number K of draws per datum, 2 or more.
    """

    def __init__(self, num_particles: int = 10) -> None:
        super().__init__()
        if num_particles < 2:
            raise ValueError(
                f"VIMCO(num_particles={num_particles!r}): the baseline is of the other draws: give 2 or more."
            )
        self.num_particles = num_particles

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> tuple[Tensor, Tensor]:
            with data_size(len(x)):
                model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
            require_proposals(guide_trace)
            log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
            scored = [s for s in latent_sites(guide_trace).values() if not s["fn"].has_rsample]
            log_q = sum((per_datum_log_prob(s) for s in scored), x.new_zeros(len(x)))
            return log_likelihood + kl_weight * log_ratio, log_q

        k = self.num_particles
        log_w, log_q = vmapped(particle, k)  # (K, N) each
        bound = log_w.logsumexp(0) - math.log(k)
        own = torch.eye(k, dtype=torch.bool, device=x.device).unsqueeze(-1)  # (K, K, 1)
        # Not the sum less the own one: of a draw of weight zero that would be a difference of infinities.
        others = torch.where(own, 0.0, log_w).sum(1, keepdim=True) / (k - 1)  # (K, 1, N)
        without = torch.where(own, others, log_w).logsumexp(1) - math.log(k)  # (K, N)
        surrogate = ((bound - without).detach() * log_q).sum(0)
        return -data_scale(x) * (bound + surrogate - surrogate.detach()).sum()  # type: ignore[no-any-return]


def _less_the_others(signal: Tensor) -> Tensor:
    """Signals of K draws, (K, *), each less the mean of the others."""
    k = len(signal)
    return (signal - signal.mean(0)) * (k / (k - 1))
