r"""Gaussians given some of their entries, other ones in each row.

With :math:`x = (x_o, x_m)`, seen and missing, of :math:`\mathcal{N}(\mu, \Sigma)`, and the precision
:math:`P = \Sigma^{-1}`,

.. math::
    x_o &\sim \mathcal{N}(\mu_o, \Sigma_{oo}), \\
    x_m \mid x_o &\sim \mathcal{N}\big(\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (x_o - \mu_o), \;
        \Sigma_{mm} - \Sigma_{mo} \Sigma_{oo}^{-1} \Sigma_{om}\big)
    = \mathcal{N}\big(\mu_m - P_{mm}^{-1} P_{mo} (x_o - \mu_o), \; P_{mm}^{-1}\big) .

Rows have holes in other places, and keep one shape: rows and columns of what a formula leaves out are those of the
identity (:func:`seen_factor`), which all functions of distributions use, under vmap too. Where few entries of many rows
are missing, the form by the precision is faster: :func:`draw_missing` and :func:`condition_rest` work rows off
together that miss as many entries.
"""

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = [
    "complete",
    "condition",
    "condition_factor",
    "condition_rest",
    "conditional",
    "draw_given",
    "draw_missing",
    "is_gaussian",
    "marginal",
    "mean_and_deviation",
    "seen_factor",
]

NUMBERS_AT_A_TIME = 2**23  # that the largest tensor holds


# ----------------------------------------------------------------------------------------------------------------------
# Distributions


def is_gaussian(d: Any) -> bool:
    """Whether a distribution is one of Gaussian vectors, with a full or a low-rank covariance."""
    return isinstance(d, torch.distributions.MultivariateNormal | torch.distributions.LowRankMultivariateNormal)


def marginal(d: Any, x: Tensor) -> Any:
    r"""The Gaussian whose log-density at ``x.nan_to_num()`` is that of what is seen in ``x``.

    An entry that is missing becomes an independent :math:`\mathcal{N}(0, 1 / 2 \pi)` at its mode, log-density 0.

    Arguments:
        d: A Gaussian of vectors, full or of low rank, with event shape :math:`(D)`.
        x: Rows with shape :math:`(*, D)` and NaN where nothing was observed.

    Returns:
        A distribution of the same kind with batch shape :math:`(*)`.
    """
    missing = torch.isnan(x)
    seen = (~missing).to(x.dtype)
    if isinstance(d, torch.distributions.LowRankMultivariateNormal):
        diagonal = torch.where(missing, 1 / (2 * math.pi), d.cov_diag)
        return dist.LowRankMultivariateNormal(
            d.loc * seen, d.cov_factor * seen.unsqueeze(-1), diagonal, validate_args=False
        )
    covariance = d.covariance_matrix * seen.unsqueeze(-1) * seen.unsqueeze(-2)
    covariance = covariance + torch.diag_embed((1 - seen) / (2 * math.pi))
    return dist.MultivariateNormal(d.loc * seen, covariance, validate_args=False)


def conditional(d: Any, x: Tensor) -> Any:
    r"""The law of the missing entries of rows given what is seen in them; standard normal, apart, where it is seen.

    Arguments:
        d: A Gaussian of vectors with event shape :math:`(D)`.
        x: Rows with shape :math:`(*, D)` and NaN where nothing was observed.

    Returns:
        A Gaussian with batch shape :math:`(*)`.

    Example:
        >>> d = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
        >>> law = conditional(d, torch.tensor([2.0, torch.nan]))
        >>> [round(v, 4) for v in law.mean.tolist()], [round(v, 4) for v in law.variance.tolist()]
        ([0.0, 1.6], [1.0, 0.36])
    """
    loc, covariance = d.loc, d.covariance_matrix
    seen, factor, seen_covariance = seen_factor(x, covariance)
    gain = torch.linalg.solve_triangular(factor, seen_covariance, upper=False)  # L^-1 Sigma_o.
    residual = (torch.where(seen, x.nan_to_num().to(loc.dtype), loc) - loc).unsqueeze(-1)
    residual = torch.linalg.solve_triangular(factor, residual, upper=False)
    mean = torch.where(seen, 0.0, loc + (gain.mT @ residual).squeeze(-1))
    missing = (~seen).to(loc.dtype)
    rest = (covariance - gain.mT @ gain) * missing.unsqueeze(-1) * missing.unsqueeze(-2)
    return dist.MultivariateNormal(mean, rest + torch.diag_embed(1 - missing), validate_args=False)


