r"""Mixed columns as numbers: what is in a table, its codes, and the scale on which programs see it.

A table goes down two steps and comes back up. :meth:`Schema.encode` makes a tensor of it: numbers as they are, levels
as codes 0, 1, ..., L - 1, NaN where nothing was observed. :meth:`Scaling.forward` brings that to the *working scale*:

.. math::

    \text{real: } \frac{x - m}{s}, \qquad
    \text{positive: } \frac{\log x - m}{s}, \qquad
    \text{bounded: } \frac{1}{s} \left(\log \frac{y}{1 - y} - m\right), \quad y = \frac{x - l}{u - l} ,

with mean :math:`m` and standard deviation :math:`s` of what was observed in the table learnt from, while counts and
codes stay as they are. :meth:`Scaling.inverse` and :meth:`Schema.decode` lead back, and whatever was observed comes
back bit for bit, because decoding fills the holes of the user's own table and touches nothing else in it.

Errors name the column, and the row counted from 1.
"""

import dataclasses
import functools
import math
import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Column", "Scaling", "Schema"]

KINDS = ("real", "positive", "bounded", "count", "binary", "nominal", "ordinal")

_DISCRETE = ("binary", "nominal", "ordinal")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: Its name.
        kind: One of :data:`KINDS`: ``"real"`` numbers, ``"positive"`` ones (above 0; a 0 that is
            observed all the same is let pass), ``"bounded"`` ones (from ``lower`` to ``upper``, the edges included),
            ``"count"`` (0, 1, 2, ...); ``"binary"`` (two levels, or one where the other was never seen), ``"nominal"``
            (levels without an order), ``"ordinal"`` (levels in order).
        levels: The values of a binary, nominal or ordinal column, in order; encoded as 0, 1, ..., L - 1.
        lower: A bounded column's lower edge; in other columns of numbers a hard limit of what is imputed, if given.
        upper: The same above.
        integer: Numbers that are whole: imputations are rounded. Always so for counts.

    Raises:
        TypeError: If the name is no text, or the levels are one text.
        ValueError: If the kind is unknown, or what is given does not go with it.

    Example:
        >>> Column("grade", "ordinal", levels=("poor", "fair", "good")).discrete
        True
        >>> Column("share", "bounded", lower=0, upper=1)
        Column(name='share', kind='bounded', levels=(), lower=0.0, upper=1.0, integer=False)
    """

    name: str
    kind: str
    levels: tuple[Any, ...] = ()
    lower: float | None = None
    upper: float | None = None
    integer: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"a column's name is text, got {self.name!r}.")
        if self.kind not in KINDS:
            raise ValueError(f"column {self.name!r}: kind {self.kind!r} is not one of {', '.join(KINDS)}.")
        if isinstance(self.levels, str):
            raise TypeError(f"column {self.name!r}: levels are a tuple of values, got the text {self.levels!r}.")
        levels = tuple(level.item() if isinstance(level, np.generic) else level for level in self.levels)
        object.__setattr__(self, "levels", levels)
        for edge in ("lower", "upper"):
            if (value := getattr(self, edge)) is not None:
                if not math.isfinite(value):
                    raise ValueError(f"column {self.name!r}: {edge}={value} is not finite; leave it out.")
                object.__setattr__(self, edge, float(value))
        if self.kind in _DISCRETE:
            self._check_levels()
        else:
            object.__setattr__(self, "integer", self.integer or self.kind == "count")
            self._check_limits()

    @property
    def discrete(self) -> bool:
        """Whether the values are levels (binary, nominal, ordinal) and not numbers."""
        return self.kind in _DISCRETE

    def _check_levels(self) -> None:
        count = len(self.levels)
        if self.kind == "binary" and count not in (1, 2):
            raise ValueError(f"column {self.name!r}: a binary column has 2 levels (or 1, if constant), got {count}.")
        if self.kind != "binary" and count < 2:
            raise ValueError(f"column {self.name!r}: a {self.kind} column has at least 2 levels, got {count}.")
        if len(set(self.levels)) < count:
            raise ValueError(f"column {self.name!r}: the levels {list(self.levels)} are not all different.")
        if any(level is None or (level == level) is not True for level in self.levels):
            raise ValueError(f"column {self.name!r}: 'missing' is no level; leave it out of {list(self.levels)}.")
        if self.lower is not None or self.upper is not None or self.integer:
            raise ValueError(f"column {self.name!r}: lower, upper and integer are for numbers, not for levels.")

    def _check_limits(self) -> None:
        if self.levels:
            raise ValueError(f"column {self.name!r}: levels are for binary, nominal and ordinal, not for {self.kind}.")
        if self.kind == "bounded" and (self.lower is None or self.upper is None):
            raise ValueError(f"column {self.name!r}: a bounded column needs both lower and upper.")
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        if lower > upper or (self.kind == "bounded" and lower == upper):
            raise ValueError(f"column {self.name!r}: lower={self.lower} is not below upper={self.upper}.")
        if upper < 0 and self.kind == "count":
            raise ValueError(f"column {self.name!r}: counts start at 0, got upper={self.upper}.")
        if upper <= 0 and self.kind == "positive":
            raise ValueError(f"column {self.name!r}: positive numbers are above 0, got upper={self.upper}.")
        if self.integer and np.ceil(lower) > np.floor(upper):
            raise ValueError(f"column {self.name!r}: no whole number lies between {self.lower} and {self.upper}.")


@dataclass(frozen=True)
class Schema:
    """The columns of a table, and how they become numbers.

    Attributes:
        columns: The D columns.
        notes: Why a column is what it is, in words, by its name; made by :meth:`infer`.

    Raises:
        TypeError: If something else than a column is among them.
        ValueError: If there is no column, or two have the same name.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"age": [31, None, 48, 27], "smokes": ["no", "yes", None, "no"]})
        >>> schema = Schema.infer(table, overrides={"age": "positive"})
        >>> print(schema.describe())
        age: positive, whole numbers (as you said)
        smokes: binary, no / yes (text)
        >>> schema.encode(table)
        tensor([[31.,  0.],
                [nan,  1.],
                [48., nan],
                [27.,  0.]], dtype=torch.float64)
        >>> schema.decode(torch.tensor([[31.0, 0.0], [35.7, 1.0], [48.0, 1.0], [27.0, 0.0]]), like=table)
            age smokes
        0  31.0     no
        1  36.0    yes
        2  48.0    yes
        3  27.0     no
    """

    columns: tuple[Column, ...]
    notes: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise ValueError("a schema needs at least one column.")
        for column in self.columns:
            if not isinstance(column, Column):
                raise TypeError(f"a schema is made of columns, got {column!r}.")
        _check_names(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @classmethod
    def infer(cls, table: Any, overrides: Mapping[str, str | Column] | None = None) -> Self:
        """Reads the kinds of the columns off a table. The first row of this list that applies is taken.

        ======================================================================  =====================================
        what was observed                                                       kind
        ======================================================================  =====================================
        an ordered category with 2 levels or more                               ordinal, in the order of the category
        any other category with 3 levels or more; with 2 (or 1)                 nominal; binary
        booleans                                                                binary: False, True
        text: 5 rows or more, all different; or more than 20 different texts,   an error: an identifier, or free text
        in fewer than 2 rows each on average
        any other text with 3 levels or more; with 2 (or 1)                     nominal, by the alphabet; binary
        one number, always the same                                             real, with that number as its limits
        0 and 1; any other two whole numbers, in 5 rows or more                 binary
        whole numbers from 0 to at most 1000, at least three different ones,    count
        10% of them or more 0, with skewness 0.5 or more
        numbers above 0, at least 20 of them, whose skewness is above 1 and at  positive
        least halved (in absolute value) by taking logarithms
        any other numbers                                                       real
        ======================================================================  =====================================

        Columns of whole numbers have ``integer=True`` (floats too: a column of integers with a hole is one of floats to
        pandas). Levels are those observed; a category that is declared and never seen is none, since nothing can be
        learnt about it, but the dtype keeps it. Nothing is ever taken for bounded, nor numbers for nominal or ordinal:
        that the data cannot tell. Positive is read off only where the data say it, as above: then real imputations
        would be off in shape, and partly below 0.

        Arguments:
            table: A pandas DataFrame or a two-dimensional NumPy array, of N rows and D columns; the columns of an array
                are called x0, x1, ... Not observed = NaN, None and pandas' NA.
            overrides: What is known better, by name of the column: a kind (levels and whole numbers are then read off
                the data), or a :class:`Column`.

        Returns:
            The schema. Its :meth:`describe` says why each column got its kind.

        Raises:
            TypeError: If the table is of another type, or a column holds complex numbers or objects.
            ValueError: If columns have the same name, one has no observed value, infinite numbers, dates, text and
                numbers together or the look of an identifier; or if it does not go with its override.
        """
        columns = _columns_of(table)
        overrides = {str(name): given for name, given in (overrides or {}).items()}
        if unknown := [name for name in overrides if name not in columns]:
            raise ValueError(f"overrides for {_listed(unknown)}: the table has no such column, but {_listed(columns)}.")
        cells = [_Cells(name, series) for name, series in columns.items()]
        if empty := [c.name for c in cells if c.missing.all()]:
            raise ValueError(
                f"no observed value in column {_listed(empty)}; leave it out, nothing can be learnt of it."
            )
        found: list[Column] = []
        notes: dict[str, str] = {}
        for c in cells:
            if (given := overrides.get(c.name)) is None:
                column, notes[c.name] = _infer(c)
            else:
                column, notes[c.name] = _given(c, given), "as you said"
                c.encode(column)  # says what does not go with it
            found.append(column)
        return cls(tuple(found), notes)

    def describe(self) -> str:
        """Says in words what each column is, and why; one line for each."""
        lines = []
        for column in self.columns:
            words = column.kind
            if column.discrete:
                order = " < " if column.kind == "ordinal" else " / "
                words += ", " + order.join([*map(str, column.levels[:12]), "..."][: len(column.levels)])
            elif column.integer and column.kind != "count":
                words += ", whole numbers"
            if column.lower is not None:
                words += f", at least {column.lower:g}"
            if column.upper is not None:
                words += f", at most {column.upper:g}"
            note = self.notes.get(column.name)
            lines.append(f"{column.name}: {words}" + (f" ({note})" if note else ""))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain data, for JSON.

        Raises:
            TypeError: If a level is neither text nor a number nor a boolean.
        """
        for column in self.columns:
            for level in column.levels:
                if not isinstance(level, str | int | float):
                    kind = type(level).__name__
                    raise TypeError(
                        f"column {column.name!r}: the level {level} of type {kind} has no place in JSON; make it text."
                    )
        columns = [{**dataclasses.asdict(column), "levels": list(column.levels)} for column in self.columns]
        return {"columns": columns, "notes": dict(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Makes a schema of what :meth:`to_dict` gave."""
        return cls(tuple(Column(**column) for column in data["columns"]), dict(data["notes"]))

    def encode(self, table: Any) -> Tensor:
        """Makes numbers of a table.

        Arguments:
            table: N rows of the columns of the schema: a DataFrame with these columns in any order, or an array with
                these columns in this order.

        Returns:
            The tensor, with shape :math:`(N, D)`, in float64 on the CPU, in the order of the schema. NaN = not
            observed. Whole numbers above 2^53 are rounded to the nearest float here, and only here.

        Raises:
            TypeError: If the table is of another type, or a column holds complex numbers or objects.
            ValueError: If columns are missing or too many, or a column holds what does not go with its kind: an unknown
                level, text, an infinite number, one that is out of bounds.
        """
        values = [
            _Cells(c.name, series).encode(c) for c, series in zip(self.columns, self._aligned(table), strict=True)
        ]
        return torch.from_numpy(np.stack(values, 1))

    def decode(self, values: Tensor, like: Any) -> Any:
        """Fills the holes of a table with numbers from the encoded scale.

        Numbers are brought within the limits of their column, counts and integers rounded. A column keeps its dtype
        where that can hold the values. An integer dtype rounds and a float dtype is as precise as it is, a category
        whose dtype lacks levels of the schema gets them; and a column without any observed value, which pandas cannot
        know to be text, gets the dtype of its levels.

        Arguments:
            values: With shape :math:`(N, D)`, in the order of the schema; entries observed in ``like`` are not looked
                at.
            like: The table with the holes, a DataFrame or an array. It is not changed.

        Returns:
            A copy of ``like`` without holes: the same type, index and order of the columns, and what was observed bit
            for bit.

        Raises:
            ValueError: If ``values`` has another shape, or NaN where ``like`` has a hole; if columns are missing or too
                many.
        """
        import pandas as pd

        columns = self._aligned(like)
        if values.shape != (len(like), len(self.columns)):
            raise ValueError(
                f"values has shape {tuple(values.shape)}, expected {(len(like), len(self.columns))}: "
                "the rows of the table, and the columns of the schema."
            )
        encoded = values.detach().to("cpu", torch.float64).numpy()
        filled = {
            column.name: _Cells(column.name, series).fill(column, encoded[:, i])
            for i, (column, series) in enumerate(zip(self.columns, columns, strict=True))
        }
        if isinstance(like, pd.DataFrame):
            frame = like.copy()
            for position, name in enumerate(map(str, like.columns)):
                if (series := filled[name]) is not None:
                    column: Any = series  # which the stubs do not expect there
                    frame.isetitem(position, column)
            return frame
        arrays = {i: series for i, name in enumerate(self.names) if (series := filled[name]) is not None}
        text = any(not pd.api.types.is_numeric_dtype(series.dtype) for series in arrays.values())
        array = like.astype(object) if text else like.copy()
        for i, series in arrays.items():
            array[:, i] = series.to_numpy(dtype=array.dtype)
        return array

    def _aligned(self, table: Any) -> "list[pd.Series[Any]]":
        """The columns of a table in the order of the schema."""
        columns = _columns_of(table)
        if isinstance(table, np.ndarray):
            if len(columns) != len(self.columns):
                raise ValueError(
                    f"the table has {len(columns)} columns, expected {len(self.columns)}: {self._words()}."
                )
            return list(columns.values())
        lacking = [name for name in self.names if name not in columns]
        surplus = [name for name in columns if name not in self.names]
        if lacking or surplus:
            problems = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"has also {_listed(surplus)}"] * bool(surplus)
            raise ValueError(f"the table {' and '.join(problems)}; expected the columns {self._words()}.")
        return [columns[name] for name in self.names]

    def _words(self) -> str:
        return _listed(self.names)


@dataclass(frozen=True)
class Scaling:
    r"""The way to the working scale and back.

    Real, positive and bounded columns become real with mean 0 and variance 1 (positive ones by way of the logarithm,
    bounded ones of the logit); a constant column becomes 0. Counts, and the codes of levels, stay as they are.

    The edges of a bounded column would be infinite. So whatever is nearer to an edge than half the smallest distance
    from an edge at which anything was observed (as a share of the width, not below :math:`10^{-6}`) is taken to lie
    there, half that distance off; and comes back as the edge itself. An imputation can then be exactly 0%, and what is
    inside is not moved at all. A 0 in a positive column, which new data may well have where the table learnt from had
    none, is taken for half the smallest number above 0 that was observed.

    Attributes:
        columns: The D columns as the programs see them: real, count, binary, nominal or ordinal.
        kinds: The kinds that they had before.
        loc: What is subtracted.
        scale: What is divided by.
        lower: Lower edges of bounded columns, 0 elsewhere.
        upper: Upper edges, 1 elsewhere.
        edge: The share of the width at which an edge of a bounded column is taken to lie, and what a 0 in a positive
            one is taken for; 0 elsewhere.

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

    @classmethod
    def fit(cls, schema: Schema, encoded: Tensor) -> Self:
        """Learns the scaling from what is observed.

        Arguments:
            schema: The columns.
            encoded: The table to learn from, with shape :math:`(N, D)`, as :meth:`Schema.encode` gives it.

        Raises:
            ValueError: If the shape is another, or a column has no observed value.
        """
        if encoded.dim() != 2 or encoded.shape[1] != len(schema.columns):
            raise ValueError(f"encoded has shape {tuple(encoded.shape)}, expected (N, {len(schema.columns)}).")
        table = encoded.detach().to("cpu", torch.float64).numpy()
        rows: list[tuple[float, ...]] = []
        for i, column in enumerate(schema.columns):
            seen = table[~np.isnan(table[:, i]), i]
            if len(seen) == 0:
                raise ValueError(f"no observed value in column {column.name!r}; leave it out.")
            lower, upper, edge = 0.0, 1.0, 0.0
            if column.kind == "positive":
                edge = max(float(seen[seen > 0].min(initial=math.inf)) / 2, float(np.finfo(np.float64).tiny))
                edge = edge if math.isfinite(edge) else 1.0  # where all are 0, any number will do
                seen = np.log(np.where(seen > 0, seen, edge))
            elif column.kind == "bounded":
                assert column.lower is not None and column.upper is not None  # Column has checked it
                lower, upper = column.lower, column.upper
                share = (seen - lower) / (upper - lower)
                gaps = np.minimum(share, 1 - share)
                # Where all lie on the edges, any distance gives the same working scale.
                edge = max(1e-6, float(gaps[gaps > 0].min(initial=0.5)) / 2)
                share = share.clip(edge, 1 - edge)
                seen = np.log(share) - np.log1p(-share)
            moments = _moments(seen) if column.kind in ("real", "positive", "bounded") else (0.0, 1.0)
            rows.append((*moments, lower, upper, edge))
        columns = tuple(
            Column(c.name, "real") if c.kind in ("real", "positive", "bounded") else c for c in schema.columns
        )
        loc, scale, low, high, edges = zip(*rows, strict=True)
        return cls(columns, tuple(c.kind for c in schema.columns), loc, scale, low, high, edges)

    def forward(self, encoded: Tensor) -> Tensor:
        """Brings encoded rows, with shape :math:`(*, D)`, to the working scale; NaN stays NaN."""
        x = encoded.clone()
        if logs := self._of("positive"):
            edge = x.new_tensor([self.edge[i] for i in logs])
            x[..., logs] = torch.where(x[..., logs] <= 0, edge, x[..., logs]).log()
        if logits := self._of("bounded"):
            lower, upper, edge = self._edges(x, logits)
            x[..., logits] = ((x[..., logits] - lower) / (upper - lower)).clamp(edge, 1 - edge).logit()
        return (x - x.new_tensor(self.loc)) / x.new_tensor(self.scale)

    def inverse(self, working: Tensor) -> Tensor:
        """Brings rows on the working scale, with shape :math:`(*, D)`, back to the encoded one; NaN stays NaN."""
        x = working * working.new_tensor(self.scale) + working.new_tensor(self.loc)
        if logs := self._of("positive"):
            largest = math.log(torch.finfo(x.dtype).max) * 0.99  # a draw far out in the tail is still a number
            x[..., logs] = x[..., logs].clamp(-largest, largest).exp()
        if logits := self._of("bounded"):
            lower, upper, edge = self._edges(x, logits)
            share = x[..., logits].sigmoid()
            edge = edge * (1 + 1e-5)  # what was put on the edge is there after rounding too
            inside = lower + (upper - lower) * share
            x[..., logits] = torch.where(share <= edge, lower, torch.where(1 - share <= edge, upper, inside))
        return x

    def _of(self, kind: str) -> list[int]:
        return [i for i, k in enumerate(self.kinds) if k == kind]

    def _edges(self, x: Tensor, which: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper, edge = (x.new_tensor([v[i] for i in which]) for v in (self.lower, self.upper, self.edge))
        return lower, upper, edge


class _Cells:
    """The cells of one column of a user's table.

    Attributes:
        name: The name of the column.
        series: The column.
        missing: Which cells were not observed, with shape (N,).
    """

    def __init__(self, name: str, series: "pd.Series[Any]") -> None:
        import pandas as pd

        self.name, self.series = name, series
        dtype: Any = series.dtype
        if dtype.kind in "mM" or isinstance(dtype, pd.PeriodDtype):
            raise ValueError(_dates(name))
        if dtype.kind == "c":
            raise TypeError(f"column {name!r} holds complex numbers, expected real ones.")
        if isinstance(dtype, pd.SparseDtype):
            raise TypeError(f"column {name!r} is sparse; make it dense (series.sparse.to_dense()).")
        self.missing: npt.NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
        if dtype.kind == "f" and not isinstance(dtype, np.dtype):  # 0/0 in a nullable column is NaN and not NA
            self.missing = self.missing | np.isnan(series.to_numpy(dtype=np.float64, na_value=np.nan))

    @functools.cached_property
    def content(self) -> str:
        """What is in the cells: category, boolean, number, text, mixed (text and numbers) or nothing."""
        import pandas as pd

        dtype: Any = self.series.dtype
        if self.missing.all():
            return "nothing"
        if isinstance(dtype, pd.CategoricalDtype):
            return "category"
        if dtype.kind == "b":
            return "boolean"
        if dtype.kind in "iuf":
            return "number"
        if _is_text(dtype):
            return "text"
        types = {type(value) for value in self._seen()}
        if any(issubclass(t, date | time | timedelta | np.datetime64 | np.timedelta64) for t in types):
            raise ValueError(_dates(self.name))
        booleans = {t for t in types if issubclass(t, bool | np.bool_)}
        numeric = {t for t in types if issubclass(t, numbers.Real | Decimal)} | booleans
        text = {t for t in types if issubclass(t, str)}
        if other := types - numeric - text:
            row, value = self._first(lambda value: type(value) in other)
            raise TypeError(
                f"column {self.name!r}: an argument must be a string, a number or a boolean, "
                f"and row {row} holds a {type(value).__name__}."
            )
        if text:
            return "mixed" if numeric else "text"
        return "boolean" if types == booleans else "number"

    def _seen(self) -> npt.NDArray[Any]:
        """What was observed, as objects."""
        return self.series.to_numpy(dtype=object)[~self.missing]

    def _first(self, which: Any) -> tuple[int, Any]:
        """The first observed cell of which something holds: its row, from 1, and its value."""
        seen = self._seen()
        place = next(i for i, value in enumerate(seen) if which(value))
        return int(np.flatnonzero(~self.missing)[place]) + 1, seen[place]

    def numbers(self) -> npt.NDArray[np.float64]:
        """The observed numbers, in float64, all finite."""
        if isinstance(self.series.dtype, np.dtype) and self.series.dtype.kind == "O":
            values = self._seen().astype(np.float64)
        else:
            values = self.series.to_numpy(dtype=np.float64, na_value=np.nan)[~self.missing]
        infinite = np.isinf(values)
        if infinite.any():
            raise ValueError(
                f"column {self.name!r} holds an infinite value in row {self._row(infinite)}; "
                "replace it, by NaN where the value is not known."
            )
        return values

    def levels(self) -> tuple[npt.NDArray[np.intp], list[Any]]:
        """The observed cells as indices into a list of different values."""
        import pandas as pd

        if isinstance(self.series.dtype, pd.CategoricalDtype):
            codes = self.series.cat.codes.to_numpy()[~self.missing].astype(np.intp)
            return codes, self.series.cat.categories.tolist()
        indices, values = pd.factorize(self.series[~self.missing])
        return indices, [value.item() if isinstance(value, np.generic) else value for value in values]

    def whole(self, values: npt.NDArray[np.float64]) -> bool:
        """Whether the observed numbers are whole ones. Floats from 2^53 on always are, which says nothing."""
        return self.series.dtype.kind in "iu" or bool(
            (values == np.rint(values)).all() and np.abs(values).max() < 2.0**53
        )

    def _row(self, bad: npt.NDArray[np.bool_]) -> int:
        """The row, from 1, of the first observed cell that is marked."""
        return int(np.flatnonzero(~self.missing)[bad.argmax()]) + 1

    def encode(self, column: Column) -> npt.NDArray[np.float64]:
        """The cells as numbers, with shape (N,); NaN where missing."""
        encoded = np.full(len(self.series), np.nan)
        if self.content == "nothing":
            return encoded
        if column.discrete:
            encoded[~self.missing] = self._codes(column)
            return encoded
        if self.content != "number":
            held = {"category": "categories", "boolean": "booleans"}.get(self.content, "text")
            row, value = self._first(lambda value: self.content != "mixed" or isinstance(value, str))
            raise ValueError(
                f"column {column.name!r} is {column.kind} and holds {held}: {value!r} in row {row}; "
                "make it numbers, or give it the kind binary, nominal or ordinal."
            )
        values = self.numbers()
        limits = ""
        if column.kind == "positive":
            bad, limits = values < 0, "above 0"
        elif column.kind == "count":
            bad, limits = (values < 0) | (values != np.rint(values)), "0, 1, 2, ..."
        elif column.kind == "bounded":
            bad = (values < column.lower) | (values > column.upper)  # type: ignore[operator]
            limits = f"from {column.lower:g} to {column.upper:g}"
        if limits and bad.any():
            raise ValueError(
                f"column {column.name!r} is {column.kind}, and {values[bad.argmax()]:.12g} in row {self._row(bad)} is "
                f"not: expected numbers {limits}. Correct it, or give the column another kind."
            )
        encoded[~self.missing] = values
        return encoded

    def _codes(self, column: Column) -> npt.NDArray[np.float64]:
        indices, values = self.levels()
        code_of = {level: float(code) for code, level in enumerate(column.levels)}
        codes = np.array([code_of.get(value, math.nan) for value in values])[indices]
        unseen = np.isnan(codes)
        if unseen.any():
            value = values[indices[unseen.argmax()]]
            # Two numbers are two levels only until a third is seen.
            out = "leave the cell empty" + ", or give the column another kind" * (self.content == "number")
            raise ValueError(
                f"column {column.name!r}: {value!r} in row {self._row(unseen)} is none of its levels, "
                f"{_listed(column.levels)}; learn from a table that has it, or {out}."
            )
        return codes

    def fill(self, column: Column, values: npt.NDArray[np.float64]) -> "pd.Series[Any] | None":
        """The column with its holes filled, or None where it can stay as it is."""
        import pandas as pd

        series = self.series
        dtype: Any = series.dtype
        values = values[self.missing]
        if np.isnan(values).any():
            row = int(np.flatnonzero(self.missing)[np.isnan(values).argmax()]) + 1
            raise ValueError(
                f"values has NaN for column {column.name!r} in row {row}, where the table has a hole to fill."
            )
        if isinstance(dtype, pd.CategoricalDtype) and column.discrete:
            return self._fill_category(column, values)
        if not self.missing.any():
            return None
        holds = _holds(dtype, column)
        # The dtype of the numbers in an array, a nullable column or one of pyarrow's.
        inner = np.dtype(getattr(dtype, "numpy_dtype", dtype) if holds and dtype.kind in "iufb" else np.float64)
        new = _levels_of(column, values) if column.discrete else _within(column, values, inner)
        if not holds:  # nothing was observed here, and the dtype is what pandas makes of nothing
            cells = series.to_numpy(dtype=object, copy=True)
            cells[self.missing] = new
            return pd.Series(cells.tolist(), index=series.index)
        if dtype.kind in "iufb":
            new = new.astype(inner)
        elif column.integer:  # objects
            new = np.array([int(value) for value in new], dtype=object)
        array: Any = series.to_numpy(copy=True) if isinstance(dtype, np.dtype) else series.array.copy()
        array[self.missing] = new
        filled: pd.Series[Any] = pd.Series(array, index=series.index, dtype=dtype)
        return filled

    def _fill_category(self, column: Column, values: npt.NDArray[np.float64]) -> "pd.Series[Any]":
        import pandas as pd

        dtype: Any = self.series.dtype
        categories = self.series.cat.categories.tolist()
        if not set(column.levels) <= set(categories):
            unused = [category for category in categories if category not in column.levels]
            dtype = pd.CategoricalDtype([*column.levels, *unused], ordered=dtype.ordered)
        place = {category: i for i, category in enumerate(dtype.categories.tolist())}
        codes = self.series.cat.codes.to_numpy().astype(np.int64)
        codes[~self.missing] = np.array([place[category] for category in categories])[codes[~self.missing]]
        codes[self.missing] = np.array([place[level] for level in column.levels])[_rounded(column, values)]
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=self.series.index)


def _columns_of(table: Any) -> "dict[str, pd.Series[Any]]":
    """The columns of a table by their names."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        _check_names([str(name) for name in table.columns])
        return {str(name): series for name, series in table.items()}
    if isinstance(table, np.ma.MaskedArray):
        raise TypeError("the table is a masked array; fill it with NaN first (table.astype(float).filled(np.nan)).")
    if not isinstance(table, np.ndarray):
        raise TypeError(f"a table is a pandas DataFrame or a two-dimensional array, got {type(table).__name__}.")
    if table.ndim != 2:
        raise ValueError(f"a table has rows and columns, got an array of shape {table.shape}.")
    dtype = object if table.dtype.kind == "U" else table.dtype  # pandas would look into objects and make text of some
    return {f"x{i}": pd.Series(table[:, i], dtype=dtype) for i in range(table.shape[1])}


def _check_names(names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"duplicate column names: {_listed(repeated)}; rename them.")


def _listed(things: Any, most: int = 12) -> str:
    shown = [repr(thing) for thing in things]
    return ", ".join(shown[:most]) + (f", ... ({len(shown)} in all)" if len(shown) > most else "")


def _dates(name: str) -> str:
    return f"column {name!r} holds dates or times; make numbers of them, such as days since a date, or leave it out."


def _is_text(dtype: Any) -> bool:
    import pandas as pd

    return isinstance(dtype, pd.StringDtype) or dtype.kind == "U"  # the latter is pyarrow's


# How kinds are found


def _distinct(cells: _Cells) -> list[Any]:
    """The levels that occur, in order: that of a category, or numbers by size before text by alphabet."""
    if cells.content == "boolean":
        return [False, True]
    if cells.content == "number":
        cells.numbers()  # none is infinite
    indices, values = cells.levels()
    seen = [values[i] for i in np.unique(indices)]
    return seen if cells.content == "category" else sorted(seen, key=lambda value: (isinstance(value, str), value))


def _given(cells: _Cells, given: str | Column) -> Column:
    """The column as the user wants it."""
    name = cells.name
    if isinstance(given, Column):
        if given.name != name:
            raise ValueError(f"the override for column {name!r} is a column called {given.name!r}.")
        return given
    if given == "bounded":
        raise ValueError(f"column {name!r}: 'bounded' by what? Give Column({name!r}, 'bounded', lower=..., upper=...).")
    if given not in _DISCRETE:
        return Column(name, given, integer=cells.content == "number" and cells.whole(cells.numbers()))
    levels = _distinct(cells)
    ordered = cells.content == "category" and cells.series.cat.ordered
    if given == "ordinal" and not ordered and any(isinstance(level, str) for level in levels):
        raise ValueError(
            f"column {name!r}: which order have {_listed(levels)}? "
            f"Give Column({name!r}, 'ordinal', levels=(...)), the lowest first, or make it an ordered category."
        )
    return Column(name, given, tuple(levels))


def _infer(cells: _Cells) -> tuple[Column, str]:
    """The kind of a column and why, by the rules of Schema.infer."""
    name = cells.name
    if cells.content == "number":
        return _infer_numbers(cells)
    if cells.content == "mixed":
        row, value = cells._first(lambda value: isinstance(value, str))
        raise ValueError(
            f"column {name!r} holds text and numbers: {value!r} in row {row}; "
            "make it one of the two, or give it the kind binary, nominal or ordinal."
        )
    levels = tuple(_distinct(cells))
    if cells.content == "boolean":
        return Column(name, "binary", levels), "booleans"
    if cells.content == "category":
        ordered = bool(cells.series.cat.ordered)
        unseen = len(cells.series.cat.categories) - len(levels)
        note = f"{'an ordered' if ordered else 'a'} category" + (f", {unseen} of its levels never seen" * bool(unseen))
        kind = "binary" if len(levels) <= 2 - ordered else "ordinal" if ordered else "nominal"
        return Column(name, kind, levels), note
    rows = int((~cells.missing).sum())
    if (len(levels) == rows >= 5) or (len(levels) > 20 and 2 * len(levels) > rows):
        raise ValueError(
            f"column {name!r}: {len(levels)} different texts in {rows} rows, the look of an identifier or of free "
            f"text; leave the column out, or give it a kind (overrides={{{name!r}: 'nominal'}})."
        )
    return Column(name, "binary" if len(levels) <= 2 else "nominal", levels), "text"


def _infer_numbers(cells: _Cells) -> tuple[Column, str]:
    name, values = cells.name, cells.numbers()
    distinct = np.unique(values)
    low, high = float(distinct[0]), float(distinct[-1])
    whole = cells.whole(values)
    if len(distinct) == 1:
        return Column(name, "real", lower=low, upper=high, integer=whole), f"always {low:g}"
    if whole and len(distinct) == 2 and (len(values) >= 5 or (low, high) == (0, 1)):
        levels = tuple(_distinct(cells))
        return Column(name, "binary", levels), "two whole numbers"
    skewness = _skewness(values)
    zeros = float((values == 0).mean())
    if whole and low == 0 and high <= 1000 and len(distinct) > 2 and zeros >= 0.1 and skewness >= 0.5:
        return Column(
            name, "count"
        ), f"whole numbers from 0 to {high:g}, {zeros:.0%} of them 0, skewness {skewness:.1f}"
    if low > 0 and len(values) >= 20 and skewness > 1 and abs(logs := _skewness(np.log(values))) <= skewness / 2:
        note = f"all above 0, skewness {skewness:.1f}, of the logarithms {logs:.1f}"
        return Column(name, "positive", integer=whole), note
    if not whole:
        return Column(name, "real"), f"numbers from {low:g} to {high:g}"
    note = f"{len(distinct)} different whole numbers from {low:g} to {high:g}"
    if len(distinct) <= 10:
        note += "; if they are levels, say 'ordinal' or 'nominal'"
    return Column(name, "real", integer=True), note


def _moments(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; 1 in place of the latter where all are the same."""
    if values.min() == values.max():
        return float(values[0]), 1.0
    size = np.abs(values).max()  # squares of large numbers overflow
    return float((values / size).mean() * size), float((values / size).std() * size) or 1.0


def _skewness(values: npt.NDArray[np.float64]) -> float:
    loc, scale = _moments(values)
    return float((((values - loc) / scale) ** 3).mean())


# How codes become cells


def _rounded(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.rint(values).clip(0, len(column.levels) - 1).astype(np.intp)


def _levels_of(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Levels in place of their codes, as objects."""
    levels = np.empty(len(column.levels), dtype=object)
    levels[:] = column.levels
    return levels[_rounded(column, values)]


def _within(column: Column, values: npt.NDArray[np.float64], dtype: Any) -> npt.NDArray[np.float64]:
    """Numbers within the limits of the column, and of the dtype that is to hold them."""
    whole = column.integer
    lower = -math.inf if column.lower is None else column.lower
    upper = math.inf if column.upper is None else column.upper
    if dtype.kind in "iu":
        whole = True
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        largest = float(most) if int(float(most)) == most else float(np.nextafter(float(most), 0))
        lower, upper = max(lower, float(least)), min(upper, largest)
    else:
        lower, upper = max(lower, float(np.finfo(dtype).min)), min(upper, float(np.finfo(dtype).max))
    if column.kind == "count":
        lower = max(lower, 0.0)
    if column.kind == "positive":
        lower = max(lower, float(np.finfo(np.float64 if dtype.kind in "iu" else dtype).tiny))
    if whole:
        values, lower, upper = np.rint(values), float(np.ceil(lower)), float(np.floor(upper))
    return values.clip(lower, upper) + 0.0  # no -0


def _holds(dtype: Any, column: Column) -> bool:
    """Whether a dtype that is no category can hold the values of a column."""
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return True
    if not column.discrete:
        return bool(dtype.kind in "iuf")
    if _is_text(dtype):
        return all(isinstance(level, str) for level in column.levels)
    if not all(isinstance(level, numbers.Real) for level in column.levels):
        return False
    if dtype.kind == "b":
        return set(column.levels) <= {0, 1}
    return dtype.kind == "f" or (dtype.kind in "iu" and all(level == int(level) for level in column.levels))
