r"""The residual flow: layers of any form, as long as what they add contracts.

.. math::
    u = x + g(x), \quad \operatorname{Lip}(g) \le c < 1, \qquad
    \log \left| \det \frac{\partial u}{\partial x} \right| = \operatorname{tr} \log (I + J_g)
    = \sum_{k=1}^\infty \frac{(-1)^{k+1}}{k} \operatorname{tr} J_g^k .

Such a layer has an inverse, the limit of :math:`x \leftarrow u - g(x)`, whose error falls by the factor c in each step
(Banach). g is a network whose weights are divided by a bound of their spectral norms
(:mod:`pyro_gen.models.flows.parts.lipschitz`).

**The log-determinant** of up to 128 entries is exact in evaluation, from the Jacobian. In training, and of more
entries, it is an unbiased estimate: the trace by one random vector v of signs (Hutchinson, 1990), the series cut at a
random place (Russian roulette),

.. math::
    \mathbb{E}_{n, v} \left[ \sum_{k=1}^{n} \frac{(-1)^{k+1}}{k} \, \frac{v^\top J_g^k v}{P(N \ge k)} \right],
    \qquad N = 2 + \operatorname{Geometric}(1/2) \ge 3 .

The weights :math:`1 / P` grow as :math:`2^k`, and the squares of the terms fall as :math:`c^{2k} / k^2`: where layers
contract by less than :math:`1 / \sqrt 2` the variance is finite. (That is J at the data, not the bound c of it.)

References:
    | Residual Flows for Invertible Generative Modeling (Chen et al., 2019)
    | https://arxiv.org/abs/1906.02735
    | Invertible Residual Networks (Behrmann et al., 2019)
    | https://arxiv.org/abs/1811.00995
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_gen._internals import is_transformed
from pyro_gen._sizes import check_sizes, check_widths, event_of
from pyro_gen.data.small import normal_rows
from pyro_gen.distributions.flows import Bijection
from pyro_gen.models.flows.parts.lipschitz import Contraction, jacobian, transposed_product
from pyro_gen.models.flows.parts.program import FlowProgram
from pyro_gen.registry import model

__all__ = ["ResidualFlow", "Roulette"]

EXACT = 128  # entries up to which log-determinants are exact in evaluation
SURE = 2  # terms of the series that are there besides the random number of them, 1 or more
STEPS, TOLERANCE = 200, 1e-7  # of the fixed-point iteration


class Roulette(nn.Dropout):
    r"""An unbiased estimate of :math:`\log |\det (I + J_g)|`, by the global generator.

    To what asks which modules draw in training it is a Dropout: of ones, p = 1/2 leaves 0 or 2, a sign and one.
    """

    def __init__(self) -> None:
        super().__init__(0.5)

    def forward(self, weights: list[Tensor], slopes: list[Tensor]) -> Tensor:  # type: ignore[override]
        r"""Estimates it for a network of these weights and slopes of activations, :math:`(N, H_i)`, of N rows."""
        n = SURE + int(torch.empty(()).geometric_(0.5))
        ones = slopes[0].new_ones(*slopes[0].shape[:-1], weights[0].shape[1])
        power = v = F.dropout(ones, 0.5) - 1
        total = ones.new_zeros(())
        for k in range(1, n + 1):
            power = transposed_product(weights, slopes, power)
            total = total + (-1) ** (k + 1) / k * 2.0 ** max(0, k - SURE - 1) * (power * v).sum(-1)
        return total


class _Residual(Bijection):
    """Layers u = x + g(x) with rescaling before each, from data to noise."""

    def __init__(self, dim: int, layers: int, hidden: Sequence[int], features: int, constant: float) -> None:
        super().__init__()
        self.event_shape, self.features = torch.Size((dim,)), features
        self.roulette = Roulette()
        self.networks = nn.ModuleList(Contraction(dim, hidden, features, constant) for _ in range(layers))
        self.loc = nn.Parameter(torch.zeros(layers + 1, dim))
        self.log_scale = nn.Parameter(torch.zeros(layers + 1, dim))

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_det = self.log_scale.sum()
        for i, network in enumerate(self.networks):
            x = x * self.log_scale[i].exp() + self.loc[i]
            weights = network.weights()  # type: ignore[operator]
            g, slopes = network(x, h, weights)
            x = x + g
            if self.training or self.event_shape[0] > EXACT:
                log_det = log_det + self.roulette(weights, slopes)
            else:
                eye = torch.eye(x.shape[-1]).to(x)
                log_det = log_det + torch.linalg.slogdet(eye + jacobian(weights, slopes))[1]
        return x * self.log_scale[-1].exp() + self.loc[-1], -log_det

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = (u - self.loc[-1]) * (-self.log_scale[-1]).exp()
        networks: list[Any] = list(self.networks)
        for i in reversed(range(len(networks))):
            x = (_fixed_point(networks[i], x, h) - self.loc[i]) * (-self.log_scale[i]).exp()
        return x, self.inverse(x, h)[1]


def _fixed_point(network: Contraction, u: Tensor, h: Tensor | None) -> Tensor:
    """The x at which x + g(x) = u."""
    x, weights = u, network.weights()
    for _ in range(STEPS):
        before, x = x, u - network(x, h, weights)[0]
        # Under vmap nothing may depend on values: all steps are made.
        if not is_transformed(x) and bool(((x - before).abs() <= TOLERANCE * (1 + x.abs())).all()):
            break
    return x


@model(
    "residual flow",
    paper="Chen et al. (2019)",
    small={
        "": lambda: (ResidualFlow(3, 2, (8,)), normal_rows(9, 3)),
        "context": lambda: (ResidualFlow(2, 2, (8, 8), context=2), normal_rows(9, 2), normal_rows(9, 2)),
    },
)
class ResidualFlow(FlowProgram):
    r"""Creates a residual flow.

    Arguments:
        event_shape: The shape of one datum, or the number of its entries.
        layers: The number of layers.
        hidden: Units in each hidden layer of the networks.
        constant: The Lipschitz constant c < 1 of what a layer adds.
        context: The number of entries of what the density is conditional on.
        marginals: What the layer next to the data gives each entry, ``"normal"`` or ``"spline"``, see
            :class:`~pyro_gen.models.flows.parts.program.FlowProgram`.

    Raises:
        ValueError: The constant is not between 0 and 1, there is no hidden layer, or sizes are out of range.

    Example:
        >>> ResidualFlow(3, layers=2).model(torch.full((5, 3), torch.nan)).shape  # five draws
        torch.Size([5, 3])
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        constant: float = 0.9,
        context: int = 0,
        marginals: str = "normal",
    ) -> None:
        check_widths(self, hidden=hidden)
        if not 0 < constant < 1 or not hidden:
            raise ValueError(
                f"ResidualFlow(constant={constant}, hidden={tuple(hidden)}): give a constant between 0 and 1, which "
                "makes the layers invertible, and at least one hidden layer."
            )
        dim = event_of(self, event_shape).numel()
        check_sizes(self, layers=layers)
        check_sizes(self, 0, context=context)
        super().__init__(event_shape, _Residual(dim, layers, hidden, context, constant), marginals)
