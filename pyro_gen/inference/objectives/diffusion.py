r"""The bound of a long chain by one random step of each datum.

.. math::
    -\log p(x) \le \mathrm{KL}\big(q(z_T \mid x) \,\|\, p(z_T)\big) - \mathbb{E} \log p(x \mid z_0)
    + \sum_{i=1}^T \mathbb{E} \, \mathrm{KL}\big(q(z_{i-1} \mid z_i, x) \,\|\, p(z_{i-1} \mid z_i)\big)

A term of the sum needs only :math:`z_i \sim q(z_i \mid x)`. So T times the term of a step drawn at random has the sum
for its mean. The times of the data in a minibatch are spread evenly over the chain, which takes most of the variance
out; each by itself is uniform.

References:
    | Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel, 2020)
    | https://arxiv.org/abs/2006.11239
    | Variational Diffusion Models (Kingma, Salimans, Poole & Ho, 2021), times that are spread
    | https://arxiv.org/abs/2107.00630
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen.inference.objectives.base import Objective, Player
from pyro_gen.noising import NoisingChain
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["DiffusionELBO", "require_chain"]

WEIGHTINGS = ("bound", "simple")
ROWS_OF_SCHEDULE = 16  # of a minibatch, by which a schedule is moved


def require_chain(program: Program, what: str) -> NoisingChain:
    """A program as the chain that it is.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(program, NoisingChain):
        raise ValueError(f"{what} is for chains of noise such as DDPM, and {type(program).__name__} is none: use ELBO.")
    return program


@objective
class DiffusionELBO(Objective):
    """The negative bound of a :class:`~pyro_gen.noising.NoisingChain`, in nats, by one random step a datum.

    Arguments:
        weighting: ``"bound"``, or ``"simple"`` for the losses of all steps alike, without their weights in the bound
            and without what is not a step, of chains whose schedule is not learned: without weights all noise would be
            the easiest. In evaluation mode the loss is the bound.

    Raises:
        ValueError: There is no such weighting.
    """

    anneals = False
    serves_missing = False
    kinds = ("bound",)

    def __init__(self, weighting: str = "bound") -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"DiffusionELBO(weighting={weighting!r}): choose one of {', '.join(WEIGHTINGS)}.")
        self.weighting = weighting

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        chain = require_chain(program, "DiffusionELBO")
        loss, weight = chain.step(x, _spread_times(chain, x), *context)
        if self.weighting == "simple" and self.training:
            return data_scale(x) * loss.sum()
        return data_scale(x) * (weight * loss + chain.ends(x, *context)).sum()

    def players(self, program: Program) -> Sequence[Player]:
        """One that moves the network, and one that moves what there is of a schedule to make the variance small.

        Raises:
            ValueError: The weighting is the simple one, and the schedule is learned.
        """
        (first,) = super().players(program)
        chain = require_chain(program, "DiffusionELBO")
        schedule = getattr(chain, "schedule", None)
        learned = isinstance(schedule, nn.Module) and any(p.requires_grad for p in schedule.parameters())
        if learned and self.weighting == "simple":
            raise ValueError(
                'DiffusionELBO("simple") does not say what a learned schedule is to be: give the chain '
                'schedule="cosine" or "linear", or train by the bound, DiffusionELBO().'
            )
        moved = [p for p in chain.variance_parameters() if p.requires_grad]
        if not moved:
            return (first,)
        others = tuple(p for p in first.parameters if all(p is not m for m in moved))
        return (replace(first, parameters=others), Player("schedule", moved, self.second_moment))

    def second_moment(self, program: Program, x: Tensor, *context: Any) -> Tensor:
        """The mean square of the steps' terms, per entry of a datum, over a few rows of a minibatch.

        Their mean does not depend on the schedule, so that this is their variance up to a constant.
        """
        chain, few = require_chain(program, "DiffusionELBO"), slice(ROWS_OF_SCHEDULE)
        loss, weight = chain.step(x[few], _spread_times(chain, x[few]), *(c[few] for c in context))
        return data_scale(x) * len(x) * (weight * loss / x[0].numel()).square().mean()


def _spread_times(chain: NoisingChain, x: Tensor) -> Tensor:
    like = next(p for p in chain.parameters() if p.is_floating_point())
    spread = torch.arange(len(x), dtype=like.dtype, device=x.device) / len(x)
    return (torch.rand((), dtype=like.dtype, device=x.device) + spread) % 1