def complete(d: Any, x: Tensor) -> Tensor:
    r"""Draws the missing entries of rows given what is seen in them, by Matheron's rule and the global generator.

    A joint draw :math:`y \sim \mathcal{N}(\mu, \Sigma)` becomes one of the conditional distribution by
    :math:`y + \Sigma_{\cdot o} \Sigma_{oo}^{-1} (x_o - y_o)`. With :math:`\Sigma = W W^T + D` of low rank the weights
    of the missing entries are :math:`W_m (1 + W_o^T D_o^{-1} W_o)^{-1} W_o^T D_o^{-1}`, and nothing has D x D numbers.

    Arguments:
        d: A Gaussian of vectors, full or of low rank, with event shape :math:`(D)`.
        x: Rows with shape :math:`(*, D)` and NaN where nothing was observed.

    Returns:
        Rows with shape :math:`(*, D)`, whose missing entries are the draws; the others are those of ``x`` in a full
        Gaussian up to rounding, and of no use in one of low rank.
    """
    y = d.expand(torch.broadcast_shapes(d.batch_shape, x.shape[:-1])).rsample()
    seen = ~torch.isnan(x)
    residual = torch.where(seen, x.nan_to_num() - y, 0.0).unsqueeze(-1)  # the data may be of higher precision
    if isinstance(d, torch.distributions.LowRankMultivariateNormal):
        loadings = d.cov_factor.to(residual.dtype)
        weights = (loadings * seen.unsqueeze(-1) / d.cov_diag.unsqueeze(-1)).mT  # W_o^T D_o^-1
        inner = weights @ loadings + torch.eye(loadings.shape[-1], dtype=loadings.dtype, device=loadings.device)
        pull = torch.cholesky_solve(weights @ residual, torch.linalg.cholesky(inner))
        return y + (loadings @ pull).squeeze(-1)  # type: ignore[no-any-return]
    return y + _pull(seen, residual, d.covariance_matrix.to(residual.dtype))  # type: ignore[no-any-return]


def _pull(seen: Tensor, residual: Tensor, covariance: Tensor) -> Tensor:
    """Sigma_.o Sigma_oo^-1 times the residuals of what is seen, (*, D, 1), 0 elsewhere."""
    _, factor, seen_covariance = seen_factor(torch.where(seen, 0.0, torch.nan), covariance)
    return (seen_covariance.mT @ torch.cholesky_solve(residual, factor)).squeeze(-1)


# ----------------------------------------------------------------------------------------------------------------------
# Rows of one Gaussian


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
    r"""Draws the missing entries of each row given what is seen in it, by Matheron's rule (:func:`complete`).

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
        seen = ~torch.isnan(rows)
        residual = ((rows - drawn).nan_to_num() * seen).unsqueeze(-1)
        parts.append(torch.where(seen, rows, drawn + _pull(seen, residual, covariance)))
    return torch.cat(parts)


def draw_missing(x: Tensor, loc: Tensor, covariance: Tensor, noise: Tensor) -> Tensor:
    r"""Draws as :func:`draw_given` does, of the same arguments, in less time where few entries are missing.

    Rows with as many missing entries are worked off together, so that it cannot be used under vmap.

    Example:
        >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        >>> drawn = draw_missing(torch.tensor([[2.0, torch.nan]]), torch.zeros(2), covariance, torch.ones(1, 2))
        >>> [round(v, 4) for v in drawn[0].tolist()]  # 0.8 * 2 and a standard deviation of 0.6
        [2.0, 2.2]
    """
    mean, deviation = mean_and_deviation(x, loc, covariance, noise)
    return mean + deviation


def mean_and_deviation(x: Tensor, loc: Tensor, covariance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    r"""The two parts of a draw of :func:`draw_missing`, whose sum it is.

    Of the precision :math:`P = \Sigma^{-1}` only the block of a row's missing entries is needed,

    .. math:: x_m \mid x_o \sim \mathcal{N}\big(\mu_m - P_{mm}^{-1} P_{mo} (x_o - \mu_o), \; P_{mm}^{-1}\big) .

    Where a row has the covariance :math:`\Sigma / w`, the mean is the same, and the deviation :math:`w^{-1/2}` of it.

    Returns:
        Rows completed by their conditional mean, and deviations, 0 where an entry is seen, each with shape
        :math:`(N, D)`.
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    pull = (x - loc).nan_to_num() @ precision
    mean, deviation = x.clone(), torch.zeros_like(x)
    for rows, at, factor in _missing_blocks(x, precision):
        mean[rows, at] = loc[at] - torch.cholesky_solve(pull[rows, at].unsqueeze(2), factor).squeeze(2)
        deviation[rows, at] = torch.linalg.solve_triangular(
            factor.mT, noise[rows, at].unsqueeze(2), upper=True
        ).squeeze(2)
    return mean, deviation


