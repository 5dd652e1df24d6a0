r"""A table with holes, completed m times: what multiple imputation hands back.

One completed table pretends that what was imputed is known. m of them, drawn from the posterior of what is missing,
show how much is not: analyse each, and pool the m results (:mod:`pyro_gen.imputation.pooling`). Do not average the
tables and analyse the average.

Only the missing entries are kept, once for each draw: m tables take the memory of one table and of
:math:`m \times \text{holes}` numbers, or of one draw's holes where the draws are made when asked for.

References:
    | Multiple Imputation for Nonresponse in Surveys (Rubin, 1987)
    | Flexible Imputation of Missing Data, chapter 5 (van Buuren, 2018)
    | https://stefvanbuuren.name/fimd
    | On a fast, robust estimator of the mode (Bickel & Frühwirth, 2006), for :meth:`Completed.mode`
    | https://doi.org/10.1016/j.csda.2005.07.011
"""

import copy
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from pyro_gen._files import atomic
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation import sensitivity
from pyro_gen.imputation.pooling.rubin import Pooled, pool

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Analyses", "Completed"]

Array = npt.NDArray[np.float64]

SPOOL = 2**27  # bytes of all draws that are held in memory, where all are needed at once
GROUPS = 50  # of rows, left out in turn by the jackknife: degrees of freedom enough for t to be nearly normal


