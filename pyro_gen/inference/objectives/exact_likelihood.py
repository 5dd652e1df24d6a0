r"""The likelihood itself, of unnormalised programs that know their sums (:meth:`pyro_gen.program.Program.log_sum`).

With :math:`\log \tilde{p}(x) = \log p_0(x) - E(x)` and x in a seen and a missing part,

.. math:: \log p(x_o) = \log \sum_{x_m} \tilde{p}(x_o, x_m) - \log Z ,

both sums exact and differentiable: for small models, or those whose graph is narrow, in the place of contrastive
divergence and pseudo-likelihood.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyro_gen.density.energy import unnormalised_log_prob
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.observation import may_be_missing
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["ExactLikelihood"]


@objective
class ExactLikelihood(Objective):
    """The negative log-likelihood of an unnormalised program that knows its normalising constant, in nats.

    A constant costs one sum a step; with a context, one for each row.
    """

    anneals = False
    kinds = ("unnormalised",)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        nothing = torch.full_like(x if context else x[:1], math.nan)
        log_z = program.log_sum(nothing, *context)
        seen = program.log_sum(x, *context) if may_be_missing(x) else unnormalised_log_prob(program, x, *context)
        if log_z is None or seen is None:
            raise ValueError(
                f"ExactLikelihood is for programs that know their sum over all data, and this {type(program).__name__} "
                "does not, or it is too large: use ContrastiveDivergence, or PseudoLikelihood for discrete data."
            )
        return data_scale(x) * (log_z.expand(len(x)) - seen).sum()
