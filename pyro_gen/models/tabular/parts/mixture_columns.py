r"""The columns of the mixture of factor analysers: where they are, how they are made straight, what is seen of rows.

A real column that has one number, its atom, very often, is two: whether a row is at the atom, a column of two levels,
and the number where it is not, a real column that says nothing of rows at the atom,

.. math:: b_d = [x_d = a_d], \qquad y_d = x_d \;\; (b_d = 0), \qquad y_d \text{ missing} \;\; (b_d = 1) .

Neither are curves learnt from entries at the atom. So whatever is done with levels and with real columns that have
holes is right for both parts.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_gen._internals import is_vmapped
from pyro_gen.data.atoms import at_atom, atoms_of
from pyro_gen.data.column import Column
from pyro_gen.distributions.monotone_spline import MonotoneSpline
from pyro_gen.models.tabular.parts.marginal_transforms import fit_real_columns, fit_whole, powers
from pyro_gen.models.tabular.parts.table_program import last_counts

__all__ = ["MixtureCurves", "MixtureEvidence", "MixtureLayout", "prepare"]


class MixtureLayout(NamedTuple):
    r"""Where in a row the columns of each kind are.

    Attributes:
        real: The real columns.
        counts: The counts.
        ordinal: The ordinal columns of three levels or more.
        levels: The binary and nominal columns, and ordinal ones of two levels.
        grades: How many levels each of ``ordinal`` has.
        last: Where counts end: whatever is beyond is there, with shape :math:`(\cdot)`.
        atoms: The atom of each real column, with shape :math:`(\cdot)`, NaN where there is none.
        sizes: How many levels each of ``levels`` has, then two for each real column with an atom.
    """

    real: list[int]
    counts: list[int]
    ordinal: list[int]
    levels: list[int]
    grades: list[int]
    last: Tensor
    atoms: Tensor
    sizes: list[int]

    @staticmethod
    def of(columns: Sequence[Column]) -> "MixtureLayout":
        """That of some columns."""
        ordinal = [d for d, c in enumerate(columns) if c.kind == "ordinal" and len(c.levels) > 2]
        levels = [d for d, c in enumerate(columns) if c.discrete and d not in ordinal]
        grades = [len(columns[d].levels) for d in ordinal]
        real, counts = ([d for d, c in enumerate(columns) if c.kind == kind] for kind in ("real", "count"))
        sizes, atoms = [len(columns[d].levels) for d in levels], atoms_of([columns[d] for d in real])
        last = last_counts(columns)
        return MixtureLayout(
            real, counts, ordinal, levels, grades, last, atoms, sizes + [2] * int((~torch.isnan(atoms)).sum())
        )

    @property
    def columns(self) -> int:
        """The number D of columns."""
        return len(self.real) + len(self.whole) + len(self.levels)

    @property
    def whole(self) -> list[int]:
        """The columns of whole numbers: counts, then ordinal ones."""
        return self.counts + self.ordinal

    @property
    def with_atom(self) -> list[int]:
        """Which of the real columns have an atom; whether rows are at it, levels say that follow the others."""
        found: list[int] = (~torch.isnan(self.atoms)).nonzero()[:, 0].tolist()
        return found

    @property
    def uniforms_per_row(self) -> int:
        """How many uniform numbers the entries of a row take."""
        return self.columns + len(self.with_atom)

    def supports(self) -> list[Any]:
        """What values each of the D columns can take; ``None`` where there is an atom, and so no density."""
        found: dict[int, Any] = {}
        for d, atom in zip(self.real, self.atoms.tolist(), strict=True):
            found[d] = constraints.real if math.isnan(atom) else None
        for d, last in zip(self.counts, self.last.tolist(), strict=True):
            ends = math.isfinite(last)
            found[d] = constraints.integer_interval(0, int(last)) if ends else constraints.nonnegative_integer
        for d, size in (*zip(self.ordinal, self.grades, strict=True), *zip(self.levels, self.sizes, strict=False)):
            found[d] = constraints.integer_interval(0, size - 1)
        return [found[d] for d in range(self.columns)]


class MixtureCurves(NamedTuple):
    r"""What makes columns normal, or nearly so, where nothing is known of components.

    Attributes:
        real: The curves T of real columns.
        log_counts: Mean and scale of the logarithms of counts, with shape :math:`(2, \cdot)`.
        ends: Where the levels of ordinal columns end on the line of a standard normal variable that would have them as
            often as they were observed, after minus infinity, where the first begins; filled up with infinity.
    """

    real: MonotoneSpline
    log_counts: Tensor
    ends: Tensor

    @staticmethod
    def fit(x: Tensor, layout: MixtureLayout, deadline: float | None = None) -> "MixtureCurves":
        """Those of rows with shape :math:`(N, D)`, NaN where nothing was observed; lines where time runs short."""
        logs = (x[:, layout.counts] + 0.5).log()
        loc = logs.nanmean(0).nan_to_num()
        scale = (logs - loc).square().nanmean(0).nan_to_num(1.0).sqrt().clamp(min=0.1)
        off = ~(torch.isnan(x[:, layout.real]) | at_atom(x[:, layout.real], layout.atoms))
        curves = fit_real_columns([x[off[:, i], d] for i, d in enumerate(layout.real)], [powers], deadline)
        ends = x.new_full((len(layout.ordinal), max(layout.grades, default=0) + 1), torch.inf)
        ends[:, 0] = -torch.inf
        for own, d, size in zip(ends, layout.ordinal, layout.grades, strict=True):
            own[1:size] = fit_whole(x[~torch.isnan(x[:, d]), d], size).z[0]
        nothing = x.new_empty(0, 2)
        return MixtureCurves(
            MonotoneSpline.join(curves) if curves else MonotoneSpline(nothing, nothing), torch.stack([loc, scale]), ends
        )


class MixtureEvidence(NamedTuple):
    r"""What is seen of N rows.

    Attributes:
        real: Real columns, straightened, with shape :math:`(N, \cdot)`, NaN where missing or at the atom.
        log_slope: The logarithms of the slopes of their curves, zero there too.
        lower: Where the latent variables of whole numbers begin; the whole line where missing.
        upper: Where they end.
        values: Of whole numbers for each column those that occur, the intervals of which they are, with shape
            :math:`(2, U)`, and which of them each row has, with shape :math:`(N)`.
        levels: One where a level is, for all levels of all columns, with shape :math:`(N, L)`; zeros where missing. Of
            real columns with an atom the levels are: elsewhere, at the atom.
        sizes: How many levels each column has.
    """

    real: Tensor
    log_slope: Tensor
    lower: Tensor
    upper: Tensor
    values: list[tuple[Tensor, Tensor]]
    levels: Tensor
    sizes: list[int]

    def by_column(self) -> tuple[Tensor, ...]:
        """The levels of each column."""
        return self.levels.split(self.sizes, 1) if self.sizes else ()


def prepare(x: Tensor, layout: MixtureLayout, curves: MixtureCurves) -> MixtureEvidence:
    r"""What is seen of rows.

    Arguments:
        x: Rows with shape :math:`(N, D)`.
        layout: Where which columns are.
        curves: What makes them normal.
    """
    numbers = x[:, layout.real]
    at = at_atom(numbers, layout.atoms)
    real, log_slope = curves.real(numbers.masked_fill(at, torch.nan))
    loc, scale = curves.log_counts
    k = x[:, layout.counts]
    lower = torch.where(torch.isnan(k), -torch.inf, (k.log() - loc) / scale)
    upper = torch.where(k < layout.last.to(k), ((k + 1).log() - loc) / scale, torch.inf)
    k = x[:, layout.ordinal]
    ends = (curves.ends.T.take_along_dim(k.nan_to_num().long() + side, 0) for side in (0, 1))
    begin, end = (torch.where(torch.isnan(k), far, v) for far, v in zip((-torch.inf, torch.inf), ends, strict=True))
    lower, upper = torch.cat([lower, begin], 1), torch.cat([upper, end], 1)
    codes = [x[:, layout.levels], at.to(x).masked_fill(torch.isnan(numbers), torch.nan)[:, layout.with_atom]]
    chosen = [x.new_zeros(len(x), 0)]
    for code, size in zip(torch.cat(codes, 1).unbind(1), layout.sizes, strict=True):
        chosen.append((code.unsqueeze(-1) == torch.arange(size, device=x.device)).to(x))
    pairs = torch.stack([lower, upper]).unbind(2)
    if is_vmapped(lower):  # how many differ is then not known
        values = [(own, torch.arange(len(x), device=x.device)) for own in pairs]
    else:
        values = [own.unique(dim=1, return_inverse=True) for own in pairs]
    return MixtureEvidence(real, log_slope.nan_to_num(), lower, upper, values, torch.cat(chosen, 1), layout.sizes)
