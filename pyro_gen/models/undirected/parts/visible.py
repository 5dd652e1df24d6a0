r"""The visible units of a Boltzmann machine: binary, Gaussian or softmax.

A unit i has a base law :math:`p_0(v_i)` and features :math:`\phi(v_i)`, of which the base has the mean 0, and the
machine tilts it by a field :math:`t_i` that is linear in the hidden units,

.. math:: p(v_i \mid h) \propto p_0(v_i) \, e^{t_i \cdot \phi(v_i)} , \qquad
    A_i(t_i) = \log \mathbb{E}_{p_0} \big[ e^{t_i \cdot \phi(v_i)} \big] .

Features with the mean 0 are the centring trick: gradients of weights and biases then hardly depend on each other. The
base is fitted to the margins of the data, the nearest law without hidden units, where annealing starts.

References:
    | Deep Boltzmann Machines and the Centering Trick (Montavon & Müller, 2012)
    | https://doi.org/10.1007/978-3-642-35289-8_33
    | On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov & Murray, 2008)
    | https://doi.org/10.1145/1390156.1390266
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen.distributions import LevelCategorical

__all__ = ["Binary", "Gaussian", "Softmax", "Visible", "draw_binary", "make_visible"]


class Visible(nn.Module, abc.ABC):
    """D visible units.

    Attributes:
        width: The number of features of each unit.
    """

    width = 1

    @abc.abstractmethod
    def fit_base(self, x: Tensor) -> None:
        """Sets the base to the margins of data with shape :math:`(N, D)`, NaN where not seen."""

    @abc.abstractmethod
    def base(self, shape: Sequence[int]) -> Any:
        r"""The law :math:`p_0` of all units, with a batch shape of D entries."""

    @abc.abstractmethod
    def features(self, x: Tensor) -> Tensor:
        r""":math:`\phi` of complete data with shape :math:`(*, D)`: shape :math:`(*, D W)` for W features a unit."""

    @abc.abstractmethod
    def log_mean(self, field: Tensor) -> Tensor:
        r""":math:`A` of fields with shape :math:`(*, D W)`: shape :math:`(*, D)`, in nats."""

    @abc.abstractmethod
    def draw(self, field: Tensor) -> Tensor:
        """Draws units given fields with shape :math:`(B, D W)`, by the global generator: shape :math:`(B, D)`."""

    def to_hidden(self, x: Tensor, weights: Tensor, biases: Tensor, beta: float) -> Tensor:
        r""":math:`\beta (b + \phi(x) W)` of complete data with shape :math:`(B, D)`: shape :math:`(B, K)`."""
        return torch.addmm(biases, self.features(x), weights, beta=beta, alpha=beta)

    def draw_given(self, h: Tensor, weights: Tensor, biases: Tensor, beta: float) -> Tensor:
        r"""Draws units with the fields :math:`\beta (a + h W^\top)` of h with shape :math:`(B, K)`."""
        return self.draw(torch.addmm(biases, h, weights.T, beta=beta, alpha=beta))


class Binary(Visible):
    """Units 0 or 1 with the features v less its mean."""

    logits: Tensor
    mean: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(size))
        self.register_buffer("mean", torch.full((size,), 0.5))

    def fit_base(self, x: Tensor) -> None:
        seen = (~x.isnan()).sum(0)
        self.mean.copy_((x.nansum(0) + 0.5) / (seen + 1))  # never 0 or 1
        self.logits.copy_(self.mean.logit())

    def base(self, shape: Sequence[int]) -> Any:
        return dist.Bernoulli(logits=self.logits.reshape(shape))

    def features(self, x: Tensor) -> Tensor:
        return x - self.mean.to(x)

    def log_mean(self, field: Tensor) -> Tensor:
        c, mean = self.logits.to(field), self.mean.to(field)
        return F.softplus(c + field) - F.softplus(c) - mean * field

    def draw(self, field: Tensor) -> Tensor:
        return draw_binary(field + self.logits)

    # What is the same for all data goes to the biases: at the size of data each pass is a fiftieth of the products.
    def to_hidden(self, x: Tensor, weights: Tensor, biases: Tensor, beta: float) -> Tensor:
        return torch.addmm(biases - self.mean @ weights, x, weights, beta=beta, alpha=beta)

    def draw_given(self, h: Tensor, weights: Tensor, biases: Tensor, beta: float) -> Tensor:
        return draw_binary(torch.addmm(beta * biases + self.logits, h, weights.T, alpha=beta))


class Gaussian(Visible):
    r"""Units that are numbers :math:`\mu + \sigma \phi`; their deviation given the hidden units is learned."""

    loc: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def fit_base(self, x: Tensor) -> None:
        mean = x.nanmean(0)
        deviation = (x - mean).square().nanmean(0).sqrt()
        self.loc.copy_(mean.nan_to_num())
        self.log_scale.data.copy_(torch.where(deviation > 0, deviation, 1.0).log())

    def base(self, shape: Sequence[int]) -> Any:
        return dist.Normal(self.loc.reshape(shape), self.log_scale.exp().reshape(shape))

    def features(self, x: Tensor) -> Tensor:
        return (x - self.loc.to(x)) / self.log_scale.to(x).exp()

    def log_mean(self, field: Tensor) -> Tensor:
        return 0.5 * field.square()

    def draw(self, field: Tensor) -> Tensor:
        return self.loc + self.log_scale.exp() * (field + torch.randn_like(field))


class Softmax(Visible):
    """Units with one of L values 0, ..., L - 1; the features are an indicator of each, less its mean."""

    logits: Tensor

    def __init__(self, size: int, levels: int) -> None:
        super().__init__()
        self.width = levels
        self.register_buffer("logits", torch.zeros(size, levels))

    def fit_base(self, x: Tensor) -> None:
        values = torch.arange(self.width, device=x.device)
        counts = (x.unsqueeze(-1) == values).sum(0) + 1 / self.width  # (D, L)
        self.logits.copy_((counts / counts.sum(-1, keepdim=True)).log())

    def base(self, shape: Sequence[int]) -> Any:
        return LevelCategorical(logits=self.logits.reshape(*shape, -1))

    def features(self, x: Tensor) -> Tensor:
        hot = (x.unsqueeze(-1) == torch.arange(self.width, device=x.device)).to(x)
        return (hot - self.logits.to(x).softmax(-1)).flatten(-2)

    def log_mean(self, field: Tensor) -> Tensor:
        t = field.unflatten(-1, (-1, self.width))
        c = self.logits.to(field).log_softmax(-1)
        log_mean: Tensor = (c + t).logsumexp(-1) - (c.exp() * t).sum(-1)
        return log_mean

    def draw(self, field: Tensor) -> Tensor:
        log_weights: Tensor = self.logits + field.unflatten(-1, (-1, self.width))
        noise = torch.empty_like(log_weights).exponential_().clamp(min=1e-30).log()
        return (log_weights - noise).argmax(-1).to(field.dtype)  # the largest with Gumbel noise


def make_visible(kind: str | Mapping[str, int], size: int) -> Visible:
    """Visible units by name.

    Arguments:
        kind: ``"binary"``, ``"gaussian"``, or ``{"softmax": L}`` for L values each.
        size: The number of units.

    Raises:
        ValueError: There are no such units.
    """
    if kind == "binary":
        return Binary(size)
    if kind == "gaussian":
        return Gaussian(size)
    if isinstance(kind, Mapping) and set(kind) == {"softmax"} and kind["softmax"] > 1:
        return Softmax(size, kind["softmax"])
    raise ValueError(f'visible={kind!r}: choose "binary", "gaussian", or {{"softmax": L}} for L values of each unit.')


def draw_binary(logits: Tensor) -> Tensor:
    r"""Draws 0.0 or 1.0 with log-odds, by the global generator.

    Random numbers cost as much as the rest here, so that four come from one of the generator's: whole numbers
    :math:`-2^{15} \le r < 2^{15}`, and one :math:`0 \le u < 1` for all entries, as :math:`(r + u) / 2^{16} + 1/2`. Each
    of them is uniform in [0, 1), and what one tells of another by the common u is less than :math:`2^{-16}`.

    Arguments:
        logits: The log-odds, contiguous floats; the values are written in their place.

    Returns:
        The values, with the shape of ``logits``.
    """
    count = logits.numel()
    words = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,), device=logits.device) ^ -(2**63)
    r = words.view(torch.int16)[:count].view_as(logits)
    u = torch.rand((), dtype=logits.dtype, device=logits.device)
    return logits.sigmoid_().sub_(r, alpha=2.0**-16).gt(0.5 + u * 2.0**-16).to(logits.dtype)
