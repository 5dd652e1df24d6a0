r"""Lower bounds of likelihoods by importance sampling from the guide.

With draws :math:`z_k \sim q(z | x)` of the guide and weights :math:`w_k = p(x, z_k) / q(z_k | x)`,

.. math::
    \mathbb{E} \log w_1 \le \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K w_k \le \log p(x) :

the evidence lower bound and the importance-weighted one, which rises with K.

References:
    | Importance Weighted Autoencoders (Burda et al., 2016)
    | https://arxiv.org/abs/1509.00519
"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import rows_of
from pyro_gen.density.support import check_observations
from pyro_gen.inference.likelihood.result import LogLikelihood, entries_seen
from pyro_gen.inference.likelihood.weights import effective_sample_size, log_mean_exp, psis_khat
from pyro_gen.inference.proposals import guide_draws
from pyro_gen.observation import no_completion
from pyro_gen.program import Program
from pyro_gen.traces import trace_side

__all__ = ["guide_bound"]


def guide_bound(
    program: Program,
    x: Tensor,
    context: tuple[Any, ...],
    method: str,
    num_particles: int,
    seed: int,
    progress: Callable[[float], None] | None,
) -> LogLikelihood:
    """Means over K draws of the guide, with ``method`` and the other arguments of :func:`pyro_gen.log_likelihood`.

    ``"elbo"`` is the mean of the log-weights, ``"iwae"`` the logarithm of the mean weight.

    Raises:
        ValueError: The guide does not propose the latent variables, or data are outside of their support.
    """
    if num_particles < 1:
        raise ValueError(f"log_likelihood(num_particles={num_particles}): give a positive number.")
    columns: dict[str, list[Tensor]] = {"value": [], "error": [], "ess": [], "khat": []}
    with seeded(seed):
        for draws in guide_draws(program, x, *context, num_particles=num_particles):
            _check_support(program, x[draws.rows], *rows_of(x, context, draws.rows))
            log_w = draws.log_weights
            if method == "elbo":
                value = log_w.mean(0)
                error = ((log_w - value).square().sum(0) / (num_particles * torch.tensor(num_particles - 1.0))).sqrt()
            else:
                value, error = log_mean_exp(log_w)
            columns["value"].append(value)
            columns["error"].append(error)  # 0 / 0 = NaN for one draw
            columns["ess"].append(effective_sample_size(log_w))
            columns["khat"].append(psis_khat(log_w))
            if progress is not None:
                progress(sum(map(len, columns["value"])) / len(x))
    value, error, ess, khat = (torch.cat(columns[name]).cpu() for name in ("value", "error", "ess", "khat"))
    diagnostics = {"ess": ess, "khat": khat, "num_particles": torch.tensor(num_particles)}
    return LogLikelihood(
        value, error, "stochastic lower bound", method, entries_seen(x), lower=value, diagnostics=diagnostics
    )


def _check_support(program: Program, *data: Any) -> None:
    """Raises where the data are outside of the support of their distributions, which log-densities do not tell."""

    def trace() -> Trace:
        with no_completion():
            found = trace_side(program, "model", *data)
        found.compute_log_prob()
        return found

    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        check_observations(trace(), trace)
