r"""Noise-contrastive estimation: an energy and its normalising constant are fitted by telling data from noise.

With :math:`\nu` draws of a known density :math:`p_n` for each datum, the log-odds that x is a datum are

.. math:: h(x) = \log \tilde{p}(x) - \log Z - \log p_n(x) - \log \nu, \qquad \log \tilde{p}(x) = \log p_0(x) - E(x),

and the loss is that of logistic regression,

.. math::
    \mathbb{E}_x \big[ \log(1 + e^{-h(x)}) \big] + \nu \, \mathbb{E}_{y \sim p_n} \big[ \log(1 + e^{h(y)}) \big] .

:math:`\log Z` is estimated along with all else, as a parameter like any other: it belongs to the program.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_gen.density.energy import sample_base, unnormalised_terms
from pyro_gen.density.inputs import rows_of
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["NoiseContrastive"]


@objective
class NoiseContrastive(Objective):
    r"""The loss of telling data from noise, by the density ratio of model and noise.

    The program has a parameter ``log_partition``, a scalar, which becomes the estimate of :math:`\log Z`. The noise
    must be where the data are; it teaches most where it is hard to tell from them. The estimate is consistent for any
    :math:`\nu`, and that of maximum likelihood for many draws.

    References:
        | Noise-contrastive estimation: A new estimation principle for unnormalized statistical models (Gutmann &
          Hyvärinen, 2010)
        | https://proceedings.mlr.press/v9/gutmann10a.html

    Arguments:
        noise: A program of the data without latent variables and factors, fitted to them say; it is copied and not
            trained. By default the noise is the base distribution of the program, as it is at each step.
        ratio: The number :math:`\nu` of noise draws for each datum.

    Raises:
        ValueError: The ratio is not positive.
    """

    anneals = False
    serves_missing = False
    kinds = ("unnormalised",)

    def __init__(self, noise: Program | None = None, ratio: int = 1) -> None:
        super().__init__()
        if not isinstance(ratio, int) or ratio < 1:
            raise ValueError(f"ratio={ratio!r}: give a whole number of noise draws for each datum, at least one.")
        self.noise = None if noise is None else copy.deepcopy(noise).requires_grad_(False).eval()
        self.ratio = ratio

    def train(self, mode: bool = True) -> "NoiseContrastive":
        super().train(mode)
        if self.noise is not None:
            self.noise.eval()
        return self

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        log_partition = getattr(program, "log_partition", None)
        if not isinstance(log_partition, Tensor) or log_partition.dim():
            raise ValueError(
                f"NoiseContrastive estimates log Z along with the parameters of {type(program).__name__}, which has no "
                "place for it: set self.log_partition = torch.nn.Parameter(torch.zeros(())) in its __init__."
            )
        index = torch.arange(len(x), device=x.device).repeat(self.ratio)
        nothing = torch.full_like(x, torch.nan)[index]
        drawn = sample_base(program if self.noise is None else self.noise, nothing, *rows_of(x, context, index))
        both = torch.cat([x, drawn])  # ((1 + ratio) N, *)
        given = rows_of(x, context, torch.cat([torch.arange(len(x), device=x.device), index]))
        base, factor = unnormalised_terms(program, both, *given)
        log_noise = base.detach() if self.noise is None else unnormalised_terms(self.noise, both, *given).base
        log_odds = base - log_noise + factor - log_partition - math.log(self.ratio)
        data, noise = log_odds[: len(x)], log_odds[len(x) :]
        return data_scale(x) * (F.softplus(-data).sum() + F.softplus(noise).sum())
