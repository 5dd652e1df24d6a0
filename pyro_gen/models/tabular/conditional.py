"""Gaussians given some of their entries: other ones in each row."""

import torch
from torch import Tensor

__all__ = ["condition", "draw_given", "seen_factor"]

CHUNK = 2**23  # numbers in the largest tensor


def condition(x: Tensor, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Moments of each missing entry given what is seen in its row.

    Arguments:
        x: Rows with shape :math:`(N, D)` and NaN where nothing was observed.
        loc: The mean, with shape :math:`(D)`.
        covariance: The covariance, with shape :math:`(D, D)`.

    Returns:
        Means and variances, each with shape :math:`(N, D)`. Where an entry is seen they are it and zero.

    Example:
        >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        >>> mean, variance = condition(torch.tensor([[2.0, torch.nan]]), torch.zeros(2), covariance)
        >>> mean.tolist(), [round(v, 4) for v in variance[0].tolist()]
        ([[2.0, 1.600000023841858]], [0.0, 0.36])
    """
    parts = []
    for rows in _chunks(x):
        seen, factor, seen_covariance = seen_factor(rows, covariance)
        gain = torch.linalg.solve_triangular(factor, seen_covariance, upper=False)  # L^-1 Sigma_o., (N, D, D)
        residual = ((rows - loc).nan_to_num() * seen).unsqueeze(-1)
        residual = torch.linalg.solve_triangular(factor, residual, upper=False)
        mean = loc + (gain.mT @ residual).squeeze(-1)
        variance = covariance.diagonal() - gain.square().sum(-2)
        parts.append((torch.where(seen, rows, mean), torch.where(seen, 0.0, variance)))
    means, variances = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(variances)


def draw_given(x: Tensor, loc: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
    r"""Draws the missing entries of each row given what is seen in it, by Matheron's rule.

    A joint draw :math:`y \sim \mathcal{N}(\mu, \Sigma)` becomes one of the conditional distribution by
    :math:`y + \Sigma_{\cdot o} \Sigma_{oo}^{-1} (x_o - y_o)`.

    Arguments:
        x: Rows with shape :math:`(N, D)` and NaN where nothing was observed.
        loc: The mean, with shape :math:`(D)`.
        covariance: The covariance, with shape :math:`(D, D)`.
        noise: Standard normal numbers, with shape :math:`(N, D)`.

    Returns:
        Completed rows, with shape :math:`(N, D)`.
    """
    joint = loc + noise @ torch.linalg.cholesky(covariance).mT
    parts = []
    for rows, drawn in zip(_chunks(x), _chunks(joint), strict=True):
        seen, factor, seen_covariance = seen_factor(rows, covariance)
        residual = ((rows - drawn).nan_to_num() * seen).unsqueeze(-1)
        weights = torch.cholesky_solve(residual, factor)
        parts.append(torch.where(seen, rows, drawn + (seen_covariance.mT @ weights).squeeze(-1)))
    return torch.cat(parts)


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, max(1, CHUNK // x.shape[1] ** 2))


def seen_factor(rows: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is seen (N, D), the Cholesky factors of its covariances, and these with all entries, (N, D, D) each.

    Rows and columns of missing entries are those of the identity, so that all rows have one shape.
    """
    seen = ~torch.isnan(rows)
    mask = seen.unsqueeze(-1)
    seen_covariance = covariance * mask
    square = seen_covariance * mask.mT + torch.diag_embed((~seen).to(rows.dtype))
    return seen, torch.linalg.cholesky(square), seen_covariance
