r"""Amputation: holes made on purpose, by a mechanism that is known.

Write :math:`r_{nd} = 1` where entry :math:`x_{nd}` is missing. Values are missing completely at random (MCAR) if
:math:`p(r)` has nothing to do with the table, at random (MAR) if it depends on what stays observed alone, not at random
(MNAR) otherwise. Most mechanisms here are logistic,

.. math:: p(r_{nd} = 1) = \sigma\big(b_d + s \, h(z_{nd})\big), \qquad z_{nd} \propto \sum_j w_{dj} \, g_j(x_{nj}) ,

with random standard normal weights :math:`w` (1 where one column decides alone), a score :math:`g_j` that standardises
a column of numbers and gives every level of any other column a random normal number (weights on its one-hot code),
:math:`z` scaled to unit variance over the rows, and the intercept :math:`b_d` found by bisection, so that column d
loses the share that was asked for. The ``shape`` h says which rows lose most: those with high scores (``"right"``, z),
with low ones (``"left"``, -z), with extreme ones (``"tail"``, \|z\|) or with middling ones (``"mid"``, -\|z\|).

Which entries go is then drawn by systematic sampling in random order (Madow, 1949): every entry goes with exactly its
probability, and their number is the sum of the probabilities, rounded. So a requested share is met to the entry; of the
cells that go by dropout, on average. Gaps and dropout are described in :mod:`pyro_gen.imputation.time_gaps`.

References:
    | Inference and missing data (Rubin, 1976)
    | https://doi.org/10.1093/biomet/63.3.581
    | Generating missing values for simulation purposes: a multivariate amputation procedure (Schouten et al., 2018)
    | https://doi.org/10.1080/00949655.2018.1491577
    | R-miss-tastic: a unified platform for missing values methods and workflows (Mayer et al., 2019)
    | https://arxiv.org/abs/1908.04822
    | Missing data imputation using optimal transport (Muzellec et al., 2020)
    | https://arxiv.org/abs/2002.03860
    | not-MIWAE: deep generative modelling with missing not at random data (Ipsen et al., 2021)
    | https://arxiv.org/abs/2006.12871
"""

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from pyro_gen._random import seeded
from pyro_gen.imputation.columns import SHAPES, Bools, as_frame, below
from pyro_gen.imputation.mechanisms import by_columns, by_patterns, like_another
from pyro_gen.imputation.time_gaps import dropout, gaps

__all__ = ["MECHANISMS", "ampute", "takes"]

TableT = TypeVar("TableT", pd.DataFrame, npt.NDArray[Any])

_SHARE: dict[str, Any] = {"proportion": 0.3, "of": "cells"}
_LOGISTIC: dict[str, Any] = {"shape": "right", "strength": 1.0}
_OPTIONS: dict[str, dict[str, Any]] = {  # what each mechanism takes, and what it is where it is not given
    "mcar": {**_SHARE, "columns": None},
    "mar": {**_SHARE, **_LOGISTIC, "columns": None, "given": None},
    "mnar": {**_SHARE, **_LOGISTIC, "columns": None},
    "self": {**_SHARE, **_LOGISTIC, "columns": None},
    "self_hard": {"columns": None, "offset": 0.0},
    "quantile": {**_SHARE, "columns": None, "shape": "right", "quantile": 0.5},
    "patterns": {**_SHARE, **_LOGISTIC, "patterns": None, "frequencies": None, "given": None},
    "like": {"like": None, "nearest": None},
    "gaps": {**_SHARE, "columns": None, "length": 10.0},
    "dropout": {**_SHARE, **_LOGISTIC, "columns": None},
}
MECHANISMS = tuple(_OPTIONS)


