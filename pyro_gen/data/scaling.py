r"""The working scale: numbers of a table as the programs for tables see them.

.. math::

    \text{real: } \frac{x - m}{s}, \qquad
    \text{positive: } \frac{\log x - m}{s}, \qquad
    \text{bounded: } \frac{1}{s} \left(\log \frac{y}{1 - y} - m\right), \quad y = \frac{x - l}{u - l} ,

with mean :math:`m` and standard deviation :math:`s` of what was observed in the table learnt from, while counts and
codes stay as they are. Numbers of which there are only a few different ones can become codes, too. And a column can
have an atom: one number that many rows have exactly, while the others are spread out.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_gen.data.atoms import at_atom, atoms_of
from pyro_gen.data.column import Column
from pyro_gen.data.gross import plausible_range
from pyro_gen.data.kinds import moments
from pyro_gen.data.schema import Schema

__all__ = ["Scaling"]

NUMBERS = ("real", "positive", "bounded")
MOST_LEVELS, REPEATS = 12, 5  # different numbers, and rows for each on average
ATOM_ROWS, ATOM_SHARE, ATOM_TIMES = 10, 0.1, 5  # with an atom: rows, share of all rows, times as many as any other


@dataclass(frozen=True)
class Scaling:
    r"""The way to the working scale and back.

    Real, positive and bounded columns become real with mean 0 and variance 1 (positive ones by way of the logarithm,
    bounded ones of the logit); a constant column becomes 0. Counts, and the codes of levels, stay as they are.

    Where it is asked for, a column of a few numbers, each of which many rows have, becomes an ordinal one with these
    numbers as its levels; a number that is new becomes the nearest of them. A density knows no bound at such numbers,
    and a smooth one lies between them.

    Where it is asked for, too, a number that a tenth of the rows have, and five times as many as any other, becomes the
    atom of its column, and programs are told: the 0 of rainfall. An imputation is then exactly that number, or another,
    which is never beyond the atom where nothing was observed there.

    The edges of a bounded column would be infinite. So whatever is nearer to an edge than half the smallest distance
    from an edge at which anything was observed (as a share of the width, not below :math:`10^{-6}`) is taken to lie
    there, half that distance off; and comes back as the edge itself. An imputation can then be exactly 0%, and what is
    inside is not moved at all. A 0 in a positive column, which new data may well have where the table learnt from had
    none, is taken for half the smallest number above 0 that was observed.

    A real column with a limit l is as it is where anything was observed. Between the limit and the observed number a
    next to it, where there is nothing to be seen, an exponential leads there,

    .. math:: x = l + (a - l) \, e^{(y - a) / (a - l)} \quad (y < a) ,

    for the number y of the straight line, so that no draw is beyond the limit and none piles up there; where numbers at
    the limit were observed, what is beyond is at the limit, too. What new data has at the limit or beyond is where the
    line has the limit.

    Gross entries, a 9999 among ages, say nothing of the others, neither here nor to programs, which see rows by way of
    :meth:`plausible`. A column whose limits are given has none within them.

    What comes back of a positive column, or of a count, ends beyond the extremes observed by half their distance from
    the median, in logarithms. Few rows say little of a tail, and the mean of an exponential of heavy tails is infinite:
    without an end one draw could make the mean of a column a thousand times what it is.

    Attributes:
        columns: The D columns as the programs see them: real, count, binary, nominal or ordinal.
        kinds: The kinds that they had before.
        loc: What is subtracted.
        scale: What is divided by.
        lower: Lower edges of bounded columns, 0 elsewhere.
        upper: Upper edges, 1 elsewhere.
        edge: The share of the width at which an edge of a bounded column is taken to lie, and what a 0 in a positive
            one is taken for; 0 elsewhere.
        least: Logarithms of the smallest numbers that come back, in positive columns.
        most: Logarithms of the greatest, in positive columns, and of counts plus one; infinite elsewhere.
        levels: The numbers of columns that became ordinal, increasing; empty elsewhere.
        atoms: The atoms of columns on the encoded scale; ``None`` elsewhere.
        sides: On which side of its atom a column may be: 1 above, -1 below, 0 both.
        limits: The limits of real columns, infinite where there is none, and elsewhere.
        ends: The smallest and the greatest number that was observed.
        ranges: Outside of which numbers are gross, see :func:`.plausible_range`.

    Example:
        >>> schema = Schema((Column("income", "positive"), Column("children", "count")))
        >>> encoded = torch.tensor([[10.0, 0.0], [1000.0, 3.0], [math.nan, 1.0]])
        >>> scaling = Scaling.fit(schema, encoded)
        >>> scaling.forward(encoded).round(decimals=3)
        tensor([[-1.,  0.],
                [ 1.,  3.],
                [nan,  1.]])
        >>> scaling.inverse(torch.tensor([0.0, 2.0])).round(decimals=3)
        tensor([100.,   2.])
    """

    columns: tuple[Column, ...]
    kinds: tuple[str, ...]
    loc: tuple[float, ...]
    scale: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    edge: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    levels: tuple[tuple[float, ...], ...]
    atoms: tuple[float | None, ...]
    sides: tuple[int, ...]
    limits: tuple[tuple[float, float], ...]
    ends: tuple[tuple[float, float], ...]
    ranges: tuple[tuple[float, float], ...]

    @classmethod
    def fit(cls, schema: Schema, encoded: Tensor, *, levels: bool = False, atoms: bool = False) -> Self:
        """Learns the scaling from what is observed.

        Arguments:
            schema: The columns.
            encoded: The table to learn from, with shape :math:`(N, D)`, as :meth:`Schema.encode` gives it.
            levels: Whether columns of at most 12 numbers, which 5 rows or more have on average, become ordinal.
            atoms: Whether there are atoms, those that columns name and those that are found.

        Raises:
            ValueError: If the shape is another, or a column has no observed value.
        """
        if encoded.dim() != 2 or encoded.shape[1] != len(schema.columns):
            raise ValueError(f"encoded has shape {tuple(encoded.shape)}, expected (N, {len(schema.columns)}).")
        table = encoded.detach().to("cpu", torch.float64).numpy()
        rows: list[tuple[Any, ...]] = []
        limits = tuple(c.limits if c.kind == "real" else (-math.inf, math.inf) for c in schema.columns)
        ends: list[tuple[float, float]] = []
        ranges: list[tuple[float, float]] = []
        for i, column in enumerate(schema.columns):
            seen = table[~np.isnan(table[:, i]), i]
            if len(seen) == 0:
                raise ValueError(f"no observed value in column {column.name!r}; leave it out.")
            ranges.append(_range(column, seen))
            seen = seen[(seen >= ranges[-1][0]) & (seen <= ranges[-1][1])]
            ends.append((float(seen.min()), float(seen.max())))
            lower, upper, edge, least, most, atom = 0.0, 1.0, 0.0, -math.inf, math.inf, None
            values, counts = np.unique(seen if column.kind in NUMBERS else seen[:0], return_counts=True)
            if levels and 1 < len(values) <= min(MOST_LEVELS, len(seen) / REPEATS):
                rows.append((0.0, 1.0, lower, upper, edge, least, most, tuple(values.tolist()), atom, 0))
                continue
            if atoms:
                atom = _atom(values, counts) if column.atom is None else column.atom
            side = int(atom == seen.min()) - int(atom == seen.max())
            if column.kind == "positive":
                edge = max(float(seen[seen > 0].min(initial=math.inf)) / 2, float(np.finfo(np.float64).tiny))
                edge = edge if math.isfinite(edge) else 1.0  # where all are 0, any number will do
                seen = np.log(np.where(seen > 0, seen, edge))
                least, most = _reach(seen)
            elif column.kind == "count":
                most = _reach(np.log(seen + 1))[1]
            elif column.kind == "bounded":
                assert column.lower is not None and column.upper is not None  # Column has checked it
                lower, upper = column.lower, column.upper
                share = (seen - lower) / (upper - lower)
                gaps = np.minimum(share, 1 - share)
                # Where all lie on the edges, any distance gives the same working scale.
                edge = max(1e-6, float(gaps[gaps > 0].min(initial=0.5)) / 2)
                share = share.clip(edge, 1 - edge)
                seen = np.log(share) - np.log1p(-share)
            shift = moments(seen) if column.kind in NUMBERS else (0.0, 1.0)
            rows.append((*shift, lower, upper, edge, least, most, (), atom, side))
        columns = tuple(
            Column(c.name, "ordinal", row[-3])
            if row[-3]
            else Column(c.name, "real")
            if c.kind in NUMBERS
            else replace(c, upper=min(c.limits[1], float(np.rint(np.expm1(row[-4])))))
            if c.kind == "count"
            else c
            for c, row in zip(schema.columns, rows, strict=True)
        )
        fields: list[Any] = [*zip(*rows, strict=True), limits, tuple(ends), tuple(ranges)]
        scaling = cls(columns, tuple(c.kind for c in schema.columns), *fields)
        found = scaling.forward(_numbers(scaling.atoms, encoded.double().cpu())).tolist()
        told = (c if math.isnan(a) else replace(c, atom=a) for c, a in zip(columns, found, strict=True))
        return replace(scaling, columns=tuple(told))

    @property
    def curved(self) -> list[int]:
        """The positive and bounded columns: on the working scale their means are others."""
        return sorted(self._of("positive") + self._of("bounded"))

    def plausible(self, encoded: Tensor) -> Tensor:
        """Encoded rows, with shape :math:`(*, D)`, without their gross entries: NaN in their place."""
        low, high = encoded.new_tensor(self.ranges).unbind(-1)
        return torch.where((encoded < low) | (encoded > high), torch.nan, encoded)

    def forward(self, encoded: Tensor) -> Tensor:
        """Brings encoded rows, with shape :math:`(*, D)`, to the working scale; NaN stays NaN."""
        x = encoded.clone()
        if logs := self._of("positive"):
            edge = x.new_tensor([self.edge[i] for i in logs])
            x[..., logs] = torch.where(x[..., logs] <= 0, edge, x[..., logs]).log()
        if logits := self._of("bounded"):
            lower, upper, edge = self._edges(x, logits)
            x[..., logits] = ((x[..., logits] - lower) / (upper - lower)).clamp(edge, 1 - edge).logit()
        for i, side, limit, end, gap in self._limited(apart=True):
            inside = side * (x[..., i] - limit)
            inside = torch.where(inside <= 0, gap / math.e, inside)  # at the limit, or beyond: where the line has it
            x[..., i] = torch.where(inside < gap, end + side * gap * (inside / gap).log(), x[..., i])
        for i, levels in self._with_levels(x):
            code = torch.bucketize(x[..., i].contiguous(), (levels[1:] + levels[:-1]) / 2).to(x)
            x[..., i] = torch.where(x[..., i].isnan(), torch.nan, code)
        return (x - x.new_tensor(self.loc)) / x.new_tensor(self.scale)

    def line(self, working: Tensor) -> Tensor:
        """Rows on the working scale, with shape :math:`(*, D)`, times the scale and shifted, and nothing else."""
        return working * working.new_tensor(self.scale) + working.new_tensor(self.loc)

    def inverse(self, working: Tensor) -> Tensor:
        """Brings rows on the working scale, with shape :math:`(*, D)`, back to the encoded one; NaN stays NaN."""
        x = self.line(working)
        atoms = atoms_of(self.columns).to(working)
        if logs := self._of("positive"):
            least, most = (x.new_tensor([bound[i] for i in logs]) for bound in (self.least, self.most))
            x[..., logs] = x[..., logs].clamp(least, most).exp()
        if counts := self._of("count"):
            x[..., counts] = x[..., counts].clamp(max=x.new_tensor([self.most[i] for i in counts]).expm1().round())
        if logits := self._of("bounded"):
            lower, upper, edge = self._edges(x, logits)
            share = x[..., logits].sigmoid()
            edge = edge * (1 + 1e-5)  # what was put on the edge is there after rounding too
            inside = lower + (upper - lower) * share
            x[..., logits] = torch.where(share <= edge, lower, torch.where(1 - share <= edge, upper, inside))
        for i, levels in self._with_levels(x):
            x[..., i] = torch.where(x[..., i].isnan(), torch.nan, levels[x[..., i].nan_to_num().long()])
        for i, side, limit, end, gap in self._limited():
            past = side * (x[..., i] - end) / (gap or 1.0)  # negative where nothing was observed
            x[..., i] = torch.where(past < 0, limit + side * gap * past.clamp(max=0).exp(), x[..., i])
        beyond = (working - atoms) * working.new_tensor(self.sides) < 0
        return torch.where(beyond | at_atom(working, atoms), _numbers(self.atoms, x), x)

    def log_abs_det(self, encoded: Tensor) -> Tensor:
        r"""The logarithm of the slope of :meth:`forward`, which makes densities on the encoded scale of working ones.

        Arguments:
            encoded: Rows with shape :math:`(*, D)`. Values on an edge are taken for where :meth:`forward` puts them.

        Returns:
            :math:`\log |dz / dx|`, with shape :math:`(*, D)`; 0 for counts, codes, levels and atoms, NaN where the
            value is.

        Example:
            >>> schema = Schema((Column("income", "positive"), Column("children", "count")))
            >>> scaling = Scaling.fit(schema, torch.tensor([[1.0, 0.0], [math.e**2, 3.0]]))  # z = log(x) - 1
            >>> scaling.log_abs_det(torch.tensor([[0.5, 2.0]])).exp().round(decimals=3)
            tensor([[2., 1.]])
        """
        slope = -encoded.new_tensor(self.scale).log() + torch.zeros_like(encoded)
        if logs := self._of("positive"):
            x = encoded[..., logs]
            slope[..., logs] -= torch.where(x <= 0, x.new_tensor([self.edge[i] for i in logs]), x).log()
        if logits := self._of("bounded"):
            lower, upper, edge = self._edges(encoded, logits)
            share = ((encoded[..., logits] - lower) / (upper - lower)).clamp(edge, 1 - edge)
            slope[..., logits] -= share.log() + (-share).log1p() + (upper - lower).log()
        for i, side, limit, _, gap in self._limited(apart=True):
            inside = side * (encoded[..., i] - limit)
            inside = torch.where(inside <= 0, gap / math.e, inside)
            slope[..., i] -= torch.where(inside < gap, (inside / gap).log(), 0.0)
        slope = torch.where(encoded == _numbers(self.atoms, encoded), 0.0, slope)
        return torch.where(encoded.isnan(), torch.nan, slope)

    def _of(self, kind: str) -> list[int]:
        return [i for i, k in enumerate(self.kinds) if k == kind and not self.levels[i]]

    def _limited(self, apart: bool = False) -> Iterator[tuple[int, int, float, float, float]]:
        """Real columns with a limit: which, 1 where it is below and -1 above, the limit, the observed number next to
        it, and how far that is from it; only those where it is not at it, if these are asked for.
        """
        for i in self._of("real"):
            for side, limit, end in zip((1, -1), self.limits[i], self.ends[i], strict=True):
                if math.isfinite(limit) and (side * end > side * limit or not apart):
                    yield i, side, limit, max(side * end, side * limit) * side, max(0.0, side * (end - limit))

    def _with_levels(self, x: Tensor) -> list[tuple[int, Tensor]]:
        return [(i, x.new_tensor(levels)) for i, levels in enumerate(self.levels) if levels]

    def _edges(self, x: Tensor, which: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper, edge = (x.new_tensor([v[i] for i in which]) for v in (self.lower, self.upper, self.edge))
        return lower, upper, edge


def _range(column: Column, seen: "np.ndarray[Any, Any]") -> tuple[float, float]:
    """Outside of which numbers of a column are gross; its own limits are the user's word that what is inside is not."""
    if column.kind == "positive" and (seen > 0).any():
        return 0.0, float(np.exp(min(plausible_range(np.log(seen[seen > 0]))[1], 709.0)))
    if column.kind not in ("real", "count") or column.atom is not None:
        return -math.inf, math.inf
    low, high = plausible_range(seen)
    lower, upper = column.limits
    return (min(low, lower) if math.isfinite(lower) else low), (max(high, upper) if math.isfinite(upper) else high)


def _reach(logs: "np.ndarray[Any, Any]") -> tuple[float, float]:
    """How far down and up draws may go, for logarithms of what was observed."""
    middle, low, high = float(np.median(logs)), float(logs.min()), float(logs.max())
    return low - (middle - low) / 2, high + (high - middle) / 2


def _atom(values: "np.ndarray[Any, Any]", counts: "np.ndarray[Any, Any]") -> float | None:
    """The number that so many more rows have than any other."""
    if len(values) < 2:
        return None
    second, first = np.sort(counts)[-2:]
    many = first >= max(ATOM_ROWS, ATOM_SHARE * counts.sum(), ATOM_TIMES * second)
    return float(values[counts.argmax()]) if many else None


def _numbers(atoms: Sequence[float | None], like: Tensor) -> Tensor:
    """Atoms as a tensor, NaN where there is none."""
    return like.new_tensor([math.nan if atom is None else atom for atom in atoms])
