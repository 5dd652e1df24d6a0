r"""The rows of a mixture of factor analysers given its parameters, where all is closed.

With the factors integrated out, a component k has seen a row with the log-density

.. math::
    \log p(x_o \mid k) = \log \mathcal{N}\big(x_o^{\text{real}}; \; \mu_k, W_k W_k^\top + \Psi_k\big)
    + \sum_{d \in \text{whole}} \log\Big(\Phi\big(\tfrac{h_d - m_{kd}}{\sqrt{s_{kd}}}\big)
    - \Phi\big(\tfrac{g_d - m_{kd}}{\sqrt{s_{kd}}}\big)\Big) + \sum_{d \in \text{level}} \log p_{kd}(x_d)

over the entries that were seen, :math:`[g_d, h_d]` the interval of a whole number's latent variable, and
:math:`x^{\text{real}}` straightened by curves, the logarithms of whose slopes come on top. A real column with an atom
is seen as a level everywhere, and as a number where a row is not at the atom. The normal density costs no
covariance matrix: with the factors' precision :math:`F F^\top = I + W^\top \Psi^{-1} W` and whitened mean :math:`e`
given the seen entries (:func:`.factor_posterior`),

.. math::
    -2 \log \mathcal{N}(x) = \sum_d \frac{(x_d - \mu_d)^2}{\psi_d} - \lVert e \rVert^2
    + \sum_d \log(2 \pi \psi_d) + \log \lvert F F^\top \rvert .

What is missing is drawn in this order: component, factors, entries; where the level says so, the atom takes the
number's place.

**One entry** given what was seen of its row: with :math:`r_{nk}` the responsibility of component k for row n, and its
factors there :math:`z_n \sim \mathcal{N}(m, (F F^\top)^{-1})`, a missing entry has the density

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
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen.distributions.factor_posterior import FactorPosterior, factor_posterior
from pyro_gen.distributions.truncated_normal import log_interval
from pyro_gen.models.tabular.parts.mixture_columns import MixtureCurves, MixtureEvidence, MixtureLayout, prepare

__all__ = ["Draw", "MixtureRows", "component_posterior", "draw_rows", "expect_cells", "score_cells"]

Draw = dict[str, Tensor]  # parameters by name of the site, with a leading dimension of C chains


def component_posterior(rows: MixtureEvidence, p: Draw) -> tuple[Tensor, FactorPosterior]:
    """How well each component fits rows.

    Arguments:
        rows: What is seen.
        p: The parameters of C chains.

    Returns:
        The log-probability of components and seen entries, straightened ones, with shape :math:`(C, K, N)`; the R
        factors given the seen entries, with batch shape :math:`(C, K, N)`.
    """
    sticks = p["sticks"]
    weights = torch.cat([sticks.log(), torch.zeros_like(sticks[:, :1])], -1)
    weights = weights + torch.cat([torch.zeros_like(sticks[:, :1]), (-sticks).log1p().cumsum(-1)], -1)
    count, real = rows.real.shape
    log_prob = weights.unsqueeze(-1).expand(-1, -1, count)
    nothing = log_prob.new_zeros(0)
    factors = FactorPosterior([], nothing, nothing)
    if real:
        seen = (~torch.isnan(rows.real)).to(log_prob)
        loadings, loc, noise = p["loadings"], p["loc"][..., :real], p["noise"][..., :real]
        factors = factor_posterior(rows.real, loadings, loc, noise)
        x, part = rows.real.nan_to_num(), loc / noise
        square = (1 / noise) @ x.square().T - 2 * part @ x.T + (part * loc) @ seen.T  # sum of (x - mu)^2 / psi
        quadratic = square - factors.e.square().sum(0)
        log_det = (2 * math.pi * noise).log() @ seen.T + 2 * factors.log_det()
        log_prob = log_prob - (quadratic + log_det) / 2
    if rows.lower.shape[1]:
        loc, scale = p["loc"][..., real:], p["noise"][..., real:].sqrt()
        for d, (values, which) in enumerate(rows.values):  # far fewer than rows
            ends = (values - loc[..., d, None, None]) / scale[..., d, None, None]  # (C, K, 2, U)
            log_prob = log_prob + log_interval(*ends.unbind(-2))[..., which]
    if rows.sizes:
        chances = torch.cat([p[f"levels_{j}"] for j in range(len(rows.sizes))], -1)
        log_prob = log_prob + chances.log() @ rows.levels.T
    return log_prob, factors


def draw_rows(rows: MixtureEvidence, p: Draw, u: Tensor, layout: MixtureLayout, curves: MixtureCurves) -> Tensor:
    """Draws all entries of rows given the seen ones.

    Arguments:
        rows: What is seen.
        p: The parameters of one chain.
        u: Uniform numbers, with shape :math:`(N, 1 + R + E)`, for component, factors and entries, of which
            :attr:`.MixtureLayout.uniforms_per_row` says how many they take.
        layout: Where which columns are.
        curves: As in :func:`.prepare`.

    Returns:
        Rows with shape :math:`(N, D)`.
    """
    log_prob, factors = component_posterior(rows, p)
    real, rank = len(layout.real), len(factors.columns)
    k = _invert(log_prob[0].T.softmax(-1), u[:, 0])  # (N,)
    noise, spare = torch.special.ndtri(u[:, 1:]).tensor_split([rank], 1)
    out = u.new_empty(len(u), layout.columns)
    if real:
        every = torch.arange(len(k), device=k.device)
        z = factors.select(lambda v: v[:, 0, k, every]).draw(noise.T).unsqueeze(-1)
        own = (p["loadings"][0, k] @ z).squeeze(-1) + p["loc"][0, k, :real]
        out[:, layout.real] = curves.real.inverse(own + p["noise"][0, k, :real].sqrt() * spare[:, layout.real])
    for j, i in enumerate(layout.with_atom):
        at = u[:, 1 + rank + layout.columns + j] < p[f"levels_{len(layout.levels) + j}"][0, k, 1]
        out[at, layout.real[i]] = layout.atoms[i].to(u)
    if layout.whole:
        latent = p["loc"][0, k, real:] + p["noise"][0, k, real:].sqrt() * spare[:, layout.whole]
        logs, grades = latent.tensor_split([len(layout.counts)], 1)
        loc, scale = curves.log_counts
        out[:, layout.counts] = (loc + scale * logs).exp().floor().minimum(layout.last.to(u))
        out[:, layout.ordinal] = (grades.unsqueeze(-1) > curves.ends[:, 1:]).sum(-1).to(u)
    for j, d in enumerate(layout.levels):
        out[:, d] = _invert(p[f"levels_{j}"][0, k], u[:, 1 + rank + d]).to(u)
    return out


def _invert(chances: Tensor, u: Tensor) -> Tensor:
    """Draws from categorical distributions (N, L), by uniform numbers (N)."""
    return (u.unsqueeze(-1) > chances.cumsum(-1)[:, :-1]).sum(-1)


class MixtureRows(dist.TorchDistribution):
    """Creates the distribution of rows of which some entries are seen.

    Arguments:
        layout: Where which columns are.
        curves: As in :func:`.prepare`.
        p: The parameters of one chain.
        rows: The number N of rows.
        seen: Which entries are seen, with shape :math:`(N, D)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(
        self, layout: MixtureLayout, curves: MixtureCurves, p: Draw, rows: int, seen: Tensor | bool = True
    ) -> None:
        self.layout, self.curves, self.p, self.seen = layout, curves, p, seen
        super().__init__(torch.Size([rows]), torch.Size([layout.columns]), validate_args=False)

    @property
    def column_supports(self) -> list[Any]:
        """What values each column of a row can take."""
        return self.layout.supports()

    def _prepared(self, value: Tensor) -> MixtureEvidence:
        return prepare(torch.where(torch.as_tensor(self.seen), value, torch.nan), self.layout, self.curves)

    def log_prob(self, value: Tensor) -> Tensor:
        rows = self._prepared(value)
        return component_posterior(rows, self.p)[0][0].logsumexp(0) + rows.log_slope.sum(-1)

    def marginalise(self, value: Tensor) -> tuple["MixtureRows", Tensor, Callable[[], Tensor]]:
        """Rows of which NaN is not seen, see :func:`pyro_gen.observe`."""
        scored = MixtureRows(self.layout, self.curves, self.p, len(value), ~torch.isnan(value))

        def draw() -> Tensor:
            numbers = 1 + self.layout.uniforms_per_row + (self.p["loadings"].shape[-1] if self.layout.real else 0)
            u = torch.rand(len(value), numbers, dtype=value.dtype, device=value.device).clamp(1e-12, 1 - 1e-12)
            return draw_rows(scored._prepared(value), self.p, u, self.layout, self.curves)

        return scored, value.nan_to_num(), draw


RESPONSIBILITY_FLOOR = 1e-6  # responsibility of a component that expectations of real entries are taken without
QUADRATURE_NODES = (
    5  # of the rule for the expectation of a real entry: on breast it is off by 0.001 standard deviations
)
COUNT_QUANTILES = 64  # quantiles that the expectation of a count averages over


def score_cells(
    rows: MixtureEvidence, p: Draw, log_share: Tensor, factors: FactorPosterior, layout: MixtureLayout
) -> Tensor:
    """The log-densities of entries, log-probabilities of levels, counts and atoms.

    Arguments:
        rows: The entries; NaN gives NaN or zero.
        p: The parameters of one chain.
        log_share: Log-responsibilities, with shape :math:`(K, N)`.
        factors: The factors, with batch shape :math:`(K, N)`.
        layout: Where which columns are.

    Returns:
        With shape :math:`(N, D)`.
    """
    real, each = len(layout.real), log_share.unsqueeze(-1)  # (K, N, 1)
    out, levels = log_share.new_empty(log_share.shape[1], layout.columns), rows.by_column()
    if real:
        loc, scale = _real(p, torch.arange(len(log_share)).unsqueeze(-1), factors)
        density = -((rows.real - loc) / scale).square() / 2 - (scale * math.sqrt(2 * math.pi)).log()
        for j, i in enumerate(layout.with_atom, len(layout.levels)):  # at the atom no number is seen
            density[..., i] = density[..., i].nan_to_num() + p[f"levels_{j}"][0].log() @ levels[j].T
        out[:, layout.real] = (each + density).logsumexp(0) + rows.log_slope
    if layout.whole:
        loc, scale = p["loc"][0, :, real:], p["noise"][0, :, real:].sqrt()
        for d, (values, which) in enumerate(rows.values):
            ends = (values - loc[:, d, None, None]) / scale[:, d, None, None]  # (K, 2, U)
            out[:, layout.whole[d]] = (log_share + log_interval(*ends.unbind(-2))[:, which]).logsumexp(0)
    for j, d in enumerate(layout.levels):
        out[:, d] = (log_share + p[f"levels_{j}"][0].log() @ levels[j].T).logsumexp(0)
    return out


def expect_cells(
    p: Draw, log_share: Tensor, factors: FactorPosterior, layout: MixtureLayout, curves: MixtureCurves
) -> list[Tensor]:
    """What is to be expected of entries, by what :func:`score_cells` takes.

    Returns:
        For each column expectations, with shape :math:`(N, 1)`, or the probabilities of its L levels, :math:`(N, L)`.
    """
    share, real = log_share.exp(), len(layout.real)
    out: dict[int, Tensor] = {}
    if real:
        k, n = (share > RESPONSIBILITY_FLOOR).nonzero(as_tuple=True)  # few components for most rows
        own = curves.real.expected_inverse(*_real(p, k, factors.select(lambda v: v[:, k, n])), QUADRATURE_NODES)
        for j, i in enumerate(layout.with_atom, len(layout.levels)):
            own[:, i] = own[:, i].lerp(layout.atoms[i].to(own), p[f"levels_{j}"][0, k, 1])
        means = own.new_zeros(share.shape[1], real).index_add(0, n, share[k, n].unsqueeze(-1) * own)
        out |= zip(layout.real, means.unsqueeze(-1).unbind(1), strict=True)
    if layout.whole:
        split, loc, scale = len(layout.counts), p["loc"][0, :, real:], p["noise"][0, :, real:].sqrt()  # (K, D)
        even = torch.special.ndtri((torch.arange(COUNT_QUANTILES).to(share) + 0.5) / COUNT_QUANTILES)[:, None, None]
        middle, spread = curves.log_counts
        logs = loc[:, :split] + scale[:, :split] * even  # (GRID, K, D)
        count = (middle + spread * logs).exp().floor().minimum(layout.last.to(share)).mean(0)
        out |= zip(layout.counts, (share.T @ count).unsqueeze(-1).unbind(1), strict=True)
        for i, (d, size) in enumerate(zip(layout.ordinal, layout.grades, strict=True)):
            ends = (curves.ends[i, : size + 1] - loc[:, split + i, None]) / scale[:, split + i, None]
            out[d] = share.T @ log_interval(ends[:, :-1], ends[:, 1:]).exp()
    out |= {d: share.T @ p[f"levels_{j}"][0] for j, d in enumerate(layout.levels)}
    return [out[d] for d in range(len(out))]


def _real(p: Draw, k: Tensor, factors: FactorPosterior) -> tuple[Tensor, Tensor]:
    """Means and scales (*, D) of straightened columns in components k (*), by the factors there."""
    own, real = p["loadings"][0, k], p["loadings"].shape[2]
    mean, variance = (v.movedim(0, -1) for v in factors.entries(own.movedim((-1, -2), (0, 1))))
    return mean + p["loc"][0, k, :real], (variance + p["noise"][0, k, :real]).sqrt()
