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
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyro_gen.data.schema import Schema
from pyro_gen.imputation.completed import middles
from pyro_gen.imputation.completed.analyses import Analyses, analyses_of
from pyro_gen.imputation.completed.drawn_cells import DrawnCells
from pyro_gen.imputation.completed.holed_table import Formula, HoledTable
from pyro_gen.imputation.completed.long_tables import long_parts, write_csv, write_parquet
from pyro_gen.imputation.sensitivity import shifts, tipping

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Completed"]

JACKKNIFE_GROUPS = 50  # of rows, left out in turn: degrees of freedom enough for t to be nearly normal


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
        holes: The table with its holes.
        drawn: The draws of the missing entries, derived columns not yet filled in.
        formulas: Of derived columns, in order.

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

    info: Mapping[str, Any]
    holes: HoledTable
    drawn: DrawnCells
    formulas: tuple[Formula, ...]

    def __init__(self, draws: Tensor, schema: Schema, like: Any, info: Mapping[str, Any] | None = None) -> None:
        missing = torch.isnan(schema.encode(like)).cpu()
        if draws.ndim != 3 or draws.shape[1:] != missing.shape:
            expected = ", ".join(map(str, missing.shape))
            raise ValueError(f"draws: got shape {tuple(draws.shape)}, expected (m, N, D) = (m, {expected}).")
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
        self.holes = HoledTable(like, schema, missing)
        self.drawn = DrawnCells(self.holes, cells, m)
        self.formulas, self.info = (), dict(info or {})

    def redrawn(self, make: Callable[[int], Tensor], info: Mapping[str, Any]) -> "Completed":
        """The same table with other draws.

        Arguments:
            make: Gives the missing entries of draw k, with shape :math:`(C)`, derived columns not yet filled in.
            info: What there is to know about it besides.
        """
        other = copy.copy(self)
        other.drawn = self.drawn.replaced(make)
        other.info = {**self.info, **info}
        return other

    @property
    def schema(self) -> Schema:
        """What the columns are."""
        return self.holes.schema

    @property
    def m(self) -> int:
        """The number of draws."""
        return len(self.drawn)

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Where the table has holes, with shape :math:`(N, D)`."""
        return self.holes.missing

    # Looking at it

    def __len__(self) -> int:
        return self.m

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(self.m))

    def __getitem__(self, k: int) -> Any:
        return self._filled(self.drawn[k])

    def __repr__(self) -> str:
        rows, columns = self.missing.shape
        cells = self.holes.count
        counted = f"{cells} cell{'' if cells == 1 else 's'} ({cells / max(1, self.missing.size):.1%}) imputed"
        return f"Completed({self.m} draw{'' if self.m == 1 else 's'} of {rows} rows x {columns} columns, {counted})"

    def cells(self, k: int) -> Tensor:
        r"""The missing entries of draw k, row by row: numbers, and codes of levels, float64 with shape :math:`(C)`."""
        drawn, names = self.drawn[k], self.schema.names
        return self.holes.filled(drawn, self.formulas)[1] if any(n in names for n, _ in self.formulas) else drawn

    def _filled(self, cells: Tensor, *, rounded: bool = True) -> Any:
        """The table with its holes filled, and all derived columns in it."""
        return self.holes.filled(cells, self.formulas, rounded=rounded)[0]

    @property
    def draws(self) -> "xr.DataArray":
        """All draws of the missing entries, with dimensions ``draw`` and ``cell``.

        Coordinates of a cell are its ``row``, the label of the table's index, and its ``column``. Levels are codes 0,
        1, ..., in the order of the schema. It takes memory for all draws at once.
        """
        import xarray as xr

        labels = np.empty(len(self.missing), dtype=object)
        labels[:] = list(self.holes.table.index) if self.holes.is_frame else range(len(labels))
        names = np.array(self.schema.names, dtype=object)
        return xr.DataArray(
            torch.stack([self.cells(k) for k in range(self.m)]).numpy(),
            dims=("draw", "cell"),
            coords={
                "draw": np.arange(self.m),
                "row": ("cell", labels[self.holes.rows.numpy()]),
                "column": ("cell", names[self.holes.columns.numpy()]),
            },
            name="imputed",
        )

    # One table

    def mean(self) -> Any:
        """One table: means of numbers, which are not rounded as each draw is; the most frequent of levels.

        It says what to expect of an entry. An analysis of it knows nothing of what is uncertain: use :meth:`fit`.
        """
        return self._filled(self.drawn.mean(), rounded=False)

    def median(self) -> Any:
        """One table: medians of numbers, the lower median of ordered levels, the most frequent of others."""
        return self._filled(self.drawn.summarised(middles.median))

    def mode(self) -> Any:
        """One table: the most frequent level or whole number; of other numbers the half-sample mode of the draws."""
        return self._filled(self.drawn.summarised(middles.mode))

    # Analyses

    def fit(self, analysis: Callable[[Any], Any], *, groups: int = JACKKNIFE_GROUPS) -> Analyses:
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
        return analyses_of(self, analysis, groups)

    # What if

    def delta(self, deltas: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> "Completed":
        """Shifts what was imputed, see :func:`pyro_gen.imputation.sensitivity.shifts.delta`."""
        return shifts.delta(self, deltas, by=by, seed=seed)

    def delta_prior(self, priors: Mapping[str, Any], *, by: str | None = None, seed: int = 0) -> "Completed":
        """Shifts draws by draws of a prior, see :func:`pyro_gen.imputation.sensitivity.shifts.delta_prior`."""
        return shifts.delta_prior(self, priors, by=by, seed=seed)

    def tipping_point(
        self, analysis: Callable[[Any], Any], term: str, column: str, **options: Any
    ) -> tipping.TippingPoint:
        """The smallest shift that changes a conclusion, see :func:`pyro_gen.imputation.sensitivity.tipping_point`."""
        return tipping.tipping_point(self, analysis, term, column, **options)

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
        if not self.holes.is_frame:
            raise TypeError("derive: the table is an array, whose columns have no names; impute a pandas DataFrame.")
        other = copy.copy(self)
        other.formulas = (*self.formulas, *columns.items())
        return other

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

        return pd.concat(list(self.long_parts(original)), ignore_index=True)

    def long_parts(self, original: bool = False) -> Iterator["pd.DataFrame"]:
        """The parts of :meth:`long`, one draw at a time."""
        return long_parts(iter(self), self.schema.names, self.holes.table if original else None)

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
        write_csv(self.long_parts(original), path, written)

    def to_parquet(self, path: str | os.PathLike[str], *, original: bool = False) -> None:
        """Writes :meth:`long` as Parquet, one draw at a time and each in row groups of its own.

        Memory does not grow with the number of draws, neither here nor where the file is read by row groups.
        """
        write_parquet(self.long_parts(original), path, original=original)
