r"""Between the columns of a table and the normal latent variables behind them.

* real: :math:`z = T(x)`, with a smooth increasing curve :math:`T`, and the density :math:`p(z) \, T'(x)`;
* real with an atom: the same, but for an interval that stands for the atom, see
  :mod:`pyro_gen.models.tabular.parts.marginal_transforms`;
* binary, ordinal: :math:`x \le k` where :math:`z \le T(k + 1/2)`;
* count: :math:`x \le k` where :math:`z \le T(\log(k + 1/2))`;
* nominal: :math:`x = \operatorname{argmax}(0, z_1, \ldots, z_{L-1})`.

So an entry of a real column says which number its latent variable is, a level in which interval it lies. Latent
variables have their own order: those of real columns come first, then those of columns with an atom, of whole numbers
(counts, binary and ordinal columns), and the blocks of nominal ones.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_gen.data.column import Column
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.distributions.rectangle import Region
from pyro_gen.distributions.truncated_normal import log_interval, log_mass
from pyro_gen.models.tabular.parts.marginal_transforms import SplineWithAtom, fit_real_columns, fit_whole
from pyro_gen.models.tabular.parts.table_program import last_counts

__all__ = ["CopulaEvidence", "CopulaLayout", "Marginals"]

QUANTILES = 64  # quantiles that the expectation of a count, or of a column with an atom, averages over
QUADRATURE_NODES = 15  # of the rule by which the expectation of a real entry is found


class CopulaLayout(NamedTuple):
    """Where in a row the columns of each kind are, and their latent variables.

    Attributes:
        real: The R real columns without an atom.
        mixed: The A real columns with one.
        whole: The W columns of whole numbers.
        nominal: The M nominal columns.
        top: The greatest value of each column of whole numbers, infinity for counts.
        last: The same, and where counts end: whatever is beyond is there.
        blocks: The latent variables of each nominal column, among the q behind levels (and columns with an atom).
    """

    real: list[int]
    mixed: list[int]
    whole: list[int]
    nominal: list[int]
    top: list[float]
    last: list[float]
    blocks: list[range]

    @staticmethod
    def of(columns: Sequence[Column]) -> "CopulaLayout":
        """That of some columns."""
        whole = [d for d, c in enumerate(columns) if c.kind in ("count", "binary", "ordinal")]
        nominal = [d for d, c in enumerate(columns) if c.kind == "nominal"]
        top = [len(columns[d].levels) - 1.0 if columns[d].discrete else math.inf for d in whole]
        last = top.copy()
        for w, end in zip([w for w, t in enumerate(top) if t == math.inf], last_counts(columns).tolist(), strict=True):
            last[w] = end
        real = [d for d, c in enumerate(columns) if c.kind == "real" and c.atom is None]
        mixed = [d for d, c in enumerate(columns) if c.kind == "real" and c.atom is not None]
        ends = np.cumsum([len(mixed) + len(whole), *(len(columns[d].levels) - 1 for d in nominal)]).tolist()
        blocks = [range(start, end) for start, end in pairwise(ends)]
        return CopulaLayout(real, mixed, whole, nominal, top, last, blocks)

    @property
    def order(self) -> list[int]:
        """The D columns in the order of their latent variables."""
        return self.real + self.mixed + self.whole + self.nominal

    @property
    def levels(self) -> int:
        """The number q of latent variables behind levels."""
        return len(self.mixed) + len(self.whole) + sum(map(len, self.blocks))

    @property
    def size(self) -> int:
        """The number Q of all latent variables."""
        return len(self.real) + self.levels


class CopulaEvidence(NamedTuple):
    """What N rows say of their latent variables.

    Attributes:
        real: Those of real columns, with shape :math:`(N, R)`, NaN where missing.
        log_slope: The logarithms of the slopes of their curves, zero where missing.
        mixed_slope: The same of columns with an atom, with shape :math:`(N, A)`, zero at the atom.
        levels: Of the other latent variables, what entries allow.
        seen: Which latent variables have seen entries, with shape :math:`(N, Q)`.
    """

    real: Tensor
    log_slope: Tensor
    mixed_slope: Tensor
    levels: Region
    seen: Tensor


class Marginals(NamedTuple):
    """The curves of a table's columns.

    Attributes:
        layout: Where which columns are.
        real: The curves of the real ones without an atom.
        mixed: Those with one.
        whole: Those of whole numbers, of the logarithms of counts.
        top: The greatest value of each column of whole numbers, infinity for counts, with shape :math:`(W)`.
    """

    layout: CopulaLayout
    real: MonotoneSpline
    mixed: SplineWithAtom
    whole: MonotoneSpline
    top: Tensor

    @staticmethod
    def start(columns: Sequence[Column]) -> "Marginals":
        """Lines, before anything was observed."""
        layout = CopulaLayout.of(columns)
        knots = torch.tensor([0.0, 1.0], dtype=torch.float64)
        real, whole = (MonotoneSpline(*knots.expand(2, len(of), -1)) for of in (layout.real, layout.whole))
        mixed = SplineWithAtom.start(torch.tensor([columns[d].atom for d in layout.mixed], dtype=torch.float64))
        return Marginals(layout, real, mixed, whole, torch.tensor(layout.top, dtype=torch.float64))

    def fit(self, x: Tensor, deadline: float | None = None) -> "Marginals":
        """Fits the curves of rows (N, D), NaN where nothing was observed; lines where time runs short."""
        seen = [x[:, d][~torch.isnan(x[:, d])] for d in range(x.shape[1])]
        real = fit_real_columns([seen[d] for d in self.layout.real], deadline=deadline)
        atoms = self.mixed.edges[0].tolist()
        mixed = [SplineWithAtom.fit(seen[d], atom) for d, atom in zip(self.layout.mixed, atoms, strict=True)]
        whole = []
        for d, top in zip(self.layout.whole, self.layout.top, strict=True):
            discrete = top < math.inf
            curve = fit_whole(seen[d], int(top) + 1 if discrete else None)
            whole.append(curve if discrete else MonotoneSpline(curve.x.log(), curve.z))
        return self._replace(
            real=MonotoneSpline.join(real) if real else self.real,
            mixed=SplineWithAtom.join(mixed) if mixed else self.mixed,
            whole=MonotoneSpline.join(whole) if whole else self.whole,
        )

    def rows(self, x: Tensor) -> CopulaEvidence:
        """What rows with shape :math:`(N, D)` say of their latent variables."""
        z, log_slope = self.real(x[:, self.layout.real])
        k, codes, blocks = x[:, self.layout.whole], x[:, self.layout.nominal], self.layout.blocks
        edges = (torch.where(self.top < torch.inf, edge, edge.clamp(min=0.5).log()) for edge in (k - 0.5, k + 0.5))
        lower, upper = (self.whole(edge)[0] for edge in edges)
        last = k.new_tensor(self.layout.last)
        lower, upper = torch.where(k > 0, lower, -torch.inf), torch.where(k < last, upper, torch.inf)
        begin, end, mixed_slope = self.mixed.interval(x[:, self.layout.mixed])
        lower, upper = torch.cat([begin, lower], 1), torch.cat([end, upper], 1)
        known = [~torch.isnan(x[:, self.layout.mixed + self.layout.whole])]
        known += [~torch.isnan(codes[:, m : m + 1]).expand(-1, len(block)) for m, block in enumerate(blocks)]
        seen = torch.cat([~torch.isnan(z), *known], 1)
        levels = Region(lower, upper, codes, blocks, torch.cat(known, 1))
        return CopulaEvidence(z, log_slope.nan_to_num(), mixed_slope, levels, seen)

    def values(self, z: Tensor) -> Tensor:
        """The rows with shape :math:`(*, D)` of latent ones with shape :math:`(*, Q)`."""
        real, mixed, whole, nominal, _, last, blocks = self.layout
        out = z.new_empty(*z.shape[:-1], len(self.layout.order))
        levels = z[..., len(real) :]
        out[..., real] = self.real.inverse(z[..., : len(real)])
        out[..., mixed] = self.mixed.values(levels[..., : len(mixed)])
        k = self.whole.inverse(levels[..., len(mixed) : len(mixed) + len(whole)])
        k = (torch.where(self.top < torch.inf, k, k.exp()) - 0.5).ceil().clamp(min=0)
        out[..., whole] = torch.minimum(k, k.new_tensor(last))
        for d, block in zip(nominal, blocks, strict=True):
            utility = levels[..., block.start : block.stop]
            out[..., d] = torch.cat([torch.zeros_like(utility[..., :1]), utility], -1).argmax(-1).to(z)
        return out

    def log_prob(self, rows: CopulaEvidence, mean: Tensor, scale: Tensor) -> Tensor:
        """The log-densities of real columns, log-probabilities of their atoms and of whole numbers, each by itself.

        Arguments:
            rows: Their values.
            mean: The means of all latent variables, with shape :math:`(N, Q)`.
            scale: Their standard deviations, with the same shape.

        Returns:
            In nats, with shape :math:`(N, R + A + W)`.
        """
        split = len(self.layout.real)
        end = split + rows.levels.lower.shape[1]
        residual = (rows.real - mean[:, :split]) / scale[:, :split]
        density = rows.log_slope - (residual.square() + math.log(2 * math.pi)) / 2 - scale[:, :split].log()
        mean, scale = mean[:, split:end], scale[:, split:end]
        inside = log_mass((rows.levels.lower - mean) / scale, (rows.levels.upper - mean) / scale, scale)
        inside[:, : rows.mixed_slope.shape[1]] += rows.mixed_slope
        return torch.cat([density, inside], 1)

    def expected(self, mean: Tensor, scale: Tensor) -> list[Tensor]:
        """By column, real ones first: the expectation (N, 1), or the probabilities of the levels (N, L)."""
        split = len(self.layout.real)
        real = self.real.expected_inverse(mean[:, :split], scale[:, :split], QUADRATURE_NODES)
        out = list(real.unsqueeze(-1).unbind(1))
        even = torch.special.ndtri((torch.arange(QUANTILES).to(mean) + 0.5) / QUANTILES)
        mixed = slice(split, split + len(self.layout.mixed))
        spread = mean[:, None, mixed] + scale[:, None, mixed] * even[:, None]  # (N, GRID, A)
        out += self.mixed.values(spread).mean(1).unsqueeze(-1).unbind(1)
        split = mixed.stop
        for w, (top, last) in enumerate(zip(self.layout.top, self.layout.last, strict=True)):
            loc, spread = mean[:, split + w, None], scale[:, split + w, None]
            curve = MonotoneSpline(self.whole.x[w : w + 1], self.whole.z[w : w + 1])
            if top < math.inf:
                edges = curve(torch.arange(int(top)).to(mean)[:, None] + 0.5)[0].squeeze(1)
                edges = torch.cat([edges.new_tensor([-torch.inf]), edges, edges.new_tensor([torch.inf])])
                out.append(log_interval((edges[:-1] - loc) / spread, (edges[1:] - loc) / spread).exp())
            else:
                k = curve.inverse((loc + spread * even).unsqueeze(-1)).squeeze(-1).exp()
                out.append((k - 0.5).ceil().clamp(0, last).mean(1, keepdim=True))
        return out
