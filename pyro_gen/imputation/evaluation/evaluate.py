"""An imputer judged: entries are hidden on purpose, imputed, and scored."""

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from torch import Tensor

from pyro_gen._random import fork
from pyro_gen.data.column import Column
from pyro_gen.data.schema import Schema
from pyro_gen.imputation.amputation.columnwise import MCAR
from pyro_gen.imputation.amputation.holes import ampute
from pyro_gen.imputation.amputation.mechanism import Mechanism
from pyro_gen.imputation.evaluation.by_column import Attempt, scales, scored
from pyro_gen.imputation.evaluation.result import LEVELS, Evaluation

__all__ = ["evaluate_imputer"]


def evaluate_imputer(
    imputer: Any,
    table: Any,
    *,
    mechanism: Mechanism | None = None,
    repeats: int | None = None,
    draws: int = 100,
    seed: int = 0,
    truth: Any = None,
    schema: Mapping[str, str | Column] | Schema | None = None,
) -> Evaluation:
    r"""Judges an imputer: hides observed entries, has them imputed, and scores what comes back.

    Over-imputation needs no truth: the entries that are hidden are the user's own. It measures how the imputer does on
    values that could have been observed; what is really missing may be different. The imputer is cloned, fitted on the
    table with the hidden entries missing, and imputes that same table.

    An imputer with a method ``impute(table, draws=...)``, which returns completed tables by index, such as
    :class:`pyro_gen.Imputer`, gets all scores. One without, such as scikit-learn's, imputes once by
    ``fit_transform``, and gets the scores of points only: a single imputation says nothing of its uncertainty. Numbers
    that it puts in columns of numeric levels are taken to the next level. One with a method
    ``log_prob(table, values)``, which returns the log-densities of values of missing cells with shape :math:`(N, D)`,
    as :meth:`pyro_gen.Imputer.log_prob` does, gets the log score too.

    Arguments:
        imputer: An estimator in scikit-learn's manner: cloned, where it has parameters, or copied. A ``random_state``
            of None, also inside a pipeline, is set from ``seed``.
        table: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
        mechanism: How entries are hidden, ``MCAR(0.2)`` if not given: one of :mod:`pyro_gen.imputation.amputation`. Not
            used with a ``truth``.
        repeats: How many times it is done, with other entries hidden; 3 if not given. Only without a ``truth``.
        draws: The number m of imputations.
        seed: Seeds what is hidden and what is random in the scores; the caller's generators are left alone.
        truth: The complete table, where it is known: the missing cells of ``table`` are scored, and none is hidden.
        schema: The kinds of columns by name, where they are not to be read off the table; or a whole schema.

    Returns:
        An :class:`Evaluation`: scores by column and overall, with standard errors.

    Raises:
        TypeError: If the imputer has neither ``impute`` nor ``fit_transform``.
        ValueError: If nothing can be scored, the imputer returns another shape or leaves cells missing, or options do
            not go together.

    Example:
        >>> from sklearn.impute import SimpleImputer
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> evaluation = evaluate_imputer(SimpleImputer(), x)
        >>> 0.9 < evaluation.to_dict()["overall"]["rmse_mean"] < 1.1
        True
    """
    if truth is not None and (repeats is not None or mechanism is not None):
        raise ValueError("evaluate_imputer: with a truth nothing is hidden; leave mechanism and repeats out.")
    repeats = 1 if truth is not None else 3 if repeats is None else repeats
    if repeats < 1 or draws < 1:
        raise ValueError(f"evaluate_imputer(repeats={repeats}, draws={draws}): give positive numbers.")
    mechanism = MCAR(0.2) if mechanism is None else mechanism
    known = table if truth is None else truth
    if not isinstance(schema, Schema):
        schema = Schema.infer(known, schema)
    values, observed = schema.encode(known), _in_order(schema, table).notna().to_numpy()
    if values.shape != observed.shape:
        raise ValueError(f"truth: expected the shape of the table, {observed.shape}, got {tuple(values.shape)}.")
    attempts: list[Attempt] = []
    reasons: list[str] = []
    seconds = 0.0
    state = seed
    for _ in range(repeats):
        state = fork(state)
        masked = table if truth is not None else ampute(table, mechanism, seed=state)
        # Of a truth all that is missing in the table, of the table itself what was not missing before.
        hidden = torch.tensor(_in_order(schema, masked).isna().to_numpy()) & ~values.isnan()
        if not bool(hidden.any()):
            raise ValueError("evaluate_imputer: no cell with a known value is missing, so nothing can be scored.")
        began = time.monotonic()
        fitted, cells = _impute(imputer, masked, schema, hidden, draws, fork(state))
        seconds += time.monotonic() - began
        log_prob, reason = _log_prob(fitted, masked, known, schema, hidden)
        attempts.append(Attempt(hidden, cells, log_prob))
        reasons += [reason] if reason is not None else []
    m = len(attempts[0].cells)
    single = m == 1
    scale = scales(schema, values.masked_fill(torch.tensor(~observed), math.nan))
    frame = scored(schema, values, scale, attempts, single, fork(state))
    info = {
        "imputer": type(imputer).__name__,
        "mechanism": None if truth is not None else repr(mechanism),
        "repeats": repeats,
        "draws": m,
        "seed": seed,
        "cells": sum(int(one.hidden.sum()) for one in attempts),
        "single": single,
        "seconds": seconds,
        "nominal": {str(level): min(level / 100, (m - 1) / (m + 1)) for level in LEVELS},
        "no_log_score": next(iter(reasons), None),
    }
    return Evaluation(frame, info)


