r"""Games of translation: what is translated looks like the other domain, and translated again it is what it was.

With a program :math:`T` that draws, given :math:`c = (a, b)`, the pair :math:`T(c)` of its translations, of b to A and
of a to B, the loss of the program has the term

.. math:: \lambda \, \mathbb{E} \, \frac{1}{D} \lVert T(T(c)) - c \rVert_1 .

Rows :math:`(a, b)` are of independent data, so that the log-ratio that a critic is after is a sum of one for each
domain: it is :math:`D(x) = D_A(x_1) + D_B(x_2)`, two networks.

References:
    | Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al., 2017)
    | https://arxiv.org/abs/1703.10593
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_gen.inference.objectives.adversarial import Adversarial
from pyro_gen.inference.objectives.critics import Critic
from pyro_gen.inference.objectives.generation import generate
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["CycleConsistent"]


class CriticOfDomains(nn.Module):
    """The sum of a critic for each of the domains that stand side by side in a row (N, M, *)."""

    def __init__(self, critics: Sequence[nn.Module]) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)

    def forward(self, x: Tensor) -> Tensor:
        """The scores, with shape (N, 1)."""
        return torch.stack([critic(x[:, i]) for i, critic in enumerate(self.critics)]).sum(0)


@objective
class CycleConsistent(Adversarial):
    r"""The game of a program that translates its context, a tensor of the shape of the data.

    Arguments:
        cycle: The weight :math:`\lambda` of the way there and back.
        options: Of :class:`Adversarial`. A critic of one's own sees rows of data, and no context.

    Raises:
        ValueError: The weight is negative; or the context is not one tensor of the shape of the data.
    """

    def __init__(self, cycle: float = 10.0, **options: Any) -> None:
        super().__init__(**options)
        if cycle < 0:
            raise ValueError(f"CycleConsistent(cycle={cycle}): weights are 0 or more.")
        self.cycle = cycle

    def loss(self, program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        given = _translated(x, context)
        there = generate(program, x, given)
        back = generate(program, x, there)
        scores = self._of_program(self._scores(there))
        return data_scale(x) * (scores + self.cycle * (back - given).abs().flatten(1).mean(1)).sum()

    def _made(self, x: Tensor, *context: Any) -> nn.Module:
        _translated(x, context)
        one = [Critic(x[:, i], hidden=self.hidden, channels=self.channels) for i in range(x.shape[1])]
        return CriticOfDomains(one)

    def _scores(self, x: Tensor, *context: Any) -> Tensor:
        return super()._scores(x)


def _translated(x: Tensor, context: tuple[Any, ...]) -> Tensor:
    if len(context) != 1 or not isinstance(context[0], Tensor) or context[0].shape != x.shape:
        raise ValueError(
            "CycleConsistent is for a program whose context is what it translates, one tensor of the shape of the data "
            f"{tuple(x.shape)}: give (x, x)."
        )
    return context[0]