def ampute(
    table: TableT,
    mechanism: str,
    proportion: float | None = None,
    *,
    columns: Sequence[Hashable] | None = None,
    of: str | None = None,
    given: Sequence[Hashable] | None = None,
    shape: str | None = None,
    strength: float | None = None,
    offset: float | None = None,
    quantile: float | None = None,
    patterns: Sequence[Sequence[Hashable]] | None = None,
    frequencies: Sequence[float] | None = None,
    like: pd.DataFrame | npt.NDArray[Any] | None = None,
    nearest: int | None = None,
    length: float | None = None,
    seed: int = 0,
) -> TableT:
    r"""Makes holes in a table, by a known mechanism.

    =============== ====================================================================================================
    mechanism       what goes missing
    =============== ====================================================================================================
    ``"mcar"``      any entry of ``columns``, whatever the table holds
    ``"mar"``       entries of ``columns``, logistic in the columns ``given``, which are and stay fully observed
    ``"mnar"``      entries of ``columns``, logistic in all columns, what goes missing included
    ``"self"``      entries of ``columns``, logistic in their own value
    ``"self_hard"`` every entry of ``columns`` above mean + ``offset`` * standard deviation of its column: self-masking
                    as in not-MIWAE. It has no ``proportion``
    ``"quantile"``  entries of ``columns`` above (``shape="left"``: below) their column's ``quantile``, censored with
                    the probability that gives the ``proportion``
    ``"patterns"``  the columns of one of the ``patterns`` together, logistic in the columns ``given``, as in mice
    ``"like"``      what is missing in the table ``like``: each row takes the holes of one of its rows
    ``"gaps"``      runs of successive rows, which are the times of a series, in each of ``columns`` by itself; with
                    ``of="rows"`` in all of them together
    ``"dropout"``   of each row what comes after some visit: ``columns`` are visits in the order of time, the first of
                    which stays. Logistic in the value at the visit before
    =============== ====================================================================================================

    Columns may hold numbers, booleans, text, or categories, of which ordered ones count as numbers 0, 1, ... Entries
    that are missing already stay so, and count as average wherever they would drive others. No column loses its last
    value: where the mechanism would take all, one of them, at random, stays.

    Arguments:
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: One of the table above.
        proportion: The share of the *cells* that go, 0.3 if not given: of the cells of ``columns`` (or of all columns
            in ``patterns``) that are observed, and under "mar", "mnar", "self", "quantile" and "gaps" of each of these
            columns by itself. With ``of="rows"`` the share of the rows that lose at least one cell.
        columns: The columns that lose entries, by name (of arrays: by number). All of them if not given, with two
            exceptions: "mar" leaves out the ``given`` ones, "self_hard" takes the first half.
        of: ``"cells"`` or ``"rows"``, see ``proportion``.
        given: The columns that decide. For "mar" a random half of the fully observed columns if not given, or, where
            ``columns`` is given, all fully observed columns outside of it; for "patterns" those outside of the pattern,
            which is missing at random. Naming columns of the pattern itself makes that not at random.
        shape: ``"right"``, ``"left"``, ``"mid"`` or ``"tail"``: which values or scores go, see above.
        strength: The factor s of the standardised score in the logit, 1 if not given; 0 is completely at random.
        offset: How far above its mean a value goes, in standard deviations; 0 if not given.
        quantile: Between 0 and 1; 0.5 if not given.
        patterns: Sequences of columns that go missing together.
        frequencies: One positive number for each pattern: how the rows are shared out among them; equal if not given.
        like: A table with the same columns and holes of its own.
        nearest: Makes "like" conditional. Each row of ``like`` hands its holes to a random one of the ``nearest`` rows
            of ``table``, by the values that it has itself and in random order, each row being handed holes once; the
            holes then depend on values as they do in ``like``, as far as its seen values tell. Takes time
            :math:`O(N^2 D)`.
        length: How long gaps are on average, 10 rows if not given.
        seed: Seeds weights and draws; the caller's generators are left alone.

    Returns:
        A table of the same type with more holes, all other cells as they were; index and columns too. Columns that get
        their first hole change their type where it has no place for one: integers become floating point (nullable
        Int64 where that would round them), booleans pandas' nullable boolean; arrays of integers or booleans become
        floating point, of text objects.

    Raises:
        TypeError: The table is neither a data frame nor an array.
        ValueError: An unknown mechanism or column, an option that the mechanism does not take, or a share that cannot
            be met.

    Example:
        >>> table = pd.DataFrame({"age": range(100), "sex": ["f", "m"] * 50})
        >>> holes = ampute(table, "mar", 0.2, columns=["sex"])
        >>> holes.isna().sum().to_dict()
        {'age': 0, 'sex': 20}
    """
    options = _chosen(
        mechanism,
        proportion=proportion,
        columns=columns,
        of=of,
        given=given,
        shape=shape,
        strength=strength,
        offset=offset,
        quantile=quantile,
        patterns=patterns,
        frequencies=frequencies,
        like=like,
        nearest=nearest,
        length=length,
    )
    frame = as_frame(table, "table")
    seen = frame.notna().to_numpy()
    with seeded(seed):
        if mechanism == "patterns":
            gone = by_patterns(frame, seen, options)
        elif mechanism == "like":
            gone = like_another(frame, as_frame(options["like"], "like"), options["nearest"])
        elif mechanism == "gaps":
            gone = gaps(frame, seen, options)
        elif mechanism == "dropout":
            gone = dropout(frame, seen, options)
        else:
            gone = by_columns(mechanism, frame, seen, options)
        gone &= seen
        for d in np.flatnonzero(seen.any(0) & ~(seen & ~gone).any(0)):
            rows = np.flatnonzero(seen[:, d])
            gone[rows[below(len(rows))], d] = False
    return _with_holes(table, gone)


