"""Mixed columns as numbers: what is in a table, and its codes.

A table goes down two steps and comes back up. :meth:`Schema.encode` makes a tensor of it: numbers as they are, levels
as codes 0, 1, ..., L - 1, NaN where nothing was observed. :meth:`~pyro_gen.data.Scaling.forward` brings that to the
working scale of the programs. :meth:`~pyro_gen.data.Scaling.inverse` and :meth:`Schema.decode` lead back, and whatever
was observed comes back bit for bit, because decoding fills the holes of the user's own table and touches nothing else
in it.

Errors name the column, and the row counted from 1.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_gen._errors import AdviceError, InPython
from pyro_gen.data.cells import Cells, check_names, columns_of, listed
from pyro_gen.data.column import Column
from pyro_gen.data.kinds import given_kind, inferred_kind
from pyro_gen.data.problems import Problems

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Schema"]

SAID = "as you said"


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
        check_names(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def assumed(self) -> dict[str, str]:
        """What :meth:`infer` assumed of columns because it holds of all that was observed, in words, by their names."""
        read_off = [c for c in self.columns if self.notes.get(c.name, SAID) != SAID]
        words = {c.name: "never negative" for c in read_off if c.kind == "real" and c.lower == 0}
        for c in read_off:
            if c.decimals is not None:
                rounding = f"rounded to {c.decimals} decimal{'s' * (c.decimals > 1)}"
                words[c.name] = f"{words[c.name]}, {rounding}" if c.name in words else rounding
        return words

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
        dates                                                                   real: days since 1970
        one number, always the same                                             real, with that number as its limits
        0 and 1; any other two whole numbers, in 5 rows or more                 binary
        whole numbers from 0 to at most 1000, at least three different ones,    count
        10% of them or more 0, with skewness 0.5 or more
        numbers above 0, at least 20 of them, whose skewness is above 1 and at  positive
        least halved (in absolute value) by taking logarithms
        any other numbers, whole ones too                                       real
        ======================================================================  =====================================

        Columns of whole numbers have ``integer=True`` (floats too: a column of integers with a hole is one of floats to
        pandas); others have the ``decimals`` that five rows or more all have, as prices in cents. Real columns in which
        nothing negative was observed have ``lower=0``, so that nothing negative is imputed: to say otherwise, give the
        column, ``overrides={"profit": Column("profit", "real")}``. Levels are those observed; a category that is
        declared and never seen is none, since nothing can be learnt about it, but the dtype keeps it. Nothing is ever
        taken for bounded, nor numbers for nominal or ordinal: that the data cannot tell. Positive is read off only
        where the data say it, as above: then real imputations would be off in shape.

        Arguments:
            table: A pandas DataFrame or a two-dimensional NumPy array, of N rows and D columns; the columns of an array
                are called x0, x1, ... Not observed = NaN, None and pandas' NA.
            overrides: What is known better, by name of the column: a kind (levels and whole numbers are then read off
                the data), or a :class:`Column`.

        Returns:
            The schema. Its :meth:`describe` says why each column got its kind.

        Raises:
            TypeError: If the table is of another type, or a column holds complex numbers or objects.
            ValueError: If columns have the same name, one has no observed value, infinite numbers, spans of time, text
                and numbers together or the look of an identifier; or if it does not go with its override. All that is
                wrong is said at once.
        """
        columns = columns_of(table)
        overrides = {str(name): given for name, given in (overrides or {}).items()}
        if unknown := [name for name in overrides if name not in columns]:
            raise ValueError(f"overrides for {listed(unknown)}: the table has no such column, but {listed(columns)}.")
        found: list[Column] = []
        notes: dict[str, str] = {}
        empty: list[str] = []
        wrong: list[Exception] = []
        for name, series in columns.items():
            try:
                cells = Cells(name, series)
                if cells.missing.all():
                    empty.append(name)
                elif (given := overrides.get(name)) is None:
                    column, notes[name] = inferred_kind(cells)
                    found.append(column)
                else:
                    column = given_kind(cells, given)
                    read_off = column.lower is not None and isinstance(given, str)
                    notes[name] = SAID + "; nothing negative was observed" * read_off
                    cells.encode(column)  # says what does not go with it
                    found.append(column)
            except (TypeError, ValueError) as error:
                wrong.append(error)
        if empty:
            what = f"no observed value in column {listed(empty)}; leave it out{{ignore}}, nothing can be learnt of it."
            wrong.insert(0, AdviceError(what, ignore=InPython("", empty)))
        if wrong:
            raise wrong[0] if len(wrong) == 1 else Problems(wrong)
        return cls(tuple(found), notes)

    def describe(self) -> str:
        """Says in words what each column is, and why; one line for each."""
        lines = []
        for column in self.columns:
            words = "dates" if column.dates else column.kind
            if column.discrete:
                order = " < " if column.kind == "ordinal" else " / "
                words += ", " + order.join([*map(str, column.levels[:12]), "..."][: len(column.levels)])
            elif column.integer and column.kind != "count" and not column.dates:
                words += ", whole numbers"
            elif column.decimals is not None:
                words += f", {column.decimals} decimal{'s' * (column.decimals > 1)}"
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
        values = [Cells(c.name, series).encode(c) for c, series in zip(self.columns, self._aligned(table), strict=True)]
        return torch.from_numpy(np.stack(values, 1))

    def decode(self, values: Tensor, like: Any, *, rounded: bool = True) -> Any:
        """Fills the holes of a table with numbers from the encoded scale.

        Numbers are brought within the limits of their column, and rounded: counts and integers to whole numbers, others
        to the decimals that were observed. A column keeps its dtype
        where that can hold the values. An integer dtype rounds and a float dtype is as precise as it is, a category
        whose dtype lacks levels of the schema gets them; and a column without any observed value, which pandas cannot
        know to be text, gets the dtype of its levels.

        Arguments:
            values: With shape :math:`(N, D)`, in the order of the schema; entries observed in ``like`` are not looked
                at.
            like: The table with the holes, a DataFrame or an array. It is not changed.
            rounded: Whether ``values`` could have been observed, as draws; means are between such values, and stay.

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
            column.name: Cells(column.name, series).fill(column, encoded[:, i], rounded=rounded)
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
        columns = columns_of(table)
        if isinstance(table, np.ndarray):
            if len(columns) != len(self.columns):
                raise ValueError(
                    f"the table has {len(columns)} columns, expected {len(self.columns)}: {self._words()}."
                )
            return list(columns.values())
        lacking = [name for name in self.names if name not in columns]
        known = set(self.names)
        surplus = [name for name in columns if name not in known]
        if lacking or surplus:
            problems = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"has also {listed(surplus)}"] * bool(surplus)
            raise ValueError(f"the table {' and '.join(problems)}; expected the columns {self._words()}.")
        return [columns[name] for name in self.names]

    def _words(self) -> str:
        return listed(self.names)
