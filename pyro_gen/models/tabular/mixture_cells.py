r"""The entries of a row of a mixture of factor analysers, one by one, given its parameters and what was seen.

With :math:`r_{nk}` the responsibility of component k for row n, and its factors there :math:`z_n \sim \mathcal{N}(m,
(F F^\top)^{-1})`, a missing entry has the density

.. math::
    p(x_{nd} \mid x_{n,o}) = \sum_k r_{nk} \, \mathcal{N}\big(T_d(x_{nd}); \; \mu_{kd} + w_{kd}^\top m, \;
    \lVert F^{-1} w_{kd} \rVert^2 + \psi_{kd}\big) \, T_d'(x_{nd}) ,

or the mixture of the probabilities of its level, or of the interval of its whole number. In a column with an atom
:math:`a_d`, at which rows of component k are with probability :math:`q_{kd}`, it has a probability there and a density
elsewhere,

.. math::
    P(x_{nd} = a_d \mid x_{n,o}) = \sum_k r_{nk} \, q_{kd} , \qquad
    p(x_{nd} \mid x_{n,o}) = \sum_k r_{nk} \, (1 - q_{kd}) \, \mathcal{N}(\ldots) \, T_d'(x_{nd}) .

What is to be expected of an entry is the mixture of what components expect, by quadrature where a curve makes the
column normal; where there is an atom, :math:`q_{kd} \, a_d` and :math:`1 - q_{kd}` times that.
"""

import math

import torch
from torch import Tensor

from pyro_gen.models.tabular.mixture_columns import Curves, Layout, Rows
from pyro_gen.models.tabular.mixture_rows import Draw
from pyro_gen.models.tabular.truncated import log_interval

__all__ = ["expect_cells", "score_cells"]

NEGLIGIBLE = 1e-6  # responsibility of a component that expectations of real entries are taken without
NODES = 5  # of the rule for the expectation of a real entry: on breast it is off by 0.001 standard deviations
GRID = 64  # quantiles that the expectation of a count averages over


def score_cells(rows: Rows, p: Draw, log_share: Tensor, mean: Tensor, factor: Tensor, layout: Layout) -> Tensor:
    """The log-densities of entries, log-probabilities of levels, counts and atoms.

    Arguments:
        rows: The entries; NaN gives NaN or zero.
        p: The parameters of one chain.
        log_share: Log-responsibilities, with shape :math:`(K, N)`.
        mean: Means of factors, with shape :math:`(K, N, R)`.
        factor: The Cholesky factors of their precisions, with shape :math:`(K, N, R, R)`.
        layout: Where which columns are.

    Returns:
        With shape :math:`(N, D)`.
    """
    real, each = len(layout.real), log_share.unsqueeze(-1)  # (K, N, 1)
    out, levels = log_share.new_empty(log_share.shape[1], layout.columns), rows.by_column()
    if real:
        loc, scale = _real(p, torch.arange(len(log_share)).unsqueeze(-1), mean, factor)
        density = -((rows.real - loc) / scale).square() / 2 - (scale * math.sqrt(2 * math.pi)).log()
        for j, i in enumerate(layout.with_atom, len(layout.levels)):  # at the atom no number is seen
            density[..., i] = density[..., i].nan_to_num() + p[f"levels_{j}"][0].log() @ levels[j].T
        out[:, layout.real] = (each + density).logsumexp(0) + rows.log_slope
    if layout.whole:
        loc, scale = p["loc"][0, :, None, real:], p["noise"][0, :, None, real:].sqrt()
        inside = log_interval((rows.lower - loc) / scale, (rows.upper - loc) / scale)
        out[:, layout.whole] = (each + inside).logsumexp(0)
    for j, d in enumerate(layout.levels):
        out[:, d] = (log_share + p[f"levels_{j}"][0].log() @ levels[j].T).logsumexp(0)
    return out


def expect_cells(
    p: Draw, log_share: Tensor, mean: Tensor, factor: Tensor, layout: Layout, curves: Curves
) -> list[Tensor]:
    """What is to be expected of entries, by what :func:`score_cells` takes.

    Returns:
        For each column expectations, with shape :math:`(N, 1)`, or the probabilities of its L levels, :math:`(N, L)`.
    """
    share, real = log_share.exp(), len(layout.real)
    out: dict[int, Tensor] = {}
    if real:
        k, n = (share > NEGLIGIBLE).nonzero(as_tuple=True)  # few components for most rows
        own = curves.real.expected(*_real(p, k, mean[k, n], factor[k, n]), NODES)
        for j, i in enumerate(layout.with_atom, len(layout.levels)):
            own[:, i] = own[:, i].lerp(layout.atoms[i].to(own), p[f"levels_{j}"][0, k, 1])
        means = own.new_zeros(share.shape[1], real).index_add(0, n, share[k, n].unsqueeze(-1) * own)
        out |= zip(layout.real, means.unsqueeze(-1).unbind(1), strict=True)
    if layout.whole:
        split, loc, scale = len(layout.counts), p["loc"][0, :, real:], p["noise"][0, :, real:].sqrt()  # (K, D)
        even = torch.special.ndtri((torch.arange(GRID).to(share) + 0.5) / GRID)[:, None, None]
        middle, spread = curves.log_counts
        logs = loc[:, :split] + scale[:, :split] * even  # (GRID, K, D)
        count = (middle + spread * logs).exp().floor().minimum(layout.last.to(share)).mean(0)
        out |= zip(layout.counts, (share.T @ count).unsqueeze(-1).unbind(1), strict=True)
        for i, (d, size) in enumerate(zip(layout.ordinal, layout.grades, strict=True)):
            ends = (curves.ends[i, : size + 1] - loc[:, split + i, None]) / scale[:, split + i, None]
            out[d] = share.T @ log_interval(ends[:, :-1], ends[:, 1:]).exp()
    out |= {d: share.T @ p[f"levels_{j}"][0] for j, d in enumerate(layout.levels)}
    return [out[d] for d in range(len(out))]


def _real(p: Draw, k: Tensor, mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Means and scales (*, D) of straightened columns in components k (*), by means (*, R) and factors (*, R, R)."""
    loadings, real = p["loadings"][0, k], p["loadings"].shape[2]
    across = torch.linalg.solve_triangular(factor, loadings.mT, upper=False)  # (*, R, D)
    variance = across.square().sum(-2) + p["noise"][0, k, :real]
    return (mean.unsqueeze(-2) @ loadings.mT).squeeze(-2) + p["loc"][0, k, :real], variance.sqrt()
