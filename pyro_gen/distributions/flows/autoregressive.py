r"""Autoregressive and coupling layers: cheap to draw from, with the log-density of what is drawn.

A flow on :math:`\mathbb{R}^D` maps standard normal noise :math:`u` to :math:`z = T(u)` by layers, each autoregressive
in its input,

.. math::
    v_i = e^{a_i} \, S_i(u_i) + m_i, \quad (a_i, m_i, S_i) \text{ functions of } u_{<i} \text{ and of a context } h, \\
    \log q(z) = \log \mathcal{N}(u; 0, I) - \sum_i \big( a_i + \log S_i'(u_i) \big) ,

with :math:`S_i` the identity or a monotone rational-quadratic spline. Given a context, the first layer begins from
:math:`\mu(h) + \sigma(h) \, u`, a draw of the normal distribution that a guide without a flow has (Kingma et al.,
2016). Drawing takes one pass, which is what variational inference needs; the density of a value that the flow did not
draw takes as many passes as there are groups of dimensions that depend on each other: D of them, or two for coupling
layers. An :class:`~pyro_gen.distributions.flows.Inverse` has it the other way round.

References:
    | Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
    | https://arxiv.org/abs/1606.04934
    | Neural Spline Flows (Durkan et al., 2019)
    | https://arxiv.org/abs/1906.04032
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
    | Density Estimation Using Real NVP (Dinh et al., 2017)
    | https://arxiv.org/abs/1605.08803
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_gen.distributions.flows.bijection import Bijection
from pyro_gen.distributions.monotone_spline import RationalQuadratic
from pyro_gen.nets import MaskedLinear

__all__ = ["KINDS", "Transport", "check_options", "spline"]

KINDS = ("affine", "spline", "affine-coupling", "coupling")
# Splines act on [-BOUND, BOUND], which holds nearly all standard normal noise, and are the identity outside.
BOUND = 5.0
MIN_BIN, MIN_SLOPE = 1e-3, 1e-3
MAX_LOG_SCALE = 7.0  # per layer: a wild step of the optimiser must not overflow


def spline(x: Tensor, parameters: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    r"""The monotone rational-quadratic spline of Durkan et al. (2019) on [-5, 5], the identity outside.

    Arguments:
        x: Points, with shape :math:`(*)`.
        parameters: Unconstrained widths (K), heights (K) and slopes (K - 1), with shape :math:`(*, 3 K - 1)`; zeros are
            the identity.
        inverse: Whether to apply the inverse.

    Returns:
        The images, and the logarithm of the derivative of the applied map, each with the shape of ``x``.

    Example:
        >>> x = torch.linspace(-6, 6, 7)
        >>> parameters = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
        >>> y, log_slope = spline(x, parameters)
        >>> back, log_slope_back = spline(y, parameters, inverse=True)
        >>> bool((back - x).abs().max() < 1e-4), bool((log_slope + log_slope_back).abs().max() < 1e-3)
        (True, True)
    """
    bins = (parameters.shape[-1] + 1) // 3
    sizes = MIN_BIN + (1 - MIN_BIN * bins) * parameters[..., : 2 * bins].unflatten(-1, (2, bins)).softmax(-1)
    inner = BOUND * (2 * sizes[..., :-1].cumsum(-1) - 1)
    knots = torch.cat([torch.full_like(inner[..., :1], -BOUND), inner, torch.full_like(inner[..., :1], BOUND)], -1)
    # softplus, shifted so that zero is slope 1; slope 1 at both ends joins the identity smoothly
    slopes = MIN_SLOPE + F.softplus(parameters[..., 2 * bins :] + math.log(math.expm1(1 - MIN_SLOPE)))
    table = torch.cat([knots, F.pad(slopes, (1, 1), value=1.0).unsqueeze(-2)], -2)  # (*, 3, K + 1)

    inside = (x > -BOUND) & (x < BOUND)
    point = x.clamp(-BOUND, BOUND)  # outside, the spline is evaluated at its end and the result is not used
    k = (point.unsqueeze(-1) >= inner[..., int(inverse), :]).sum(-1)[..., None, None]
    x0, y0, d0 = table.gather(-1, k.expand(*k.shape[:-2], 3, 1)).squeeze(-1).unbind(-1)
    x1, y1, d1 = table.gather(-1, k.expand(*k.shape[:-2], 3, 1) + 1).squeeze(-1).unbind(-1)
    piece = RationalQuadratic(x0, x1 - x0, y0, y1 - y0, d0, d1)
    theta = piece.solve(point - y0) if inverse else (point - x0) / piece.width
    image = x0 + theta * piece.width if inverse else piece.value(theta)
    log_slope = piece.log_slope(theta)
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, 0.0)
    return torch.where(inside, image, x), log_slope


class _Layer(nn.Module):
    """One autoregressive layer; an identity when it is made.

    Arguments:
        groups: The group of each of the D dimensions: dimensions depend on those of earlier groups.
        features: The size of the context, 0 for none.
        hidden: Units in each hidden layer of the network.
        bins: Bins of the splines, 0 for affine maps.
    """

    def __init__(self, groups: Tensor, features: int, hidden: Sequence[int], bins: int) -> None:
        super().__init__()
        self.passes = int(groups.max()) + 1
        self.outputs = 2 + (3 * bins - 1 if bins else 0)
        # A hidden unit of degree d sees the groups up to d. Degree -1 sees the context alone.
        degrees = torch.arange(-1 if features else 0, max(self.passes - 1, 1))
        layers: list[nn.Module] = []
        seen = groups
        for i, units in enumerate(hidden):
            unit_degrees = degrees[torch.arange(units) % len(degrees)]
            layers.append(MaskedLinear(unit_degrees[:, None] >= seen))
            if i == 0:
                self.context = nn.Linear(features, units, bias=False) if features else None
            seen = unit_degrees
        self.hidden = nn.ModuleList(layers)
        self.last = MaskedLinear((groups[:, None] > seen).repeat_interleave(self.outputs, 0))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Linear dependence, of which a Gaussian is made, is not left to the network.
        self.linear = MaskedLinear(groups[:, None] > groups, bias=False)
        nn.init.zeros_(self.linear.weight)

    def parameters_at(self, u: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Shift and log-scale (*, D), and the parameters of the splines (*, D, P)."""
        x = u
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if i == 0 and h is not None and self.context is not None:
                x = x + self.context(h)
            x = F.silu(x)
        out = self.last(x).unflatten(-1, (-1, self.outputs))
        return self.linear(u) + out[..., 0], MAX_LOG_SCALE * torch.tanh(out[..., 1] / MAX_LOG_SCALE), out[..., 2:]

    def forward(self, u: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale, rest = self.parameters_at(u, h)
        v, log_slope = spline(u, rest) if self.outputs > 2 else (u, torch.zeros_like(u))
        return shift + log_scale.exp() * v, (log_scale + log_slope).sum(-1)

    def inverse(self, v: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inverse, and the log-determinant of the forward map there; exact after as many passes as groups."""
        u = torch.zeros_like(v)
        for _ in range(self.passes):
            shift, log_scale, rest = self.parameters_at(u, h)
            u, log_slope = (v - shift) * (-log_scale).exp(), torch.zeros_like(v)
            if self.outputs > 2:
                u, log_slope = spline(u, rest, inverse=True)
        return u, (log_scale - log_slope).sum(-1)


class Transport(Bijection):
    r"""The map T of a flow, from noise to the space of the latent variables.

    Arguments:
        dim: The number D of dimensions.
        features: The size of the context, 0 for none.
        kind: ``"affine"`` (inverse autoregressive flow), ``"spline"`` (neural-spline autoregressive flow), or their
            coupling flows ``"affine-coupling"`` (Real NVP) and ``"coupling"`` (neural spline), whose inverse is as
            cheap as the map.
        layers: The number of layers; their orders of the dimensions alternate.
        hidden: Units in each hidden layer of the networks.
        bins: Bins of the splines.

    Raises:
        ValueError: The kind does not exist, or a number is not positive.
    """

    def __init__(
        self,
        dim: int,
        features: int = 0,
        kind: str = "spline",
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        check_options(kind, layers, hidden, bins)
        if features < 0:
            raise ValueError(f"A flow of context={features}: give the size of the context, 0 for none.")
        self.dim, self.features, self.event_shape = dim, features, torch.Size((dim,))
        order = torch.arange(dim) % 2 if kind.endswith("coupling") else torch.arange(dim)
        orders = [order, order.max() - order]
        bins = 0 if kind.startswith("affine") else bins
        self.layers = nn.ModuleList(_Layer(orders[i % 2], features, hidden, bins) for i in range(layers))
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.head = nn.Linear(features, 2 * dim) if features else None
        if self.head is not None:
            nn.init.zeros_(self.head.weight[dim:])
            nn.init.zeros_(self.head.bias)

    def _base(self, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of the normal distribution that the layers begin from, given the context."""
        if h is None or self.head is None:
            return torch.zeros_like(self.loc), torch.zeros_like(self.log_scale)
        loc, log_scale = self.head(h).chunk(2, -1)
        return loc, log_scale

    def forward(self, u: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        loc, log_scale = self._base(h)
        v, log_det = loc + log_scale.exp() * u, log_scale.sum(-1) + self.log_scale.sum()
        for layer in self.layers:
            v, part = layer(v, h)
            log_det = log_det + part
        return self.loc + self.log_scale.exp() * v, log_det

    def inverse(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        loc, log_scale = self._base(h)
        v, log_det = (x - self.loc) * (-self.log_scale).exp(), log_scale.sum(-1) + self.log_scale.sum()
        for layer in reversed(self.layers):
            assert isinstance(layer, _Layer)
            v, part = layer.inverse(v, h)
            log_det = log_det + part
        return (v - loc) * (-log_scale).exp(), log_det


def check_options(kind: str, layers: int, hidden: Sequence[int], bins: int) -> None:
    """Raises what is wrong with the options of a flow."""
    if kind not in KINDS:
        raise ValueError(f"A flow of kind={kind!r}: choose one of {', '.join(KINDS)}.")
    if layers < 1 or bins < 2 or not isinstance(hidden, Sequence) or any(units < 1 for units in hidden):
        raise ValueError(
            f"A flow with layers={layers}, hidden={hidden!r} and bins={bins}: give at least one layer, one unit "
            "in each of a sequence of hidden layers, and two bins."
        )
