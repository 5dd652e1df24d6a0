r"""The factors of rows of a factor analysis given what is seen of them, for many rows and components at once.

With :math:`x = \mu + W z + \epsilon`, :math:`z \sim \mathcal{N}(0, I)`, :math:`\epsilon \sim \mathcal{N}(0, \Psi)` and
the seen entries :math:`x_o` of a row,

.. math::
    z \mid x_o \sim \mathcal{N}\big(F^{-\top} e, \; (F F^\top)^{-1}\big) , \qquad
    F F^\top = I + W_o^\top \Psi_o^{-1} W_o , \qquad e = F^{-1} W_o^\top \Psi_o^{-1} (x_o - \mu_o) .

No step needs more than e: the density of a row has :math:`\lVert e \rVert^2`, a draw is
:math:`F^{-\top} (e + \text{noise})`, and a missing entry has the mean :math:`\mu_d + a^\top e` and the variance
:math:`\lVert a \rVert^2 + \psi_d`, where :math:`a = F^{-1} w_d`.

The matrices are small and very many, one for each row and component, and LAPACK would spend its time on calls. Here the
loop is over the entries of F, and each of its steps is of all rows and components at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FactorPosterior", "factor_posterior"]


class FactorPosterior(NamedTuple):
    """The R factors of rows, with a batch shape ``*`` of components and rows.

    Attributes:
        columns: The columns of F from the diagonal on: the j-th has shape :math:`(R - j, *)`.
        scale: The inverse of the diagonal of F, with shape :math:`(R, *)`.
        e: The whitened means, with shape :math:`(R, *)`.
    """

    columns: list[Tensor]
    scale: Tensor
    e: Tensor

    def select(self, of: Callable[[Tensor], Tensor]) -> "FactorPosterior":
        """Those of some rows or components, which ``of`` takes from a tensor with shape (R, *)."""
        return FactorPosterior([of(column) for column in self.columns], of(self.scale), of(self.e))

    def log_det(self) -> Tensor:
        """The logarithms of the determinants of F, with shape (*)."""
        return -self.scale.log().sum(0)

    def draw(self, noise: Tensor) -> Tensor:
        """The factors that standard normal numbers (R, *) stand for, their means for zeros, with shape (*, R)."""
        rest = list((self.e + noise).unbind(0))
        for j in reversed(range(len(rest))):
            for i in range(j + 1, len(rest)):
                rest[j] = torch.addcmul(rest[j], self.columns[j][i - j], rest[i], value=-1)
            rest[j] = rest[j] * self.scale[j]
        return torch.stack(rest, -1)

    def covariance(self) -> Tensor:
        r"""The covariances :math:`F^{-\top} F^{-1}` of the factors, with shape (*, R, R)."""
        units = torch.eye(len(self.e)).to(self.e).reshape(len(self.e), len(self.e), *[1] * (self.e.dim() - 1))
        root = torch.stack([self.draw(unit - self.e) for unit in units], -1)
        return root @ root.mT

    def entries(self, loadings: Tensor) -> tuple[Tensor, Tensor]:
        r"""What the factors add to the means and variances of entries.

        Arguments:
            loadings: Those of D entries, with shape :math:`(R, D, *)` up to broadcasting.

        Returns:
            :math:`a^\top e` and :math:`\lVert a \rVert^2`, each with shape :math:`(D, *)`.
        """
        rows: list[Tensor] = []
        mean, variance = torch.zeros_like(self.e[0]), torch.zeros_like(self.e[0])
        for j, a in enumerate(loadings.unbind(0)):
            for k, before in enumerate(rows):
                a = torch.addcmul(a, self.columns[k][j - k], before, value=-1)
            rows.append(a * self.scale[j])
            mean, variance = torch.addcmul(mean, rows[j], self.e[j]), torch.addcmul(variance, rows[j], rows[j])
        return mean, variance


def factor_posterior(x: Tensor, loadings: Tensor, loc: Tensor, noise: Tensor) -> FactorPosterior:
    """The factors of each row given what is seen of it, in each of C components.

    Arguments:
        x: Rows with shape :math:`(N, D)`, NaN where an entry is missing.
        loadings: With shape :math:`(*, D, R)`.
        loc: With shape :math:`(*, D)`.
        noise: Variances, with shape :math:`(*, D)`.

    Returns:
        The factors, with batch shape :math:`(*, N)`.

    Example:
        >>> rows = torch.tensor([[3.0, 1.0], [torch.nan, torch.nan]])
        >>> found = factor_posterior(rows, torch.ones(2, 1), torch.zeros(2), torch.ones(2))
        >>> [round(v, 4) for v in found.draw(torch.zeros(1, 2))[:, 0].tolist()]  # 4 / 3, and the prior's mean
        [1.3333, 0.0]
    """
    rank = loadings.shape[-1]
    seen, filled = (~torch.isnan(x)).to(x).T, x.nan_to_num().T  # (D, N)
    scaled = loadings / noise.unsqueeze(-1)  # (*, D, R)
    j, i = torch.triu_indices(rank, rank, device=x.device)  # column by column of the lower triangle
    # Products with what is seen, so that nothing has a number for each row, component and column.
    lower = (loadings[..., i] * scaled[..., j]).movedim(-1, 0) @ seen  # (R (R + 1) / 2, *, N)
    right = scaled.movedim(-1, 0) @ filled - (loc.unsqueeze(-1) * scaled).movedim(-1, 0) @ seen  # (R, *, N)
    columns: list[Tensor] = []
    scale: list[Tensor] = []
    e: list[Tensor] = []
    for j, (column, own) in enumerate(zip(lower.split(list(range(rank, 0, -1))), right.unbind(0), strict=True)):
        column = torch.cat([column[:1] + 1, column[1:]])
        for k, before in enumerate(columns):
            column = torch.addcmul(column, before[j - k :], before[j - k], value=-1)
            own = torch.addcmul(own, before[j - k], e[k], value=-1)
        scale.append(column[0].rsqrt())
        columns.append(column * scale[j])
        e.append(own * scale[j])
    return FactorPosterior(columns, torch.stack(scale) if scale else right, torch.stack(e) if e else right)
