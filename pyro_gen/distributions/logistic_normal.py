r"""The logistic normal distribution: shares whose log-ratios are Gaussian.

Of shares :math:`x_1, \dots, x_K` with sum 1, the log-ratios to the last, :math:`z_k = \log (x_k / x_K)` for
:math:`k < K`, have a Gaussian law. Unlike under a Dirichlet distribution, two shares can be large together. With
:math:`x = \operatorname{softmax}(z_1, \dots, z_{K-1}, 0)` the density of the first K - 1 shares is

.. math:: p(x) = \mathcal{N}(z \mid \mu, \Sigma) \prod_{k=1}^K \frac{1}{x_k} .

References:
    | Logistic-Normal Distributions: Some Properties and Uses (Aitchison & Shen, 1980)
    | https://doi.org/10.1093/biomet/67.2.261
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints

__all__ = ["AdditiveLogRatio", "LogisticNormal"]


class AdditiveLogRatio(Transform):
    """The map from log-ratios to the last share, with shape :math:`(*, K - 1)`, to shares, :math:`(*, K)`."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogRatio)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return _with_zero(x).softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        logs = y.clamp(min=torch.finfo(y.dtype).tiny).log()
        return logs[..., :-1] - logs[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return _with_zero(x).log_softmax(-1).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] + 1])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] - 1])


class LogisticNormal(dist.TransformedDistribution):  # type: ignore[misc]
    r"""Shares whose log-ratios to the last of them have a given law.

    Arguments:
        log_ratios: The law of :math:`z`, a Gaussian of any covariance, with event shape :math:`(K - 1)`.

    Raises:
        ValueError: Its events are not vectors.

    Example:
        >>> d = LogisticNormal(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> d.event_shape, round(d.log_prob(torch.ones(3) / 3).item(), 4)  # 3 log 3 - log 2 pi
        (torch.Size([3]), 1.458)
    """

    def __init__(self, log_ratios: Any, validate_args: bool | None = None) -> None:
        if len(log_ratios.event_shape) != 1:
            raise ValueError(
                f"LogisticNormal: the log-ratios have event shape {tuple(log_ratios.event_shape)}; give a law of "
                "vectors, Normal(...).to_event(1) say."
            )
        super().__init__(log_ratios, [AdditiveLogRatio()], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogisticNormal":
        return LogisticNormal(self.base_dist.expand(torch.Size(batch_shape)), validate_args=False)


def _with_zero(x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros_like(x[..., :1])], -1)
