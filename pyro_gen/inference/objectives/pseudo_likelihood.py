r"""The pseudo-likelihood of discrete data: the normalising constant of one entry given all others is a sum of K terms.

.. math::
    \ell = \sum_d \log p(x_d \mid x_{-d}), \qquad
    p(x_d = v_k \mid x_{-d}) = \frac{\tilde{p}(x_d = v_k, x_{-d})}{\sum_l \tilde{p}(x_d = v_l, x_{-d})} .

Its maximum is a consistent estimate, and where the entries are independent it is that of the likelihood.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_gen.density.energy import entries_of, unnormalised_log_prob
from pyro_gen.density.inputs import rows_of
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["PseudoLikelihood"]


@objective
class PseudoLikelihood(Objective):
    """The negative pseudo-log-likelihood, for data whose entries take a few values each, in nats.

    A step evaluates the model at :math:`1 + D K` data for each one of D entries with K values.

    References:
        | Statistical Analysis of Non-Lattice Data (Besag, 1975)
        | https://doi.org/10.2307/2987782
    """

    anneals = False
    serves_missing = False
    kinds = ("exact", "unnormalised")

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        values = entries_of(program, x, *context).values
        if values is None:
            raise ValueError(
                "PseudoLikelihood is for data whose entries take a few values, the same ones each, and the base of "
                f"{type(program).__name__} does not say which: use ScoreMatching, or ContrastiveDivergence."
            )
        flat = x.flatten(1)  # (N, D)
        n, dim = flat.shape
        own = torch.eye(dim, dtype=torch.bool, device=x.device)[:, None, None]  # (D, 1, 1, D)
        candidates = torch.where(own, values[:, None, None], flat)  # (D, K, N, D)
        index = torch.arange(n, device=x.device).repeat(1 + dim * len(values))
        everything = torch.cat([flat, candidates.reshape(-1, dim)]).reshape(-1, *x.shape[1:])
        log_p = unnormalised_log_prob(program, everything, *rows_of(x, context, index))
        log_sums = log_p[n:].reshape(dim, len(values), n).logsumexp(1)  # (D, N)
        return data_scale(x) * (log_sums - log_p[:n]).sum()
