r"""Deep exponential families: the mean of a layer is a weighted sum of the layer above, in one family of laws.

With layers :math:`z_1, \dots, z_L` of :math:`K_1, \dots, K_L` units above the data, and weights :math:`W_l`,

=======  ======================================================================  ===================================
family   a layer given the one above                                             the data
=======  ======================================================================  ===================================
gamma    :math:`\operatorname{Gamma}(\alpha_l, \alpha_l / (z_{l+1} W_l))`        Poisson, mean :math:`z_1 W_0`
poisson  :math:`\operatorname{Poisson}(z_{l+1} W_l + b_l)`                       Poisson, mean :math:`z_1 W_0 + b_0`
normal   :math:`\mathcal{N}(z_{l+1} W_l + b_l, \operatorname{diag} \sigma_l^2)`  normal, likewise
=======  ======================================================================  ===================================

and the top layer about 1, of the normal family about 0. Weights of the first two are positive. Gamma layers with a
shape :math:`\alpha < 1` are sparse: few units are far from 0, and each of them is a part of the data. One gamma layer
is Poisson factor analysis; layers above say which parts go together. Normal layers are one Gaussian for all,

.. math::
    \operatorname{Cov} z_l = W_l^\top (\operatorname{Cov} z_{l+1}) W_l + \operatorname{diag} \sigma_l^2, \qquad
    x = z_0 .

**The guide** is a network of the data, unit by unit in the family. Given the weights and the layer above, the first
gamma layer has the posterior that comes of sharing out each count among its causes. From a guess :math:`g` of the layer
by a network three sweeps of mean field go there, each with :math:`g = \exp \mathbb{E}_q \log z_1` of the one before,

.. math::
    q(z_{1k} \mid z_2, x) = \operatorname{Gamma}\Big(\alpha_1 + \sum_v x_v \frac{g_k W_{kv}}{\sum_j g_j W_{jv}}, \;
    \frac{\alpha_1}{(z_2 W_1)_k} + \sum_v W_{kv} \Big), \quad v \text{ seen}.

Poisson layers have no derivative with respect to their draws: their objective is the score-function ELBO.

References:
    | Deep Exponential Families (Ranganath, Tang, Charlin & Blei, 2015)
    | https://arxiv.org/abs/1411.2581
    | Beta-Negative Binomial Process and Poisson Factor Analysis (Zhou, Hannah, Dunson & Carin, 2012)
    | https://proceedings.mlr.press/v22/zhou12c.html
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_gen._sizes import check_sizes, check_widths
from pyro_gen.data.small import count_rows, normal_rows
from pyro_gen.inference.objectives import ScoreFunctionELBO
from pyro_gen.nets import MLP
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model

__all__ = ["FAMILIES", "DeepExponentialFamily"]

FAMILIES = ("gamma", "poisson", "normal")
SWEEPS = 3  # of the posterior of the first gamma layer
LEAST = 1e-6  # of rates, which a sum of products of small numbers may lose


@model(
    "deep exponential family",
    paper="Ranganath et al. (2015)",
    small={
        "gamma": lambda: (DeepExponentialFamily(6, (4, 2), hidden=(8,), shape=2.0), count_rows(9, 6)),
        "poisson": lambda: (DeepExponentialFamily(6, (4, 2), "poisson", (8,)), count_rows(9, 6)),
        "normal": lambda: (DeepExponentialFamily(6, (4, 2), "normal", (8,)), normal_rows(9, 6)),
    },
)
class DeepExponentialFamily(Program):
    r"""Creates a deep exponential family of data with shape (N, V): counts, or numbers in the normal family.

    Arguments:
        features: The number V of entries of a datum.
        layers: The numbers of units :math:`K_1, \dots, K_L`, from the one above the data to the top.
        family: A name in :data:`FAMILIES`.
        hidden: The widths of the guide's hidden layers.
        shape: Where the shapes :math:`\alpha` of gamma layers start.

    Attributes:
        weights: The logarithms of :math:`W_0, \dots, W_{L-1}`, themselves in the normal family: with shape
            :math:`(K_{l+1}, K_l)`, where :math:`K_0 = V`.
        bias: The logarithms of :math:`b_l`, themselves in the normal family.
        log_shape: The logarithms of :math:`\alpha_1, \dots, \alpha_L` with shape :math:`(L)`; of the normal family
            those of :math:`\sigma_0, \dots, \sigma_{L-1}`.

    Raises:
        ValueError: Sizes are out of range, there is no such family, or data are no counts where these are expected.

    Example:
        >>> program = DeepExponentialFamily(8, layers=(5, 2))
        >>> program.model(torch.full((3, 8), torch.nan)).shape  # three generated data
        torch.Size([3, 8])
    """

    initialised: Tensor

    def __init__(
        self,
        features: int,
        layers: Sequence[int] = (40, 15),
        family: str = "gamma",
        hidden: Sequence[int] = (200,),
        shape: float = 0.5,
    ) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise ValueError(f"DeepExponentialFamily(family={family!r}): choose one of {', '.join(FAMILIES)}.")
        check_sizes(self, features=features)
        check_widths(self, layers=layers, hidden=hidden)
        if not layers or not shape > 0:
            raise ValueError(
                f"DeepExponentialFamily(layers={tuple(layers)}, shape={shape}): give a layer or more, a positive shape."
            )
        self.event_shape, self.family, self.sizes = torch.Size((features,)), family, (features, *layers)
        start = [0.3 * torch.randn(above, below) for below, above in pairwise(self.sizes)]
        if family != "normal":
            start = [w - torch.tensor(float(len(w))).log() for w in start]
        self.weights = nn.ParameterList(nn.Parameter(w) for w in start)
        low = 0.0 if family == "normal" else -3.0
        self.bias = nn.ParameterList(nn.Parameter(torch.full_like(w[0], low)) for w in start if family != "gamma")
        if family != "poisson":
            start_at = torch.tensor(shape).log() if family == "gamma" else torch.zeros(())
            self.log_shape = nn.Parameter(start_at.repeat(len(layers)))
        alone = {"gamma": 1, "poisson": len(layers), "normal": 0}[family]  # layers whose units have one output, not two
        self.outputs = [(1 if i < alone else 2) * k for i, k in enumerate(layers)]
        self.encoder = MLP((features, *hidden, sum(self.outputs)), "relu", missing=True)
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        if family == "poisson":
            self.objective = ScoreFunctionELBO()

    def initialise(self, x: Tensor, *context: Any, seed: int = 0) -> Self:
        """Sets the mean of the data from the first with shape :math:`(N, V)`, the first time only."""
        if self.family != "normal" and bool(((x < 0) | (x != x.round())).logical_and(~x.isnan()).any()):
            raise ValueError(f'DeepExponentialFamily(family="{self.family}") is for counts: give integers from 0 on.')
        if not self.initialised:
            mean, normal = x.nanmean(0).nan_to_num(), self.family == "normal"
            with torch.no_grad():
                (self.bias if normal else self.weights)[0].add_(mean if normal else (mean + 1e-2).log())
                self.initialised.fill_(True)
        return super().initialise(x, *context, seed=seed)

    def layer(self, depth: int, above: Tensor | None) -> Any:
        """The law of a layer given the one above, with shape :math:`(*, K)`, or of the top one given none."""
        if above is None:
            centre = self.weights[-1].new_full((self.sizes[depth],), 0.0 if self.family == "normal" else 1.0)
        else:
            centre = above @ self.weight(depth)
            if self.family != "gamma":
                centre = centre + (self.bias[depth] if self.family == "normal" else self.bias[depth].exp())
        if self.family == "normal":
            scale = centre.new_ones(()) if depth == len(self.sizes) - 1 else self.log_shape[depth].exp()
            return dist.Normal(centre, scale).to_event(1)
        if self.family == "poisson" or depth == 0:
            return dist.Poisson(centre + LEAST).to_event(1)
        shape = self.log_shape[depth - 1].exp()
        return dist.Gamma(shape, shape / (centre + LEAST)).to_event(1)

    def weight(self, depth: int) -> Tensor:
        r"""The weights :math:`W_l` below layer :math:`l + 1`, with shape :math:`(K_{l+1}, K_l)`."""
        w: Tensor = self.weights[depth]
        return w if self.family == "normal" else w.exp()

    def model(self, x: Tensor) -> Tensor:
        """The joint density of ``z_1``, ..., ``z_L`` and data with shape :math:`(N, V)`; returns these completed."""
        with self.plate(x):
            z: Tensor | None = None
            for depth in range(len(self.sizes) - 1, 0, -1):
                z = pyro.sample(f"z_{depth}", self.layer(depth, z))  # (N, K_l)
            return observe("x", self.layer(0, z), x)

    def guide(self, x: Tensor) -> None:
        r"""The approximate posterior :math:`\prod_l q(z_l \mid x)`."""
        seen = x if self.family == "normal" else x.log1p()
        parts = self.encoder(seen).split(self.outputs, -1)
        with self.plate(x):
            z: Tensor | None = None
            for depth in range(len(self.sizes) - 1, 0, -1):
                z = pyro.sample(f"z_{depth}", self.approximate(depth, parts[depth - 1], x, z).to_event(1))

    def approximate(self, depth: int, features: Tensor, x: Tensor, above: Tensor | None) -> Any:
        r"""The law :math:`q(z_l \mid x)` of units by themselves, of the network's output with shape :math:`(N, F)`."""
        if self.family == "poisson":
            return dist.Poisson(LEAST + F.softplus(features))
        if self.family == "normal" or depth > 1:
            a, b = features.chunk(2, -1)
            if self.family == "normal":
                return dist.Normal(a, 1e-4 + F.softplus(b))
            shape = 1e-2 + F.softplus(a)
            return dist.Gamma(shape, shape / (1e-3 + F.softplus(b)))
        prior: Any = self.layer(1, above)
        w, there = self.weight(0), (~torch.isnan(x)).to(x.dtype)
        shape, guess = self.log_shape[0].exp(), 1e-2 + F.softplus(features)
        rate = prior.base_dist.rate + there @ w.mT
        for _ in range(SWEEPS):
            a = shape + guess * ((x.nan_to_num() / (guess @ w + LEAST)) @ w.mT)  # (N, K): what each unit caused
            guess = torch.exp(torch.digamma(a)) / rate
        return dist.Gamma(a, rate)