def takes(mechanism: str) -> tuple[str, ...]:
    """The options of :func:`ampute` that a mechanism takes.

    Raises:
        ValueError: An unknown mechanism.

    Example:
        >>> takes("self_hard")
        ('columns', 'offset')
    """
    if mechanism not in _OPTIONS:
        raise ValueError(f"mechanism={mechanism!r} is unknown: choose one of {', '.join(MECHANISMS)}.")
    return tuple(_OPTIONS[mechanism])


def _chosen(mechanism: str, **given: Any) -> dict[str, Any]:
    """The options of a mechanism: what was given, defaults for the rest."""
    allowed = takes(mechanism)
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in allowed:
            raise ValueError(f"mechanism {mechanism!r} takes no {name}; it takes {', '.join(allowed)}.")
    options = {**_OPTIONS[mechanism], **given}
    share = options.get("proportion", 0.0)
    if not 0 <= share < 1:
        raise ValueError(f"proportion={share}: give a share from 0 to below 1.")
    if options.get("of", "cells") not in ("cells", "rows"):
        raise ValueError(f'of={options["of"]!r}: give "cells" or "rows".')
    if options.get("shape", "right") not in SHAPES:
        raise ValueError(f"shape={options['shape']!r}: give one of {', '.join(SHAPES)}.")
    if mechanism == "quantile" and options["shape"] not in ("right", "left"):
        raise ValueError(f'shape={options["shape"]!r}: quantiles censor above ("right") or below ("left").')
    if not 0 < options.get("quantile", 0.5) < 1:
        raise ValueError(f"quantile={options['quantile']}: give a number between 0 and 1.")
    if not options.get("length", 1.0) >= 1:
        raise ValueError(f"length={options['length']}: give a mean length of at least 1.")
    for name in ("patterns", "like"):
        if name == mechanism and options[name] is None:
            raise ValueError(f"mechanism {name!r} needs {name}=: which holes there should be.")
    return options


def _with_holes(table: TableT, gone: Bools) -> TableT:
    if isinstance(table, np.ndarray):
        kind = table.dtype.kind
        array = table.astype(float if kind in "iub" else object) if kind not in "fO" else table.copy()
        array[gone] = np.nan
        return array
    frame = table.copy()
    for i in np.flatnonzero(gone.any(0)).tolist():
        series: pd.Series[Any] = frame.iloc[:, i]
        if series.dtype == bool:
            series = series.astype("boolean")
        elif isinstance(series.dtype, np.dtype) and series.dtype.kind in "iu":
            exact = int(series.min()) >= -(2**53) and int(series.max()) <= 2**53
            series = series.astype(float if exact else "Int64")
        frame.isetitem(i, series.mask(gone[:, i]).array)
    return frame
