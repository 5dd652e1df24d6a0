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
probability, and their number is the sum of the probabilities, rounded. So a requested share is met to the entry.

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

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.optimize
import scipy.special
import torch

from pyro_gen._random import seeded

__all__ = ["MECHANISMS", "ampute", "takes"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
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
}
MECHANISMS = tuple(_OPTIONS)
_SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "right": lambda z: z,
    "left": lambda z: -z,
    "mid": lambda z: -np.abs(z),
    "tail": lambda z: np.abs(z),
}


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
    =============== ====================================================================================================

    Columns may hold numbers, booleans, text, or categories, of which ordered ones count as numbers 0, 1, ... Entries
    that are missing already stay so, and count as average wherever they would drive others. No column loses its last
    value: where the mechanism would take all, one of them, at random, stays.

    Arguments:
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: One of the table above.
        proportion: The share of the *cells* that go, 0.3 if not given: of the cells of ``columns`` (or of all columns
            in ``patterns``) that are observed, and under "mar", "mnar", "self" and "quantile" of each of these columns
            by itself. With ``of="rows"`` the share of the rows that lose at least one cell.
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
    )
    frame = _frame(table, "table")
    seen = frame.notna().to_numpy()
    with seeded(seed):
        if mechanism == "patterns":
            gone = _by_patterns(frame, seen, options)
        elif mechanism == "like":
            gone = _like(frame, _frame(options["like"], "like"), options["nearest"])
        else:
            gone = _by_columns(mechanism, frame, seen, options)
        gone &= seen
        for d in np.flatnonzero(seen.any(0) & ~(seen & ~gone).any(0)):
            rows = np.flatnonzero(seen[:, d])
            gone[rows[_below(len(rows))], d] = False
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
    if options.get("shape", "right") not in _SHAPES:
        raise ValueError(f"shape={options['shape']!r}: give one of {', '.join(_SHAPES)}.")
    if mechanism == "quantile" and options["shape"] not in ("right", "left"):
        raise ValueError(f'shape={options["shape"]!r}: quantiles censor above ("right") or below ("left").')
    if not 0 < options.get("quantile", 0.5) < 1:
        raise ValueError(f"quantile={options['quantile']}: give a number between 0 and 1.")
    for name in ("patterns", "like"):
        if name == mechanism and options[name] is None:
            raise ValueError(f"mechanism {name!r} needs {name}=: which holes there should be.")
    return options


# ----------------------------------------------------------------------------------------------------------------------
# Tables


def _frame(table: Any, name: str) -> pd.DataFrame:
    if isinstance(table, np.ndarray) and table.ndim == 2:
        table = pd.DataFrame(table)
    elif not isinstance(table, pd.DataFrame):
        got = f"an array of shape {table.shape}" if isinstance(table, np.ndarray) else type(table).__name__
        raise TypeError(f"{name}: expected a data frame or an array of shape (rows, columns), got {got}.")
    if table.empty:
        raise ValueError(f"{name}: expected rows and columns, got shape {table.shape}.")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"{name}: duplicate column name {repeated[0]!r}.")
    frame: pd.DataFrame = table
    return frame


def _positions(frame: pd.DataFrame, names: Sequence[Hashable], what: str) -> list[int]:
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a sequence of columns, such as [{names!r}].")
    found: dict[Hashable, int] = {name: i for i, name in enumerate(frame.columns)}
    for name in names:
        if name not in found:
            raise ValueError(f"{what}: the table has no column {name!r}.")
    positions = [found[name] for name in names]
    if len(set(positions)) < len(positions) or not positions:
        raise ValueError(f"{what}={list(names)}: give at least one column, and each once.")
    return positions


