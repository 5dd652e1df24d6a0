r"""Maximum mean discrepancy: draws of a program compared with data by a kernel.

.. math:: \text{MMD}^2(p, q) = \mathbb{E} \, k(x, x') + \mathbb{E} \, k(y, y') - 2 \, \mathbb{E} \, k(x, y),
    \qquad x, x' \sim p, \quad y, y' \sim q ,

is zero for :math:`p = q` alone, if the kernel is characteristic. It needs no density of :math:`q`, only draws: one
player, no critic. With :math:`k(x, y) = - \lVert x - y \rVert` it is the energy distance.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | https://jmlr.org/papers/v13/gretton12a.html
    | Generative Moment Matching Networks (Li, Swersky & Zemel, 2015)
    | https://arxiv.org/abs/1502.02761
    | Energy statistics: A class of statistics based on distances (Szekely & Rizzo, 2013), the energy distance
    | https://doi.org/10.1016/j.jspi.2013.03.018
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen.inference.objectives.base import Objective
from pyro_gen.inference.objectives.generation import features, generate, rehearse
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["MMD", "check_kernel", "squared_mmd"]

MEDIAN_OF = 512  # rows, for the widths


@objective
class MMD(Objective):
    r"""The squared maximum mean discrepancy between data and draws of the program, one for each row of a minibatch.

    With pairs :math:`(x_i, y_i)` of datum and draw it is the U-statistic

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i) ,

    which is unbiased, and so is its gradient. (The average over all pairs rewards draws that are too close together.)
    Where the program conditions on context, data and draws are compared together with it.

    Arguments:
        widths: The widths :math:`w` of the kernel, in units of the data; it is the mean over them of
            :math:`\exp(-\lVert x - y \rVert^2 / 2 w^2)`. By default 1/4, 1/2, 1, 2 and 4 times the median distance
            between rows of the data.
        kernel: ``"gaussian"``; ``"rational_quadratic"``, :math:`1 / (1 + \lVert x - y \rVert^2 / 2 w^2)`, with heavier
            tails; or ``"energy"``, which has no widths.

    Raises:
        ValueError: There is no kernel of that name, or a width is not positive.
    """

    anneals = False
    serves_missing = False
    kinds = ("exact", "bound", "implicit")
    widths: Tensor | None

    def __init__(self, widths: Sequence[float] | None = None, kernel: str = "gaussian") -> None:
        super().__init__()
        check_kernel("MMD", kernel, widths)
        self.kernel = kernel
        self.register_buffer("widths", None if widths is None else torch.tensor(widths, dtype=torch.float64))

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Takes the widths from the data, where none are given."""
        if len(x) < 2:
            raise ValueError("MMD compares pairs, so it needs at least two rows of data.")
        rehearse(program, x, *context)
        if self.widths is None and self.kernel != "energy":
            median = torch.nn.functional.pdist(features(x, *context)[:MEDIAN_OF].double()).median()
            if not median > 0:
                raise ValueError("MMD: half of the rows of the data are alike, so no width follows: give widths=.")
            self.widths = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64, device=x.device) * median

    def loss(self, program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        if self.widths is None and self.kernel != "energy":
            raise ValueError("MMD: give widths=, or call prepare(program, x) first, as pg.fit does.")
        drawn = features(generate(program, x, *context), *context)
        pairs = squared_mmd(features(x, *context), drawn, self.kernel, self.widths)
        return data_scale(x) * len(x) * pairs


def check_kernel(who: str, kernel: str, widths: Sequence[float] | None) -> None:
    """Refuses a kernel that there is not, or widths that are none, in the name of who was given them."""
    if kernel not in ("gaussian", "rational_quadratic", "energy"):
        raise ValueError(f'{who}(kernel={kernel!r}): choose "gaussian", "rational_quadratic" or "energy".')
    if widths is not None and (kernel == "energy" or not widths or min(widths) <= 0):
        raise ValueError(f"{who}(widths={widths!r}): give positive widths, and none for the energy distance.")


def squared_mmd(x: Tensor, y: Tensor, kernel: str, widths: Tensor | Sequence[float] | None) -> Tensor:
    r"""The U-statistic of pairs of rows, which is unbiased.

    Arguments:
        x: Draws with shape :math:`(n, D)`.
        y: As many others.
        kernel: As of :class:`MMD`.
        widths: Those of the kernel, none for the energy distance.

    Example:
        >>> squared_mmd(torch.zeros(2, 1), torch.ones(2, 1), "energy", None)  # 2 E |x - y|, and no spread
        tensor(2.)
    """
    n, both = len(x), torch.cat([x, y])
    distance = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    if kernel == "energy":
        k = -distance
    else:
        scaled = distance.square() / (2 * torch.as_tensor(widths).to(distance).square()).reshape(-1, 1, 1)
        k = ((-scaled).exp() if kernel == "gaussian" else 1 / (1 + scaled)).mean(0)
    k = k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n]
    return (k.sum() - k.diagonal().sum()) / (n * max(n - 1, 1))  # a row that is left over alone has no pairs
