r"""Bounds made of several weighted particles for each datum.

With particles :math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`,

.. math::
    \text{IWAE}_K = \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k \Big], \qquad
    \text{Renyi}_\alpha = \tfrac{1}{1 - \alpha} \, \mathbb{E} \Big[ \log \tfrac{1}{K} \sum_k w_k^{1 - \alpha} \Big] .
"""

import math
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._internals import DROPOUT
from pyro_gen.inference.objectives.base import Objective, over_particles, positive, vmapped
from pyro_gen.inference.objectives.pairs import (
    log_ratio_of,
    observed_sites,
    paired_latents,
    require_no_own_loss,
    require_proposals,
    require_reparameterised,
    trace_model_with_missing,
    trace_pair_with_missing,
)
from pyro_gen.program import Program, data_scale, data_size, fixed
from pyro_gen.registry import objective
from pyro_gen.traces import is_local, per_datum_log_prob, sample_sites, trace_side

__all__ = ["IWAE", "DReG", "Renyi", "local_log_densities", "local_log_weight"]


@objective
class Renyi(Objective):
    r"""The Renyi (:math:`\alpha`) bound: the ELBO at :math:`\alpha \to 1`, IWAE at :math:`\alpha = 0`.

    In expectation it is a lower bound for :math:`\alpha \geq 0`; for :math:`\alpha < 0` the limit
    :math:`K \to \infty` is an upper bound.

    References:
        | Renyi Divergence Variational Inference (Li & Turner, 2016)
        | https://arxiv.org/abs/1602.02311

    Arguments:
        alpha: The order :math:`\alpha \neq 1`.
        num_particles: The number of particles :math:`K`.
    """

    def __init__(self, alpha: float, num_particles: int) -> None:
        super().__init__()
        if alpha == 1:
            raise ValueError("The Renyi bound of order 1 is the ELBO: use ELBO().")
        self.alpha, self.num_particles = alpha, positive(num_particles)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        def particle() -> Tensor:
            with data_size(len(x)):
                model_trace, guide_trace = trace_pair_with_missing(program, x, *context)
            if self.alpha != 0 or self.num_particles == 1:
                require_proposals(guide_trace)
            require_reparameterised(guide_trace)
            return _log_weight(model_trace, guide_trace, kl_weight)

        log_w = over_particles(particle, self.num_particles)  # (K, N)
        power = 1 - self.alpha
        bound = (torch.logsumexp(power * log_w, 0) - math.log(self.num_particles)) / power  # (N,)
        return -data_scale(x) * bound.sum()