def condition_rest(x: Tensor, loc: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""What the first variables of rows, as far as they are seen, say of the others; not under vmap.

    With the missing ones r among the first, the others q have the precision
    :math:`P_{qq} - P_{qr} P_{rr}^{-1} P_{rq}` given those seen.

    Arguments:
        x: The first S variables of each row, with shape :math:`(N, S)` and NaN where nothing was observed.
        loc: The mean of all, with shape :math:`(D)`.
        covariance: The covariance of all, with shape :math:`(D, D)`.

    Returns:
        Means, with shape :math:`(N, D - S)`, and precisions, with shape :math:`(N, D - S, D - S)`.
    """
    size = x.shape[1]
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    pull = (x - loc[:size]).nan_to_num() @ precision[:size]
    between, inner = precision[:size, size:], precision[size:, size:].expand(len(x), -1, -1).clone()
    out = pull[:, size:].clone()
    for rows, at, factor in _missing_blocks(x, precision):
        right = torch.cat([between[at], pull[rows, at].unsqueeze(2)], 2)
        right = torch.linalg.solve_triangular(factor, right, upper=False)
        lost = right[..., :-1].mT @ right
        inner[rows[:, 0]] -= lost[..., :-1]
        out[rows[:, 0]] -= lost[..., -1]
    return loc[size:] - torch.linalg.solve(inner, out), inner


def _missing_blocks(x: Tensor, precision: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each number M > 0 of missing entries, the rows that miss as many.

    Yields:
        The rows with shape (R, 1), the places of their missing entries (R, M), and the Cholesky factors of the
        precisions of these (R, M, M).
    """
    missing = torch.isnan(x)
    counts = missing.sum(1)
    places = missing.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # missing columns first
    for count in counts[counts > 0].unique().tolist():
        rows = (counts == count).nonzero()
        at = places[rows[:, 0], :count]
        yield rows, at, torch.linalg.cholesky(precision[at.unsqueeze(2), at.unsqueeze(1)])


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, max(1, NUMBERS_AT_A_TIME // x.shape[1] ** 2))


def seen_factor(rows: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is seen (*, D), the Cholesky factors of its covariances, and these with all entries, (*, D, D) each.

    Rows and columns of missing entries are those of the identity, so that all rows have one shape.
    """
    seen = ~torch.isnan(rows)
    mask = seen.unsqueeze(-1)
    seen_covariance = covariance * mask
    square = seen_covariance * mask.mT + torch.diag_embed((~seen).to(covariance.dtype))
    return seen, torch.linalg.cholesky(square), seen_covariance


def condition_factor(x: Tensor, loc: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the missing entries of rows given the seen ones.

    Arguments:
        x: Rows with shape :math:`(N, D)`, NaN where an entry is missing.
        loc: The mean of rows, with shape :math:`(*, D)`.
        precision: The inverse covariance, with shape :math:`(*, D, D)`.

    Returns:
        Rows completed by the means, with shape :math:`(*, N, D)`, and factors of the covariances of missing entries,
        with shape :math:`(*, N, D, D)`, 0 in rows and columns of seen entries.

    Example:
        >>> precision = torch.linalg.inv(torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
        >>> mean, factor = condition_factor(torch.tensor([[2.0, torch.nan]]), torch.zeros(2), precision)
        >>> [round(m, 3) for m in mean[0].tolist()], round((factor @ factor.mT)[0, 1, 1].item(), 3)
        ([2.0, 1.6], 0.36)
    """
    loc, precision = loc.unsqueeze(-2), precision.unsqueeze(-3)
    seen = ~torch.isnan(x)
    missing = (~seen).to(loc)  # (N, D)
    block = precision * missing.unsqueeze(-1) * missing.unsqueeze(-2)
    lower = torch.linalg.cholesky(block + torch.diag_embed(1 - missing))  # (*, N, D, D)
    residual = torch.where(seen, x - loc, 0.0).unsqueeze(-1)
    shift = (precision @ residual) * missing.unsqueeze(-1)
    mean = loc - torch.cholesky_solve(shift, lower).squeeze(-1)
    factor = torch.linalg.solve_triangular(lower.mT, torch.diag_embed(missing).expand_as(lower), upper=True)
    return torch.where(seen, x, mean), factor
