r"""Positive definite matrices as unconstrained vectors, which torch has no bijection for.

A vector of :math:`D (D + 1) / 2` numbers fills a lower triangle, whose diagonal is exponentiated: :math:`X = L L^T`,

.. math:: \log |J| = D \log 2 + \sum_{k=1}^D (D - k + 2) \log L_{kk} .
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

__all__ = ["CholeskyVector", "positive_definite"]


class _PositiveDefinite(constraints.Constraint):
    """Symmetric positive definite matrices, which :func:`torch.distributions.biject_to` knows a way to."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        return constraints.positive_definite.check(value)  # type: ignore[no-any-return]


positive_definite = _PositiveDefinite()


class CholeskyVector(Transform):
    """The map from vectors, with shape :math:`(*, D (D + 1) / 2)`, to matrices, with shape :math:`(*, D, D)`."""

    domain = constraints.real_vector
    codomain = positive_definite
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CholeskyVector)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        factor = _factor(x)
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(y)
        logs = factor.diagonal(dim1=-2, dim2=-1).log()
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1], device=y.device)
        return (factor.tril(-1) + torch.diag_embed(logs))[..., rows, columns]  # type: ignore[no-any-return]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        size = _size(x.shape[-1])
        logs = x[..., _places(size, x.device).diagonal()]  # of the diagonal of the factor
        powers = torch.arange(size + 1, 1, -1, dtype=x.dtype, device=x.device)
        return size * math.log(2) + (powers * logs).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        size = _size(shape[-1])
        return torch.Size([*shape[:-1], size, size])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-2], shape[-1] * (shape[-1] + 1) // 2])


def _size(entries: int) -> int:
    return (math.isqrt(8 * entries + 1) - 1) // 2


def _places(size: int, device: torch.device) -> Tensor:
    """Where each entry of a lower triangle is in a vector, behind whose end are the zeros of the upper one."""
    count = size * (size + 1) // 2
    places = torch.full((size, size), count, device=device)
    rows, columns = torch.tril_indices(size, size, device=device)
    places[rows, columns] = torch.arange(count, device=device)
    return places


def _factor(x: Tensor) -> Tensor:
    full = torch.cat([x, torch.zeros_like(x[..., :1])], -1)[..., _places(_size(x.shape[-1]), x.device)]
    return full.tril(-1) + torch.diag_embed(full.diagonal(dim1=-2, dim2=-1).exp())


@biject_to.register(_PositiveDefinite)  # type: ignore[untyped-decorator]
def _to_positive_definite(constraint: Any) -> Transform:
    return CholeskyVector()