def _impute(imputer: Any, masked: Any, schema: Schema, hidden: Tensor, draws: int, seed: int) -> tuple[Any, Tensor]:
    """A fitted copy of the imputer, and draws of the hidden cells on the encoded scale, with shape (m, cells)."""
    if not (hasattr(imputer, "impute") or hasattr(imputer, "fit_transform")):
        raise TypeError(f"{type(imputer).__name__} has neither impute(table, draws=...) nor fit_transform: no imputer.")
    if hasattr(imputer, "get_params"):
        imputer = clone(imputer)
        free = [k for k, v in imputer.get_params().items() if k.split("__")[-1] == "random_state" and v is None]
        imputer.set_params(**dict.fromkeys(free, seed))
    else:
        imputer = copy.deepcopy(imputer)
    if not hasattr(imputer, "impute"):
        completed = [imputer.fit_transform(masked)]
    else:
        imputer.fit(masked)
        completed = imputer.impute(masked, draws=draws)
    cells = torch.stack([_read(schema, completed[k], hidden) for k in range(len(completed))])
    if bool(cells.isnan().any()):
        raise ValueError(f"{type(imputer).__name__} left {int(cells.isnan().any(0).sum())} hidden cells missing.")
    return imputer, cells


def _log_prob(imputer: Any, masked: Any, known: Any, schema: Schema, hidden: Tensor) -> tuple[Tensor, str | None]:
    """Log-densities of the hidden cells in the user's units, (cells), NaN where there are none; and why not."""
    none = torch.full((int(hidden.sum()),), math.nan, dtype=torch.float64)
    if not hasattr(imputer, "log_prob"):
        return none, f"{type(imputer).__name__} has no log_prob(table, values), and so no densities."
    try:
        found = np.asarray(imputer.log_prob(masked, known), dtype=float)
    except ValueError as error:  # such as a level all of whose cells are hidden: its density would be zero
        return none, str(error)
    own = getattr(imputer, "schema_", None)
    names = [str(name) for name in (getattr(masked, "columns", schema.names) if own is None else own.names)]
    if found.shape != tuple(hidden.shape):
        raise ValueError(f"log_prob returned an array of shape {found.shape}, expected {tuple(hidden.shape)}.")
    log_prob = torch.from_numpy(found[:, [names.index(name) for name in schema.names]])
    reason = None
    for d, column in enumerate(schema.columns):
        if own is not None and own.columns[names.index(column.name)].discrete != column.discrete:
            log_prob[:, d] = math.nan
            reason = f"the imputer takes column {column.name!r} for {'numbers' if column.discrete else 'levels'}."
    return log_prob[hidden], reason


def _in_order(schema: Schema, table: Any) -> pd.DataFrame:
    """A table with the columns in the order of the schema, where it has them by name."""
    if not isinstance(table, pd.DataFrame):
        return pd.DataFrame(np.asarray(table))
    names = [str(name) for name in table.columns]
    return table.iloc[:, [names.index(name) for name in schema.names]] if set(names) == set(schema.names) else table


def _read(schema: Schema, completed: Any, hidden: Tensor) -> Tensor:
    """The hidden cells of a completed table, on the encoded scale; numbers in a column of levels go to the next level.

    The schema's own encoding would refuse what an imputer may well return: a negative number in a positive column.
    """
    frame = _in_order(schema, completed)
    if frame.shape != tuple(hidden.shape):
        raise ValueError(f"the imputer returned a table of shape {frame.shape}, expected {tuple(hidden.shape)}.")
    encoded = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    for d, column in enumerate(schema.columns):
        series = frame.iloc[hidden[:, d].numpy(), d]
        if column.discrete and not all(isinstance(level, int | float) for level in column.levels):
            codes = {level: float(code) for code, level in enumerate(column.levels)}
            numbers = np.array([codes.get(value, math.nan) for value in series])
        else:
            numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            if column.discrete:
                apart = np.abs(numbers[:, None] - np.array(column.levels, dtype=float))
                numbers = np.where(np.isnan(numbers), np.nan, apart.argmin(1))
        encoded[hidden[:, d], d] = torch.from_numpy(numbers.astype(float))
    return encoded[hidden]
