"""Score-function gradients, for guides whose draws cannot be reparameterised."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen.inference.objectives.base import Objective, positive
from pyro_gen.inference.objectives.pairs import (
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_proposals,
    trace_pair_with_missing,
)
from pyro_gen.program import Program, data_scale, data_size
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, per_datum_log_prob, site_log_prob

__all__ = ["ScoreFunctionELBO"]


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

    Arguments:
        baseline: ``"decaying_average"`` of past signals, a network that maps ``x`` to shape :math:`(N,)` (trained
            along by least squares), or ``None``.
        decay: The decay of the average.
        num_particles: Draws per datum.
    """

    anneals = False
    average: Tensor
    started: Tensor

    def __init__(
        self, baseline: str | nn.Module | None = "decaying_average", decay: float = 0.9, num_particles: int = 1
    ) -> None:
        super().__init__()
        if isinstance(baseline, str) and baseline != "decaying_average":
            raise ValueError(f'baseline={baseline!r}: give "decaying_average", a network or None.')
        self.baseline, self.decay, self.num_particles = baseline, decay, positive(num_particles)
        self.register_buffer("average", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        losses = [self._particle(program, x, *context) for _ in range(self.num_particles)]
        return torch.stack(losses).mean()

    def _particle(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        scale = data_scale(x)
        with data_size(len(x)):
            model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
        require_proposals(guide_trace)
        latents = paired_latents(model_trace, guide_trace)
        local: Tensor = x.new_zeros(len(x))
        global_ = x.new_zeros(())
        for p, q in latents.values():
            if is_local(q):
                local = local + log_ratio_of(p, q, per_datum_log_prob)
            else:
                global_ = global_ + log_ratio_of(p, q, lambda site: site_log_prob(site).sum())
        for site in observed_sites(model_trace):
            if is_local(site):
                local = local + per_datum_log_prob(site)
            else:
                global_ = global_ + site_log_prob(site).sum()
        elbo = scale * local.sum() + global_
        for site in observed_sites(guide_trace):  # a loss of its own, see ELBO
            elbo = elbo - (scale if is_local(site) else 1.0) * site_log_prob(site).sum()

        baseline = self._baseline(x)  # () or (N,)
        surrogate = x.new_zeros(())
        for _, q in latents.values():
            if q["fn"].has_rsample:
                continue
            if is_local(q):
                surrogate = surrogate + scale * ((local - baseline).detach() * per_datum_log_prob(q)).sum()
            else:
                signal = elbo - scale * baseline.expand(len(x)).sum()
                surrogate = surrogate + signal.detach() * site_log_prob(q).sum()
        if isinstance(self.baseline, nn.Module):
            surrogate = surrogate - (local.detach() - baseline).square().sum()
        elif self.baseline is not None and self.training:
            self._update_average(local.detach().mean())
        return -(elbo + surrogate - surrogate.detach())

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
