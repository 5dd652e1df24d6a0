r"""Draws of a program compared with data without a critic: by a kernel, or by the transport of one to the other.

The maximum mean discrepancy

.. math:: \text{MMD}^2(p, q) = \mathbb{E} \, k(x, x') + \mathbb{E} \, k(y, y') - 2 \, \mathbb{E} \, k(x, y),
    \qquad x, x' \sim p, \quad y, y' \sim q ,

is zero for :math:`p = q` alone, if the kernel is characteristic. It needs no density of :math:`q`, only draws: one
player, no critic. With :math:`k(x, y) = - \lVert x - y \rVert` it is the energy distance.

Transport with entropy, and the Sinkhorn divergence that is zero for :math:`p = q` alone,

.. math::
    \text{OT}_\epsilon(p, q) = \min_{\pi \in \Pi(p, q)} \mathbb{E}_\pi \, \tfrac12 \lVert x - y \rVert^2
    + \epsilon \, \text{KL}(\pi \Vert p \otimes q) , \qquad
    S_\epsilon(p, q) = \text{OT}_\epsilon(p, q) - \frac{\text{OT}_\epsilon(p, p) + \text{OT}_\epsilon(q, q)}{2} ,

go from half of the squared Wasserstein distance, :math:`\epsilon \to 0`, to that of the means, :math:`\epsilon \to
\infty`.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | https://jmlr.org/papers/v13/gretton12a.html
    | Generative Moment Matching Networks (Li, Swersky & Zemel, 2015)
    | https://arxiv.org/abs/1502.02761
    | Energy statistics: A class of statistics based on distances (Szekely & Rizzo, 2013), the energy distance
    | https://doi.org/10.1016/j.jspi.2013.03.018
    | Interpolating between Optimal Transport and MMD using Sinkhorn Divergences (Feydy et al., 2019)
    | https://arxiv.org/abs/1810.08278
    | Learning Generative Models with Sinkhorn Divergences (Genevay, Peyre & Cuturi, 2018)
    | https://arxiv.org/abs/1706.00292
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen.inference.objectives.base import Objective
from pyro_gen.inference.objectives.generation import features, generate, rehearse
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["MMD", "Sinkhorn", "check_kernel", "sinkhorn_divergence", "squared_mmd"]

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


@objective
class Sinkhorn(Objective):
    r"""The Sinkhorn divergence between a minibatch of data and as many draws of the program.

    It is of the two empirical laws: of :math:`n` rows against :math:`n` others of the same law it is positive, the more
    the smaller :math:`\epsilon` and the more dimensions there are, so that minibatches are to be large. Its gradient
    moves each draw towards the data that are carried to it.

    Where the program conditions on context, data and draws are compared together with it.

    Arguments:
        epsilon: The weight :math:`\epsilon` of the entropy, in squared units of the data; by default a hundredth of the
            mean squared distance between rows of the data.
        iterations: Iterations of the potentials, each of which goes half of the way.

    Raises:
        ValueError: One of the two is not positive.
    """

    anneals = False
    serves_missing = False
    kinds = ("exact", "bound", "implicit")
    epsilon: Tensor | None

    def __init__(self, epsilon: float | None = None, iterations: int = 50) -> None:
        super().__init__()
        if (epsilon is not None and not epsilon > 0) or iterations < 1:
            raise ValueError(f"Sinkhorn(epsilon={epsilon}, iterations={iterations}): both are positive.")
        self.iterations = iterations
        self.register_buffer("epsilon", None if epsilon is None else torch.tensor(epsilon, dtype=torch.float64))

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Takes the weight of the entropy from the data, where none is given."""
        rehearse(program, x, *context)
        if self.epsilon is None:
            spread = 2 * features(x, *context).double().var(0).sum()  # the mean squared distance of two rows
            if not spread > 0:
                raise ValueError("Sinkhorn: all rows of the data are alike, so no epsilon follows: give epsilon=.")
            self.epsilon = 0.01 * spread

    def loss(self, program: Program, x: Tensor, *context: Any, **options: Any) -> Tensor:
        if self.epsilon is None:
            raise ValueError("Sinkhorn: give epsilon=, or call prepare(program, x) first, as pg.fit does.")
        drawn = features(generate(program, x, *context), *context)
        found = sinkhorn_divergence(features(x, *context), drawn, self.epsilon, self.iterations)
        return data_scale(x) * len(x) * found


def sinkhorn_divergence(x: Tensor, y: Tensor, epsilon: Tensor | float, iterations: int = 50) -> Tensor:
    r"""The Sinkhorn divergence :math:`S_\epsilon` between the empirical laws of two sets of points.

    Arguments:
        x: Points with shape :math:`(n, D)`.
        y: Others, with shape :math:`(m, D)`.
        epsilon: The weight of the entropy, in squared units of the points.
        iterations: Iterations of the potentials.

    Returns:
        A scalar. Its gradient is that at the potentials that were reached.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> round(sinkhorn_divergence(x, x + 3, epsilon=0.01).item(), 4)  # each point goes 3: half of the square
        4.5
    """
    alone = _transport(x, x, epsilon, iterations) + _transport(y, y, epsilon, iterations)
    return _transport(x, y, epsilon, iterations) - alone / 2


def _transport(x: Tensor, y: Tensor, epsilon: Tensor | float, iterations: int) -> Tensor:
    r"""The cost of transport with entropy by its semi-dual, a lower bound at any potential g of y:

    .. math::
        \max_g \; \mathbb{E}_x \, f(x) + \mathbb{E}_y \, g(y) , \qquad
        f(x) = -\epsilon \log \mathbb{E}_y \exp \big( (g(y) - \tfrac12 \lVert x - y \rVert^2) / \epsilon \big) .

    At the maximum the gradient for the points goes through the cost alone, so the potentials are constants to it.
    """
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / 2  # (n, m)

    def softmin(c: Tensor, potential: Tensor, e: Tensor) -> Tensor:
        return -e * (torch.logsumexp((potential - c) / e, 1) - math.log(c.shape[1]))

    last = torch.as_tensor(epsilon).to(cost)
    with torch.no_grad():
        f, g, e = cost.new_zeros(len(x)), cost.new_zeros(len(y)), cost.max()
        for _ in range(iterations):  # both at once and half of the way, which treats x and y alike
            e = torch.maximum(e / 2, last)
            f, g = (f + softmin(cost, g, e)) / 2, (g + softmin(cost.T, f, e)) / 2
        g = softmin(cost.T, f, last)
    return softmin(cost, g, last).mean() + g.mean()
