r"""Guides for the latent variables of any program, as one vector.

All continuous latent variables of a model, mapped to unconstrained space and flattened, are a vector
:math:`v \in \mathbb{R}^D`; a :class:`Guide` is a distribution of v. It runs the model and gives each latent site its
part of v, through the transform of the site's support *at that moment*: a support that depends on other latent
variables is that of this draw. With :math:`z = T(v)`,

.. math:: \log q(z) = \log q(v) - \log \left| \det \frac{\partial T}{\partial v} \right| .

A guide is attached by :func:`with_guide` or by :meth:`pyro_gen.Program.from_functions`, and makes its parameters when
it first meets the model (``Program.initialise``; :func:`pyro_gen.fit` calls it).

References:
    | Automatic Differentiation Variational Inference (Kucukelbir et al., 2017)
    | https://arxiv.org/abs/1603.00788
    | Gaussian Variational Approximation With a Factor Covariance Structure (Ong, Nott & Smith, 2018)
    | https://arxiv.org/abs/1701.03208
    | Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015)
    | https://arxiv.org/abs/1505.05770
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_gen.distributions.flows import FlowDistribution, Transport
from pyro_gen.distributions.flows.autoregressive import check_options
from pyro_gen.inference.guides.base import Guide

__all__ = ["Flow", "FullRank", "LowRank", "MeanField"]


class MeanField(Guide):
    """Independent normal variables: it finds the means, and standard deviations that are too small where the posterior
    is correlated.

    Arguments:
        init_scale: The first standard deviation.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> from pyro_gen.inference.guides import MeanField, guide_of
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pg.plate(x):
        ...         return pg.observe("x", dist.Normal(mean, 1.0), x)
        >>> program = pg.Program.from_functions(model, MeanField())
        >>> result = pg.fit(program, torch.ones(9), epochs=500, lr=0.05, schedule="cosine", progress=False)
        >>> guide = guide_of(program)
        >>> round(guide.loc.item(), 1), round(guide.log_scale.exp().item(), 1)  # exactly 9 / 10 and 1 / sqrt(10)
        (0.9, 0.3)
    """

    loc: Tensor
    log_scale: Tensor

    def build(self, start: Tensor) -> None:
        self.loc = nn.Parameter(start)
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(self.init_scale)))

    def distribution(self) -> Any:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc + self.log_scale.exp() * u, self.log_scale.sum().expand(u.shape[:-1])

    def inverse(self, v: Tensor) -> Tensor:
        return (v - self.loc) * (-self.log_scale).exp()


class _Gaussian(Guide):
    """A normal distribution with a Cholesky factor."""

    loc: Tensor

    def scale_tril(self) -> Tensor:
        """The Cholesky factor of the covariance, with shape :math:`(D, D)`."""
        raise NotImplementedError

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        tril = self.scale_tril()
        return self.loc + u @ tril.mT, tril.diagonal().log().sum().expand(u.shape[:-1])

    def inverse(self, v: Tensor) -> Tensor:
        centred = (v - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale_tril(), centred, upper=False).squeeze(-1)  # type: ignore[no-any-return]


class FullRank(_Gaussian):
    r"""A normal distribution with any covariance: :math:`D^2` parameters.

    Arguments:
        init_scale: The first standard deviation.
    """

    log_scale: Tensor
    lower: Tensor

    def build(self, start: Tensor) -> None:
        self.loc = nn.Parameter(start)
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(self.init_scale)))
        self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))  # below the diagonal, in units of the scale

    def scale_tril(self) -> Tensor:
        unit = torch.eye(self.dim, dtype=self.loc.dtype, device=self.loc.device) + self.lower.tril(-1)
        return self.log_scale.exp().unsqueeze(-1) * unit

    def distribution(self) -> Any:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril())


class _LowRankNormal(TorchDistribution):
    """As torch's LowRankMultivariateNormal, which adds its identity matrix in place and so cannot be recorded."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  # torch's name and type
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, log_scale: Tensor) -> None:
        self.loc, self.factor, self.log_scale = loc, factor, log_scale
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # torch's signature
        options: dict[str, Any] = {"dtype": self.loc.dtype, "device": self.loc.device}
        common = torch.randn(*sample_shape, self.factor.shape[1], **options) @ self.factor.mT
        own = self.log_scale.exp() * torch.randn(*sample_shape, len(self.loc), **options)
        return self.loc + common + own

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) * (-self.log_scale).exp()  # (*, D)
        a = self.factor * (-self.log_scale).exp().unsqueeze(-1)  # of covariance I + a a^T in units of the scale
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        tril = torch.linalg.cholesky(eye + a.mT @ a)
        projected = torch.linalg.solve_triangular(tril, (z @ a).unsqueeze(-1), upper=False).squeeze(-1)
        quadratic = z.square().sum(-1) - projected.square().sum(-1)
        log_det = self.log_scale.sum() + tril.diagonal().log().sum()
        return -0.5 * (quadratic + len(self.loc) * math.log(2 * math.pi)) - log_det  # type: ignore[no-any-return]


class LowRank(_Gaussian):
    r"""A normal distribution with covariance :math:`W W^\top + \mathrm{diag}(d)`, for many latent variables.

    Arguments:
        rank: The number of columns of W, by default :math:`\sqrt{D}`.
        init_scale: The first standard deviation.
    """

    log_scale: Tensor
    factor: Tensor

    def __init__(self, rank: int | None = None, init_scale: float = 0.1) -> None:
        super().__init__(init_scale)
        if rank is not None and rank < 1:
            raise ValueError(f"LowRank(rank={rank}): give a positive number, or MeanField for none.")
        self.rank = rank

    def build(self, start: Tensor) -> None:
        rank = self.rank or max(1, round(len(start) ** 0.5))
        self.loc = nn.Parameter(start)
        scale = math.sqrt(0.5) * self.init_scale
        self.log_scale = nn.Parameter(torch.full_like(start, math.log(scale)))
        # At random: at zero its gradient is zero.
        noise = torch.randn(len(start), rank, dtype=start.dtype, device=start.device)
        self.factor = nn.Parameter(scale / rank**0.5 * noise)

    def distribution(self) -> Any:
        return _LowRankNormal(self.loc, self.factor, self.log_scale)

    def scale_tril(self) -> Tensor:
        covariance = self.factor @ self.factor.mT + (2 * self.log_scale).exp().diag()
        return torch.linalg.cholesky(covariance)  # type: ignore[no-any-return]


class Flow(Guide):
    """A normalizing flow, for posteriors that are curved, skewed or funnel-shaped.

    Arguments:
        kind: ``"spline"`` (neural-spline autoregressive), ``"affine"`` (inverse autoregressive), ``"coupling"`` or
            ``"affine-coupling"``.
        layers: The number of layers.
        hidden: Units in each hidden layer of the networks.
        bins: Bins of the splines.
        init_scale: The first standard deviation.
    """

    def __init__(
        self,
        kind: str = "spline",
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(init_scale)
        check_options(kind, layers, hidden, bins)
        self.kind, self.num_layers, self.hidden, self.bins = kind, layers, tuple(hidden), bins

    def build(self, start: Tensor) -> None:
        map_ = Transport(len(start), 0, self.kind, self.num_layers, self.hidden, self.bins).to(start)
        with torch.no_grad():
            map_.loc.copy_(start)
            map_.log_scale.fill_(math.log(self.init_scale))
        self.map = map_

    def distribution(self) -> Any:
        return FlowDistribution(self.map, None, torch.Size())

    def transport(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(u)  # type: ignore[no-any-return]

    def inverse(self, v: Tensor) -> Tensor:
        return self.map.inverse(v)[0]