class Completed:
    r"""A table, completed m times.

    ``completed[k]`` is the k-th completed table, of the type of the table that was given, with its index, column order
    and types, and with every observed entry as it was; ``for table in completed`` goes through all.

    Arguments:
        draws: The completed tables as :meth:`Schema.encode` has them, with shape :math:`(m, N, D)`. What they hold
            where the table has values does not matter.
        schema: What the columns are.
        like: The table with holes, a DataFrame or an array.
        info: How it was made, and what there is to know about it: method, weights, scores, seconds, warnings, seed.

    Attributes:
        schema: As given.
        info: As given.
        m: The number of draws.
        missing: Where the table has holes, with shape :math:`(N, D)`.

    Raises:
        ValueError: If shapes do not fit, or a hole is not filled.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"kg": [60.0, float("nan"), 80.0], "m": [1.6, 1.8, 1.9]})
        >>> schema = Schema.infer(table, {"kg": "positive", "m": "positive"})
        >>> draws = schema.encode(table).repeat(3, 1, 1)
        >>> draws[:, 1, 0] = torch.tensor([70.0, 75.0, 86.0])
        >>> completed = Completed(draws, schema, table)
        >>> completed
        Completed(3 draws of 3 rows x 2 columns, 1 cell (16.7%) imputed)
        >>> completed[2]
             kg    m
        0  60.0  1.6
        1  86.0  1.8
        2  80.0  1.9
        >>> completed.derive(bmi=lambda t: t.kg / t.m**2).mean().round(1)
             kg    m   bmi
        0  60.0  1.6  23.4
        1  77.0  1.8  23.8
        2  80.0  1.9  22.2
        >>> completed.fit(lambda t: (t.kg.mean(), t.kg.var() / len(t))).pool(df_complete=2).qbar
        array([72.33333333])
    """

    schema: Schema
    info: Mapping[str, Any]
    m: int
    missing: npt.NDArray[np.bool_]

    def __init__(self, draws: Tensor, schema: Schema, like: Any, info: Mapping[str, Any] | None = None) -> None:
        missing = torch.isnan(schema.encode(like)).cpu()
        if draws.ndim != 3 or draws.shape[1:] != missing.shape:
            raise ValueError(f"draws: got shape {tuple(draws.shape)}, expected (m, N, D) = (m, {_comma(missing)}).")
        self._assemble(draws.detach().cpu()[:, missing], len(draws), missing, schema, like, info)

    @classmethod
    def from_cells(
        cls,
        cells: Tensor | Callable[[int], Tensor],
        missing: Tensor | npt.NDArray[np.bool_],
        *,
        schema: Schema,
        like: Any,
        info: Mapping[str, Any] | None = None,
        m: int | None = None,
    ) -> Self:
        r"""Takes the C missing entries alone.

        Arguments:
            cells: Values of the holes, row by row, as :meth:`Schema.encode` has them, with shape :math:`(m, C)` (the
                tensor is kept, not a copy of it); or a function that makes those of draw k, with shape :math:`(C)`,
                each time that they are asked for.
            missing: Where the table has holes, with shape :math:`(N, D)`.
            schema: What the columns are.
            like: The table with holes.
            info: How it was made.
            m: The number of draws, where ``cells`` is a function.

        Raises:
            ValueError: If shapes do not fit, or a hole is not filled.

        Example:
            >>> table = np.array([[1.5, np.nan], [np.nan, 2.5]])
            >>> schema = Schema.infer(table, {"x0": "real", "x1": "real"})
            >>> make = lambda k: torch.tensor([10.0 + k, 20.0 + k])
            >>> Completed.from_cells(make, np.isnan(table), schema=schema, like=table, m=1000)[999]
            array([[   1.5, 1009. ],
                   [1019. ,    2.5]])
        """
        if isinstance(cells, Tensor) != (m is None):
            raise ValueError("m: give the number of draws where cells is a function, and only there.")
        self = cls.__new__(cls)
        holes = missing.cpu() if isinstance(missing, Tensor) else torch.from_numpy(np.array(missing, dtype=bool))
        self._assemble(cells, len(cells) if isinstance(cells, Tensor) else int(m or 0), holes, schema, like, info)
        return self

    def _assemble(
        self,
        cells: Tensor | Callable[[int], Tensor],
        m: int,
        missing: Tensor,
        schema: Schema,
        like: Any,
        info: Mapping[str, Any] | None,
    ) -> None:
        if m < 1:
            raise ValueError(f"draws: got {m} of them, expected at least 1.")
        if tuple(missing.shape) != (len(like), len(schema.columns)):
            raise ValueError(
                f"missing: got shape ({_comma(missing)}), expected ({len(like)}, {len(schema.columns)}) for this table."
            )
        self.schema, self.m, self.info = schema, m, dict(info or {})
        self.missing = missing.numpy()
        self._like = like.copy()
        self._rows, self._columns = missing.nonzero(as_tuple=True)
        self._at = [(self._columns == d).nonzero()[:, 0] for d in range(len(schema.columns))]
        self._derived: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
        self._set(cells)

    def _set(self, cells: Tensor | Callable[[int], Tensor]) -> None:
        self._cells = self._checked(cells) if isinstance(cells, Tensor) else None
        self._make = None if isinstance(cells, Tensor) else cells

    def _with(
        self,
        cells: Tensor | Callable[[int], Tensor] | None = None,
        *,
        info: Mapping[str, Any] | None = None,
        derived: Sequence[tuple[str, Callable[[Any], Any]]] = (),
    ) -> "Completed":
        """A copy with other draws, and with more to know about it."""
        other = copy.copy(self)
        other.info = {**self.info, **(info or {})}
        other._derived = (*self._derived, *derived)
        if cells is not None:
            other._set(cells)
        return other

    # Looking at it

    def __len__(self) -> int:
        return self.m

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(self.m))

    def __getitem__(self, k: int) -> Any:
        return self._complete(self._drawn(k))[0]

    def __repr__(self) -> str:
        rows, columns = self.missing.shape
        cells = len(self._rows)
        counted = f"{cells} cell{'' if cells == 1 else 's'} ({cells / max(1, self.missing.size):.1%}) imputed"
        return f"Completed({self.m} draw{'' if self.m == 1 else 's'} of {rows} rows x {columns} columns, {counted})"

    def cells(self, k: int) -> Tensor:
        r"""The missing entries of draw k, row by row: numbers, and codes of levels, float64 with shape :math:`(C)`."""
        drawn = self._drawn(k)
        names = self.schema.names
        return self._complete(drawn)[1] if any(name in names for name, _ in self._derived) else drawn

    @property
    def draws(self) -> "xr.DataArray":
        """All draws of the missing entries, with dimensions ``draw`` and ``cell``.

        Coordinates of a cell are its ``row``, the label of the table's index, and its ``column``. Levels are codes 0,
        1, ..., in the order of the schema. It takes memory for all draws at once.
        """
        import xarray as xr

        labels = np.empty(len(self.missing), dtype=object)
        labels[:] = list(self._like.index) if hasattr(self._like, "columns") else range(len(labels))
        names = np.array(self.schema.names, dtype=object)
        return xr.DataArray(
            self._stacked().numpy(),
            dims=("draw", "cell"),
            coords={
                "draw": np.arange(self.m),
                "row": ("cell", labels[self._rows.numpy()]),
                "column": ("cell", names[self._columns.numpy()]),
            },
            name="imputed",
        )

    # One table

    def mean(self) -> Any:
        """One table: means of numbers, which are not rounded as each draw is; the most frequent of levels.

        It says what to expect of an entry. An analysis of it knows nothing of what is uncertain: use :meth:`fit`.
        """
        discrete = [d for d, column in enumerate(self.schema.columns) if column.discrete]
        counts = self._level_counts(discrete)
        total = torch.zeros(len(self._rows), dtype=torch.float64)
        for k in range(self.m):
            total += self._drawn(k)
        summary = total / self.m
        for d, count in counts.items():
            summary[self._at[d]] = count.argmax(1).double()
        return self._complete(summary, rounded=False)[0]

    def median(self) -> Any:
        """One table: medians of numbers, the lower median of ordered levels, the most frequent of others."""
        return self._summarised(lambda column, draws: _median(draws, column))

    def mode(self) -> Any:
        """One table: the most frequent level or whole number; of other numbers the half-sample mode of the draws."""
        return self._summarised(lambda column, draws: _mode(draws, column))

    def _summarised(self, summarise: Callable[[Column, Array], Array]) -> Any:
        size = len(self._rows)
        summary = torch.empty(size, dtype=torch.float64)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL) as file:  # on disk where draws are long
            for k in range(self.m):
                file.write(self._drawn(k).numpy().tobytes())
            length = max(1, SPOOL // (16 * self.m))
            for first in range(0, size, length):
                part = slice(first, min(first + length, size))
                draws = np.empty((self.m, part.stop - first))
                for k in range(self.m):
                    file.seek(8 * (k * size + first))
                    draws[k] = np.frombuffer(file.read(draws[k].nbytes))
                for d, column in enumerate(self.schema.columns):
                    at = (self._columns[part] == d).nonzero()[:, 0]
                    if len(at):
                        summary[first + at] = torch.from_numpy(summarise(column, draws[:, at.numpy()]))
        return self._complete(summary)[0]

    # Analyses

    def fit(self, analysis: Callable[[Any], Any], *, groups: int = GROUPS) -> "Analyses":
        r"""Analyses each completed table.

        Arguments:
            analysis: Takes a table and returns one of

                - a pair ``(params, cov)``: a vector (names are those of a Series) and its covariance matrix or its
                  variances, or two numbers (the parameter has the name of the analysis, "parameter" if that is a
                  lambda);
                - a fitted result with ``params`` and ``cov_params()``, as those of statsmodels; its ``df_resid`` are
                  the degrees of freedom;
                - a fitted scikit-learn estimator with ``coef_``. It has no covariance, so the analysis is repeated
                  with each of some groups of rows left out in turn (the jackknife): it must do all that depends on
                  the rows itself, and takes ``groups`` times as long.
            groups: Into how many groups the jackknife deals the rows.

        Returns:
            The m estimates and their covariances; ``.pool()`` makes one result of them.

        Raises:
            TypeError: If the analysis returns something else.
            ValueError: If its shapes do not fit, or if tables give different parameters.

        Example:
            >>> table = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 5.0], [4.0, 6.0]])
            >>> schema = Schema.infer(table, {"x0": "real", "x1": "real"})
            >>> cells = torch.tensor([[3.0], [4.0], [5.0]])
            >>> completed = Completed.from_cells(cells, np.isnan(table), schema=schema, like=table)
            >>> analyses = completed.fit(lambda t: (t.mean(0), np.cov(t.T) / len(t)))
            >>> print(analyses.pool(df_complete=3).test(["q1"], null=3.0))
            D1: F(1, 1.8) = 1.83, p = 0.3219 (relative increase in variance 0.108)
        """
        results = [_read(analysis, self[k], groups) for k in range(self.m)]
        first = results[0]
        for k, result in enumerate(results):
            if result.names != first.names or result.covariance.shape != first.covariance.shape:
                raise ValueError(
                    f"The analysis gives the parameters {_listed(result.names)} in draw {k} but {_listed(first.names)} "
                    "in draw 0; make them the same, for instance by naming all levels."
                )
        return Analyses(
            first.names,
            np.stack([result.params for result in results]),
            np.stack([result.covariance for result in results]),
            min(result.df for result in results),
        )

    # What if

    def delta(self, deltas: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> "Completed":
        """Shifts what was imputed, see :func:`pyro_gen.imputation.sensitivity.delta`."""
        return sensitivity.delta(self, deltas, by=by, seed=seed)

    def delta_prior(self, priors: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> "Completed":
        """Shifts each draw by another draw of a prior, see :func:`pyro_gen.imputation.sensitivity.delta_prior`."""
        return sensitivity.delta_prior(self, priors, by=by, seed=seed)

    def tipping_point(
        self, analysis: Callable[[Any], Any], term: str, column: str, **options: Any
    ) -> "sensitivity.TippingPoint":
        """The smallest shift that changes a conclusion, see :func:`pyro_gen.imputation.sensitivity.tipping_point`."""
        return sensitivity.tipping_point(self, analysis, term, column, **options)

    def derive(self, **columns: Callable[[Any], Any]) -> "Completed":
        """Columns that follow from others, exact in each completed table.

        A column that the table does not have is added. Of one that it has, the holes are filled by the formula and the
        observed entries stay; where it is observed and what it is made of is not, the two need not agree: leave it out
        of the imputation, and derive it after.

        Arguments:
            columns: For each column a function of the completed DataFrame. Later ones see earlier ones.

        Raises:
            TypeError: If the table is no DataFrame.
        """
        if not hasattr(self._like, "columns"):
            raise TypeError("derive: the table is an array, whose columns have no names; impute a pandas DataFrame.")
        return self._with(derived=tuple(columns.items()))

    # Taking it elsewhere

    def long(self, original: bool = False) -> "pd.DataFrame":
        """All completed tables below each other, as R's ``mice::complete(imp, "long")``.

        Arguments:
            original: Put the table with holes in front, as draw 0: what ``mice::as.mids`` reads.

        Returns:
            The columns ``.imp``, the number of the draw from 1 on, and ``.id``, the label of the row (its number, where
            the index has several levels), and then the table's own.
        """
        import pandas as pd

        return pd.concat(list(self._long_parts(original)), ignore_index=True)

    def to_csv(
        self,
        path: str | os.PathLike[str],
        *,
        original: bool = False,
        written: "Callable[[pd.DataFrame], pd.DataFrame] | None" = None,
    ) -> None:
        """Writes :meth:`long` as CSV, one draw at a time.

        Arguments:
            path: The file.
            original: As in :meth:`long`.
            written: Makes of each draw what is to stand in the file, such as numbers with the digits that they came
                with.
        """
        with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            for number, part in enumerate(self._long_parts(original)):
                (part if written is None else written(part)).to_csv(file, index=False, header=number == 0)

    def to_parquet(self, path: str | os.PathLike[str], *, original: bool = False) -> None:
        """Writes :meth:`long` as Parquet, one draw at a time and each in row groups of its own.

        Memory does not grow with the number of draws, neither here nor where the file is read by row groups.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = self._long_parts(original)
        head = [next(parts) for _ in range(1 + original)]
        columns = pa.Schema.from_pandas(head[-1], preserve_index=False)  # types are those of completed tables
        repeated = [column.name for column in columns if not pa.types.is_floating(column.type)]
        with (
            atomic(path) as partial,
            pq.ParquetWriter(partial, columns, use_dictionary=repeated) as writer,
        ):
            for part in itertools.chain(head, parts):
                writer.write_table(pa.Table.from_pandas(part, schema=columns, preserve_index=False))

    def _long_parts(self, original: bool) -> Iterator["pd.DataFrame"]:
        parts = (self._numbered(self[k], k + 1) for k in range(self.m))
        if original:
            first, holes = next(parts), self._numbered(self._like, 0)
            added = [name for name in first.columns if name not in holes.columns]  # derived columns
            yield holes.join(first[added].iloc[:0].reindex(holes.index))
            yield first
        yield from parts

    def _numbered(self, table: Any, number: int) -> "pd.DataFrame":
        import pandas as pd

        frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table, columns=list(self.schema.names))
        if taken := {".imp", ".id"} & set(frame.columns):
            raise ValueError(
                f"The table has a column {taken.pop()!r}, a name that this output needs; rename the column."
            )
        several = isinstance(frame.index, pd.MultiIndex)
        head = pd.DataFrame({".imp": number, ".id": np.arange(len(frame)) if several else np.asarray(frame.index)})
        return pd.concat([head, frame.reset_index(drop=True)], axis=1)

    # Inside

    @cached_property
    def _encoded(self) -> Tensor:
        return self.schema.encode(self._like).cpu()

    def _drawn(self, k: int) -> Tensor:
        """The missing entries of draw k, derived columns not yet filled in."""
        if not -self.m <= k < self.m:
            raise IndexError(f"draw {k}: there are {self.m} draws, 0 to {self.m - 1}.")
        k %= self.m
        if self._make is None:
            assert self._cells is not None
            cells = self._cells[k].to(torch.float64, copy=True)
        else:
            cells = self._checked(self._make(k)[None])[0].to(torch.float64, copy=True)
        for column, at in zip(self.schema.columns, self._at, strict=True):
            cells[at] = torch.from_numpy(column.settled(cells[at].numpy()))
        return cells

    def _checked(self, cells: Tensor) -> Tensor:
        """Draws (m, C) of which no hole is left open; not copied."""
        if cells.ndim != 2 or cells.shape[1] != len(self._rows):
            raise ValueError(f"cells: got shape ({_comma(cells)}), expected (m, {len(self._rows)}): one for each hole.")
        cells = cells.detach().cpu()
        finite = cells.isfinite().all(0)
        if not bool(finite.all()):
            name = self.schema.names[int(self._columns[int(finite.int().argmin())])]
            raise ValueError(f"draws: column {name!r} has holes that are not filled by a finite number.")
        return cells

    def _complete(self, cells: Tensor, *, rounded: bool = True) -> tuple[Any, Tensor]:
        """The table with its holes filled and all derived columns in it, and its missing entries after that."""
        values = self._encoded.clone()
        values[self._rows, self._columns] = cells
        table = self.schema.decode(values, self._like, rounded=rounded)
        added: dict[str, Any] = {}
        for name, formula in self._derived:
            column = formula(table)
            if name not in self.schema.names:
                added[name] = column
            else:
                d = self.schema.names.index(name)
                encoded = self.schema.encode(table[list(self._like.columns)].assign(**{name: column}))
                at = torch.from_numpy(self.missing[:, d])
                values[at, d] = encoded[at, d].cpu()
                if bool(values[:, d].isnan().any()):
                    raise ValueError(f"derive: the formula of {name!r} gives missing values in a completed table.")
                table = self.schema.decode(values, self._like, rounded=rounded)
            table = table.assign(**added)
        return table, values[self._rows, self._columns]

    def _stacked(self) -> Tensor:
        return torch.stack([self.cells(k) for k in range(self.m)])

    def _level_counts(self, columns: Sequence[int]) -> dict[int, Tensor]:
        """For discrete columns, in how many draws a hole has which level, (C of the column, L)."""
        levels = {d: torch.arange(len(self.schema.columns[d].levels)) for d in columns}
        counts = {d: torch.zeros(len(self._at[d]), len(codes), dtype=torch.float64) for d, codes in levels.items()}
        for k in range(self.m if columns else 0):
            drawn = self._drawn(k)
            for d, count in counts.items():
                count += drawn[self._at[d], None] == levels[d]
        return counts


# ----------------------------------------------------------------------------------------------------------------------
# Analyses


@dataclass(frozen=True, eq=False)
class Analyses:
    """The results of one analysis of m completed tables. Made by :meth:`Completed.fit`.

    Arguments:
        names: Of the k parameters.
        estimates: With shape :math:`(m, k)`.
        covariances: Covariance matrices with shape :math:`(m, k, k)`, or variances with shape :math:`(m, k)`.
        df_complete: The degrees of freedom of the analysis of a table without holes.
    """

    names: tuple[str, ...]
    estimates: Array = field(repr=False)
    covariances: Array = field(repr=False)
    df_complete: float

    def pool(self, df_complete: float | None = None) -> Pooled:
        """Makes one result of them by Rubin's rules, see :func:`pyro_gen.imputation.pooling.pool`.

        Arguments:
            df_complete: The degrees of freedom of the analysis of a table without holes; left out, what the results
                said, or infinite where they said nothing.
        """
        df = self.df_complete if df_complete is None else df_complete
        return pool(self.estimates, self.covariances, df_complete=df, names=self.names)


@dataclass(frozen=True)
class _Result:
    names: tuple[str, ...]
    params: Array
    covariance: Array
    df: float = math.inf


def _read(analysis: Callable[[Any], Any], table: Any, groups: int) -> _Result:
    """Runs an analysis of one table and reads its result, of whatever shape."""
    result = analysis(table)
    if isinstance(result, tuple | list) and len(result) == 2:
        return _parsed(_names(result[0]) or _own_name(analysis, result[0]), result[0], result[1], math.inf)
    if hasattr(result, "params") and callable(getattr(result, "cov_params", None)):
        exogenous = getattr(getattr(result, "model", None), "exog_names", None) or ()
        names = _names(result.params) or tuple(map(str, exogenous))
        df = float(getattr(result, "df_resid", math.inf))
        return _parsed(names, result.params, result.cov_params(), df if df > 0 else math.inf)
    if hasattr(result, "coef_"):
        return _jackknife(analysis, result, table, groups)
    raise TypeError(
        f"The analysis returned {type(result).__name__}, expected (params, cov), a fitted result with params and "
        "cov_params(), or a fitted scikit-learn estimator with coef_."
    )


def _parsed(names: tuple[str, ...], params: Any, covariance: Any, df: float) -> _Result:
    q, u = np.asarray(params, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if q.ndim > 1:
        raise ValueError(f"The analysis returned params with shape {q.shape}, expected a vector; return (params, cov).")
    q = np.atleast_1d(q)
    u = np.atleast_1d(u)
    if u.shape not in ((len(q),), (len(q), len(q))):
        raise ValueError(f"The analysis returned {len(q)} params and a covariance with shape {u.shape}.")
    return _Result(names if len(names) == len(q) else tuple(f"q{i}" for i in range(len(q))), q, u, df)


def _names(params: Any) -> tuple[str, ...]:
    """The labels of a pandas Series (lists have an index too, but a method)."""
    index = getattr(params, "index", None)
    return () if index is None or callable(index) else tuple(map(str, index))


def _own_name(analysis: Callable[[Any], Any], params: Any) -> tuple[str, ...]:
    """What one number is called: as the function that gives it."""
    if np.ndim(params):
        return ()
    name = str(getattr(analysis, "__name__", ""))
    return (name if name.isidentifier() else "parameter",)


def _jackknife(analysis: Callable[[Any], Any], estimator: Any, table: Any, groups: int) -> _Result:
    r"""Coefficients with the covariance :math:`\frac{G-1}{G} \sum_g (q_{-g} - \bar q)(q_{-g} - \bar q)^T`."""
    names, params = _coefficients(estimator)
    n = len(table)
    count = min(groups, n)
    if count < 2:
        raise ValueError(f"fit(groups={groups}): the jackknife of {n} rows needs at least 2 groups.")
    group = np.random.default_rng(0).permutation(n) % count
    parts = []
    for left_out in range(count):
        kept = np.flatnonzero(group != left_out)
        part_names, part = _coefficients(analysis(table.iloc[kept] if hasattr(table, "iloc") else table[kept]))
        if part_names != names:
            raise ValueError(
                f"The estimator has the coefficients {_listed(names)}, but {_listed(part_names)} with some rows left "
                "out; return (params, cov) instead."
            )
        parts.append(part)
    apart = np.stack(parts) - np.mean(parts, 0)
    df = max(1, min(count - 1, n - len(params)))
    return _Result(names, params, (count - 1) / count * apart.T @ apart, float(df))


def _coefficients(estimator: Any) -> tuple[tuple[str, ...], Array]:
    """Intercepts and coefficients of a linear scikit-learn estimator, with their names."""
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    features = [str(name) for name in getattr(estimator, "feature_names_in_", [f"x{i}" for i in range(coef.shape[1])])]
    if getattr(estimator, "fit_intercept", True):
        intercept = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64).reshape(-1, 1), (len(coef), 1))
        coef, features = np.concatenate([intercept, coef], 1), ["intercept", *features]
    if len(coef) == 1:
        return tuple(features), coef[0]
    classes = getattr(estimator, "classes_", range(len(coef)))
    return tuple(f"{level}:{name}" for level in classes for name in features), coef.reshape(-1)


def _comma(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


# ----------------------------------------------------------------------------------------------------------------------
# Middles of draws (m, C)


def _median(draws: Array, column: Column) -> Array:
    if column.discrete and column.kind != "ordinal":
        return _mode(draws, column)
    if column.discrete:  # between two levels there is none: the lower median
        return np.asarray(np.sort(draws, 0)[(len(draws) - 1) // 2])
    return np.asarray(np.median(draws, 0))


def _mode(draws: Array, column: Column) -> Array:
    if column.discrete or column.integer:
        return np.asarray(stats.mode(draws, axis=0).mode, dtype=np.float64)
    return _half_sample_mode(draws)


def _half_sample_mode(draws: Array) -> Array:
    """The middle of the shortest half of the draws, of the shortest half of those, and so on."""
    x = np.sort(draws, 0)
    while (n := len(x)) > 3:
        half = (n + 1) // 2
        start = np.argmin(x[half - 1 :] - x[: n - half + 1], 0)
        x = np.take_along_axis(x, start + np.arange(half)[:, None], 0)
    if n < 3:
        return np.asarray(x.mean(0))
    left, right = x[1] - x[0], x[2] - x[1]
    return np.asarray(np.where(left < right, x[:2].mean(0), np.where(left > right, x[1:].mean(0), x[1])))