def _numbers(series: "pd.Series[Any]") -> tuple[Floats, bool]:
    """The values of a column as numbers (NaN = missing), or codes of its levels; and whether they are numbers."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = series.cat.codes.to_numpy().astype(float)
        return np.where(codes < 0, np.nan, codes), bool(series.cat.ordered)
    if pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.to_numpy(dtype=float, na_value=np.nan)
        if np.isinf(numbers).any():
            raise ValueError(f"column {series.name!r} holds infinite values: replace them, or make them missing.")
        return numbers, True
    numbers = np.full(len(series), np.nan)
    present = series.notna().to_numpy()
    try:
        numbers[present] = [float(value) for value in series[present]]
    except (TypeError, ValueError):
        codes = pd.factorize(series)[0].astype(float)
        return np.where(codes < 0, np.nan, codes), False
    return numbers, True


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


# ----------------------------------------------------------------------------------------------------------------------
# Randomness, from torch's generators


def _uniform(*shape: int) -> Floats:
    numbers: Floats = torch.rand(shape, dtype=torch.float64).numpy()
    return numbers


def _normal(*shape: int) -> Floats:
    numbers: Floats = torch.randn(shape, dtype=torch.float64).numpy()
    return numbers


def _below(n: int) -> int:
    return int(torch.randint(n, ()))


def _order(n: int) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = torch.randperm(n).numpy()
    return order


def _choose(probabilities: Floats) -> Bools:
    """Chooses entries of a vector, each with its probability, by systematic sampling in random order."""
    order = _order(len(probabilities))
    steps = np.floor(np.concatenate([[0.0], probabilities[order].cumsum()]) + _uniform(1))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order] = np.diff(steps) > 0
    return chosen


# ----------------------------------------------------------------------------------------------------------------------
# Mechanisms that treat each column by itself


def _score(series: "pd.Series[Any]") -> Floats:
    """A column as one standardised number a row, 0 where it is missing; levels get random ones."""
    values, numeric = _numbers(series)
    present = ~np.isnan(values)
    if not numeric:
        weights = _normal(int(values[present].max(initial=0)) + 1)
        values = np.where(present, weights[np.where(present, values, 0).astype(int)], np.nan)
    return _standardised(values)


def _standardised(values: Floats) -> Floats:
    """Zero mean and unit variance over what is there; 0 where nothing is, or all is the same."""
    present = values[~np.isnan(values)]
    # The difference, not the standard deviation: the one of a constant need not be 0 in floating point.
    if not len(present) or present.min() == present.max():
        return np.zeros_like(values)
    standardised: Floats = np.nan_to_num((values - present.mean()) / present.std())
    return standardised


def _combined(frame: pd.DataFrame, columns: Sequence[int]) -> Floats:
    """A random linear combination of columns, with unit variance."""
    if len(columns) == 1:  # which needs no sign of its own: "right" means high values
        return _score(frame.iloc[:, columns[0]])
    total = np.zeros(len(frame))
    for j in columns:
        total += float(_normal()) * _score(frame.iloc[:, j])
    return _standardised(total)


def _by_columns(mechanism: str, frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    targets, given = _roles(mechanism, frame, seen, options)
    targets = [d for d in targets if seen[:, d].any()]
    if not targets:
        raise ValueError("ampute: nothing is observed in the columns that are to lose entries.")
    gone = np.zeros_like(seen)
    if mechanism == "self_hard":
        for d in targets:
            values, numeric = _numbers(frame.iloc[:, d])
            if not numeric:
                raise ValueError(f"column {frame.columns[d]!r} holds no numbers, so none lies above its mean.")
            present = values[seen[:, d]]
            gone[:, d] = values > present.mean() + options["offset"] * present.std()
        return gone
    shown = seen[:, targets]
    if mechanism == "mcar":
        most = 1.0

        def at(share: float) -> Floats:
            return np.where(shown, share, 0.0)

    elif mechanism == "quantile":
        tails = np.stack([_tail(frame.iloc[:, d], options) for d in targets], 1)
        sizes = tails.sum(0) / shown.sum(0)
        most = float(sizes.min())

        def at(share: float) -> Floats:
            return np.where(tails, np.minimum(share / sizes, 1.0), 0.0)

    else:
        scores = [
            _score(frame.iloc[:, d]) if mechanism == "self" else _combined(frame, given or range(frame.shape[1]))
            for d in targets
        ]
        logits = options["strength"] * _SHAPES[options["shape"]](np.stack(scores, 1))
        most = 1.0

        def at(share: float) -> Floats:
            return _logistic(logits, shown, share)

    if options["of"] == "rows":
        gone[:, targets] = _rows(at, most, options["proportion"])
        return gone
    if options["proportion"] > most:
        raise ValueError(
            f"proportion={options['proportion']} of the cells cannot be censored where only {most:.3g} of them lie in "
            "the tail: give a smaller one, or another quantile."
        )
    probabilities = at(options["proportion"])
    if mechanism == "mcar":
        gone[:, targets] = _choose(probabilities.ravel()).reshape(shown.shape)
    else:
        gone[:, targets] = np.stack([_choose(column) for column in probabilities.T], 1)
    return gone


def _roles(
    mechanism: str, frame: pd.DataFrame, seen: Bools, options: dict[str, Any]
) -> tuple[list[int], list[int] | None]:
    """Which columns lose entries, and which ones decide about it (None: as the mechanism has it)."""
    everything = list(range(frame.shape[1]))
    targets = None if options["columns"] is None else _positions(frame, options["columns"], "columns")
    if mechanism == "self_hard":
        return targets or everything[: max(1, len(everything) // 2)], None
    if mechanism != "mar":
        return targets or everything, None
    full = [d for d in everything if seen[:, d].all()]
    if options["given"] is not None:
        given = _positions(frame, options["given"], "given")
    elif targets is not None:
        given = [d for d in full if d not in targets]
    else:
        given = [full[i] for i in _order(len(full))[: max(1, len(full) // 2)]]
    targets = [d for d in everything if d not in given] if targets is None else targets
    for d in given:
        if d in targets:
            raise ValueError(f"column {frame.columns[d]!r} is among columns and given: at random, it cannot be both.")
        if d not in full:
            raise ValueError(f"given: column {frame.columns[d]!r} has missing entries, so nothing depends on it alone.")
    if not given or not targets:
        raise ValueError(
            "mar needs a fully observed column apart from those that lose entries, and there is none: give another "
            "mechanism, or other columns."
        )
    return targets, given


def _tail(series: "pd.Series[Any]", options: dict[str, Any]) -> Bools:
    """Which values lie beyond the quantile; of equal ones at the edge, some at random."""
    values, numeric = _numbers(series)
    if not numeric:
        raise ValueError(f"column {series.name!r} holds no numbers and so has no quantiles: leave it out of columns.")
    present = np.flatnonzero(~np.isnan(values))
    high = options["shape"] == "right"
    order = present[np.lexsort((_uniform(len(present)), values[present]))]
    edge = round(options["quantile"] * len(order))
    tail = np.zeros(len(values), dtype=bool)
    tail[order[edge:] if high else order[:edge]] = True
    if not tail.any():
        raise ValueError(f"column {series.name!r}: none of {len(order)} values lies beyond the quantile.")
    return tail


def _logistic(logits: Floats, shown: Bools, share: float) -> Floats:
    """Probabilities of the entries shown, (N, T); the intercepts, by bisection, give every column the same mean."""
    if share <= 0:
        return np.zeros(logits.shape)
    target = scipy.special.logit(min(share, 1 - 1e-12))
    low, high = target - logits.max(0), target - logits.min(0)
    counts = shown.sum(0)
    for _ in range(60):
        middle = (low + high) / 2
        mean = (scipy.special.expit(logits + middle) * shown).sum(0) / counts
        low, high = np.where(mean < share, middle, low), np.where(mean < share, high, middle)
    probabilities: Floats = scipy.special.expit(logits + (low + high) / 2) * shown
    return probabilities


def _rows(at: Callable[[float], Floats], most: float, proportion: float) -> Bools:
    """Cells such that the right share of the rows loses some: rows first, then cells given that at least one goes."""

    def touched(share: float) -> Floats:
        return np.asarray(1 - np.prod(1 - at(share), 1))

    reach = float(touched(most).mean())
    if proportion > reach + 1e-9:
        raise ValueError(
            f"proportion={proportion} of the rows cannot lose a cell, at most {reach:.3g} of them can: give a smaller "
            "one, or more columns."
        )
    share = most
    if proportion < reach:
        share = scipy.optimize.brentq(lambda share: touched(share).mean() - proportion, 0.0, most, xtol=1e-12)
    p, rows = at(share), _choose(touched(share))
    # The first cell of a row that goes, given that one does, then each of those behind it independently.
    first = p * np.concatenate([np.ones((len(p), 1)), np.cumprod(1 - p, 1)[:, :-1]], 1)
    edges = first.cumsum(1)
    start = (_uniform(len(p), 1) * edges[:, -1:] < edges).argmax(1)[:, None]
    places = np.arange(p.shape[1])
    gone: Bools = ((places == start) | ((places > start) & (_uniform(*p.shape) < p))) & rows[:, None]
    return gone


# ----------------------------------------------------------------------------------------------------------------------
# Mechanisms that treat rows as a whole


def _by_patterns(frame: pd.DataFrame, seen: Bools, options: dict[str, Any]) -> Bools:
    patterns = [_positions(frame, pattern, "patterns") for pattern in options["patterns"]]
    if not patterns:
        raise ValueError("patterns=[]: give at least one.")
    frequencies = np.ones(len(patterns)) if options["frequencies"] is None else np.array(options["frequencies"], float)
    if frequencies.shape != (len(patterns),) or not (frequencies > 0).all():
        raise ValueError(f"frequencies={options['frequencies']}: give {len(patterns)} positive numbers.")
    # Shares of the rows, rounded up or down at random, in random order.
    edges = np.floor(np.concatenate([[0.0], (frequencies / frequencies.sum()).cumsum()]) * len(frame) + _uniform(1))
    group = np.zeros(len(frame), dtype=int)
    group[_order(len(frame))] = np.searchsorted(edges[1:-1], np.arange(len(frame)), side="right")
    sets = np.zeros((len(patterns), frame.shape[1]), dtype=bool)
    for i, pattern in enumerate(patterns):
        sets[i, pattern] = True
    cells = (sets[group] & seen).sum(1)  # that a row would lose
    hit = cells > 0
    wanted = options["proportion"]
    total = len(frame) if options["of"] == "rows" else int(seen[:, sets.any(0)].sum())
    reach = int(hit.sum()) if options["of"] == "rows" else int(cells.sum())
    if not reach or wanted * total > reach:
        raise ValueError(
            f"proportion={wanted} of the {options['of']} cannot go by these patterns, at most "
            f"{reach / max(total, 1):.3g} of them can: give a smaller one, or patterns of more columns."
        )
    gone = np.zeros_like(seen)
    for i, pattern in enumerate(patterns):
        rows = np.flatnonzero((group == i) & hit)
        if not len(rows):
            continue
        outside = [d for d in range(frame.shape[1]) if d not in pattern]
        given = outside if options["given"] is None else _positions(frame, options["given"], "given")
        z = _standardised(_combined(frame, given)[rows])
        logits = options["strength"] * _SHAPES[options["shape"]](z)
        chosen = rows[_choose(_logistic(logits[:, None], np.ones((len(rows), 1), bool), wanted * total / reach)[:, 0])]
        gone[chosen] |= sets[i]
    return gone


def _like(frame: pd.DataFrame, other: pd.DataFrame, nearest: int | None) -> Bools:
    if list(frame.columns) != list(other.columns):
        raise ValueError(f"like: expected the columns {list(frame.columns)}, got {list(other.columns)}.")
    if nearest is not None and nearest < 1:
        raise ValueError(f"nearest={nearest}: give at least one row.")
    missing = other.isna().to_numpy()
    rounds = math.ceil(len(frame) / len(other))  # no row of `like` is copied twice before all are copied once
    donors = np.concatenate([_order(len(other)) for _ in range(rounds)])[: len(frame)]
    if nearest is None:
        return np.asarray(missing[donors])
    own, theirs, numeric = _common(frame, other)
    gone = np.zeros_like(missing, shape=frame.shape)
    rows = _order(len(frame))  # in random order, so that ties of the distance are broken at random
    own = np.ascontiguousarray(own[rows].T)
    for free, donor in zip(range(len(frame), 0, -1), donors, strict=True):  # the first `free` rows are
        distance = np.zeros(free)
        for d in np.flatnonzero(~missing[donor]):
            mine, value = own[d, :free], theirs[donor, d]
            # Two independent standardised numbers differ by 2 in mean square: what another level and the unknown count.
            apart = (mine - value) ** 2 if numeric[d] else 2.0 * (mine != value)
            distance += np.where(np.isnan(apart), 2.0, apart)
        k = min(nearest, free)
        at = np.argpartition(distance, k - 1)[:k][_below(k)]
        gone[rows[at]] = missing[donor]
        rows[at], own[:, at] = rows[free - 1], own[:, free - 1]
    return gone


def _common(frame: pd.DataFrame, other: pd.DataFrame) -> tuple[Floats, Floats, Bools]:
    """Both tables on one scale: numbers standardised, codes of levels; and which columns are numbers."""
    values, numeric = [], []
    for i in range(frame.shape[1]):
        parts = [_numbers(table.iloc[:, i]) for table in (frame, other)]
        as_numbers = all(is_numeric for _, is_numeric in parts)
        if as_numbers:
            both = np.concatenate([numbers for numbers, _ in parts])
            spread = np.nanstd(both) if not np.isnan(both).all() else 0.0
            both = both / (spread if spread > 0 else 1.0)
        else:
            texts = np.concatenate([table.iloc[:, i].to_numpy(dtype=object) for table in (frame, other)])
            codes = pd.factorize(texts)[0]
            both = np.where(codes < 0, np.nan, codes)
        values.append(both)
        numeric.append(as_numbers)
    joint = np.stack(values, 1)
    return joint[: len(frame)], joint[len(frame) :], np.array(numeric)