@objective
class IWAE(Renyi):
    r"""The importance-weighted bound; it rises with :math:`K` to :math:`\log p(x)`.

    References:
        | Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016)
        | https://arxiv.org/abs/1509.00519

    Arguments:
        num_particles: The number of particles :math:`K`.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__(0.0, num_particles)


@objective
class DReG(Objective):
    r"""The IWAE bound with the doubly reparameterised gradient, whose guide signal does not vanish as K grows.

    With :math:`\tilde w_k = w_k / \sum_j w_j` the model's gradient is
    :math:`\sum_k \tilde w_k \nabla_\theta \log w_k` as in IWAE, the guide's
    :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \nabla_\phi z_k`.

    References:
        | Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2019)
        | https://arxiv.org/abs/1810.04152

    Arguments:
        num_particles: The number of particles :math:`K`.

    Raises:
        ValueError: The program has dropout at work: the guide that draws and the one that is scored would differ.
    """

    anneals = False

    def __init__(self, num_particles: int) -> None:
        super().__init__()
        self.num_particles = positive(num_particles)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        for name, layer in program.named_modules():
            if isinstance(layer, DROPOUT) and layer.training and layer.p > 0:
                raise ValueError(f"DReG runs the guide twice, and '{name}' drops other units each time: use IWAE.")
        frames: dict[str, int] = {}  # name -> dimension of the data in the site's value, counted from the right

        def draw() -> dict[str, Tensor]:
            _, guide_trace = trace_pair_with_missing(program, x, *context)
            require_proposals(guide_trace)
            require_reparameterised(guide_trace)
            sites = {n: s for n, s in sample_sites(guide_trace).items() if not s["is_observed"]}
            for name, site in sites.items():
                frame = next((f for f in site["cond_indep_stack"] if f.name == "data"), None)
                if frame is None:
                    raise _global_latent_error(name)
                frames[name] = frame.dim - site["fn"].event_dim
            return {n: s["value"] for n, s in sites.items()}

        def weigh(z: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            with data_size(len(x)), fixed(z):
                guide_trace = trace_side(program, "guide", x, *context)
                model_trace = trace_model_with_missing(program, guide_trace, x, *context)
            joint = [s for s in sample_sites(model_trace).values() if not s["infer"].get("_deterministic")]
            log_p = torch.stack([per_datum_log_prob(s) for s in joint]).sum(0)
            return _log_weight(model_trace, guide_trace, 1.0), log_p

        draws: dict[str, Tensor] = vmapped(draw, self.num_particles)
        z = {n: v.detach().requires_grad_() for n, v in draws.items()}
        log_w, log_p = vmapped(weigh, self.num_particles, z)  # (K, N) each
        slopes = torch.autograd.grad(  # of log w along the draws, the parameters being constants
            log_w.sum(), list(z.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        weights = torch.softmax(log_w, 0).detach()
        surrogate: Tensor = (weights * log_p).sum()
        for (name, value), slope in zip(draws.items(), slopes, strict=True):
            squared = _align(weights.square(), value.dim(), frames[name])
            surrogate = surrogate + (squared * slope.detach() * value).sum()
        bound = (torch.logsumexp(log_w, 0) - math.log(self.num_particles)).sum().detach()
        return -data_scale(x) * (surrogate - surrogate.detach() + bound)


def _align(weights: Tensor, dims: int, data_dim: int) -> Tensor:
    """Reshapes weights (K, N) to ``dims`` dimensions with the particles first and the data at ``data_dim``."""
    shape = [1] * dims
    shape[0], shape[data_dim] = weights.shape
    return weights.reshape(shape)


def _log_weight(model_trace: Trace, guide_trace: Trace, kl_weight: Tensor | float) -> Tensor:
    """Log w_n = log p(x_n | z_n) + kl_weight (log p(z_n) - log q(z_n | x_n)), with shape (N,)."""
    log_likelihood, log_ratio = local_log_weight(model_trace, guide_trace)
    return log_likelihood + kl_weight * log_ratio


def local_log_weight(model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor | float]:
    """The two parts of the log importance weight of each datum, for programs with local latent variables.

    Returns:
        log p(x_n | z_n) and log p(z_n) - log q(z_n | x_n), each with shape :math:`(N,)`, in nats.

    Raises:
        ValueError: The program has a global latent variable, whose weight does not split over the data, or its guide a
            loss of its own.
    """
    log_ratio: Tensor | float = 0.0
    for p, q in _local_latents(model_trace, guide_trace):
        log_ratio = log_ratio + log_ratio_of(p, q, per_datum_log_prob)
    log_likelihood = torch.stack([per_datum_log_prob(s) for s in observed_sites(model_trace)]).sum(0)
    return log_likelihood, log_ratio


def local_log_densities(model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
    """The densities of each datum, for programs with local latent variables.

    Missing entries of which the model draws itself have no gradient in the guide's.

    Returns:
        log p(x_n, z_n) and log q(z_n | x_n), each with shape :math:`(N,)`, in nats.

    Raises:
        ValueError: The program has a global latent variable, whose density does not split over the data, or its guide
            a loss of its own.
    """
    log_p = torch.stack([per_datum_log_prob(s) for s in observed_sites(model_trace)]).sum(0)
    log_q = torch.zeros_like(log_p)
    for p, q in _local_latents(model_trace, guide_trace):
        log_p = log_p if p is None else log_p + per_datum_log_prob(p)
        of_guide = per_datum_log_prob(q)
        log_q = log_q + (of_guide.detach() if q["infer"].get("from_model") else of_guide)
    return log_p, log_q


def _local_latents(model_trace: Trace, guide_trace: Trace) -> list[tuple[Any | None, Any]]:
    require_no_own_loss(guide_trace)
    pairs = paired_latents(model_trace, guide_trace)
    for name, (_, q) in pairs.items():
        if not is_local(q):
            raise _global_latent_error(name)
    return list(pairs.values())


def _global_latent_error(name: str) -> ValueError:
    return ValueError(
        f"Site '{name}' is global (outside the data plate): a bound of several particles per datum needs local latent "
        "variables only. Use ELBO for training."
    )
