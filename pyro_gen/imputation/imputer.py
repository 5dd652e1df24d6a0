"""A scikit-learn estimator that fills the holes of a table by draws from what several programs know of it.

One class does what three rivals do: it fits on one table and completes others (scikit-learn), it returns many draws
with the uncertainty of the parameters in them (mice), and the draws come from generative programs, chosen and mixed by
what they say of entries that were hidden from them.
"""

import hashlib
import inspect
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_gen._errors import meant, refuse_unknown, shown
from pyro_gen._random import fork
from pyro_gen.data.column import Column
from pyro_gen.data.scaling import Scaling
from pyro_gen.data.schema import Schema
from pyro_gen.data.tables import refuse_no_table
from pyro_gen.imputation.completed import Completed
from pyro_gen.imputation.progress import reporting
from pyro_gen.imputation.stacking.draws import NUMBERS_WORKED_ON, Draws
from pyro_gen.imputation.stacking.expectations import Expectations
from pyro_gen.imputation.stacking.learning import HIDDEN_SHARE, Learner, Weighed, scored_columns, weigh
from pyro_gen.imputation.stacking.linear_pool import LinearPool
from pyro_gen.imputation.stacking.rounding import comparable, dequantise
from pyro_gen.imputation.stacking.weights import hide
from pyro_gen.models.tabular import METHODS

__all__ = ["Imputer"]

LEARNT_ROWS = 20_000  # at most
MEDIAN_DRAWS = 100


class Imputer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Imputes missing entries of tables by generative programs, with honest uncertainty.

    Arguments:
        method: ``"auto"`` scores all programs that suit the columns by hidden entries and stacks them, those that know
            atoms where a column has one; the name of a program uses that one alone, a sequence of names stacks these.
            See :data:`pyro_gen.models.tabular.METHODS`.
        draws: The number of draws of :meth:`impute`.
        strategy: What :meth:`transform` puts into the holes: ``"mean"`` (posterior mean, the most probable level of a
            column of levels), ``"median"`` or ``"draw"`` (one draw).
        schema: Kinds of columns by name where the ones that are read off the table are not right, as in
            :meth:`pyro_gen.data.Schema.infer`; or a whole schema.
        options: What else the program is to be made with, where ``method`` names one, such as
            ``method="not_miwae", options={"sign": "high"}``.
        random_state: An integer that seeds all that is random. The same rows get the same draws in any batch.
        time_limit: Seconds that :meth:`fit` should take at most, about; what is learnt by then is used.
        progress: Whether to show a progress bar on standard error.

    Attributes:
        schema_: The kinds of columns.
        programs_: The programs that were kept, by name.
        weights_: Their stacking weights, by name.
        spread_: What draws of several programs are multiplied by around their mean, 1 for one program: a mixture of
            programs that are right about their errors spreads too far, see
            :mod:`pyro_gen.imputation.stacking.linear_pool`.
        scores_: What each program that was tried scored, in nats for a hidden entry, by name; empty for one program,
            and where the table is too small to hide an entry.
        info_: What was chosen and why, in plain data; ``info_["assumed"]`` says what was read off columns and holds of
            all that is imputed, "never negative" say; ``info_["warnings"]`` names gross entries too, 9999 among ages,
            which are taken for missing, but stay as they are in the table; ``info_["atoms"]`` has the columns of which
            so many rows have one number, as 0 of rainfall, that imputations are that number or another, see
            :class:`pyro_gen.data.Scaling`.
        n_features_in_: The number of columns.
        feature_names_in_: Their names, of a data frame.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> a = rng.normal(size=(100, 1))
        >>> x = np.hstack([a, a + 0.1 * rng.normal(size=(100, 1))])
        >>> x[0, 1] = np.nan
        >>> imputer = Imputer(method="gaussian", random_state=0)
        >>> filled = imputer.fit_transform(x)
        >>> bool(abs(filled[0, 1] - x[0, 0]) < 0.2)
        True
        >>> len(imputer.impute(x))
        20
    """

    def __init__(
        self,
        method: str | Sequence[str] = "auto",
        *,
        draws: int = 20,
        strategy: str = "mean",
        schema: Mapping[str, str | Column] | Schema | None = None,
        options: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        time_limit: float | None = None,
        progress: bool = False,
    ) -> None:
        self.method = method
        self.draws = draws
        self.strategy = strategy
        self.schema = schema
        self.options = options
        self.random_state = random_state
        self.time_limit = time_limit
        self.progress = progress

    # Fitting

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learns from a table.

        Arguments:
            X: A data frame or an array with shape :math:`(N, D)`; NaN, None and pandas' NA are missing.
            y: Nothing; scikit-learn's pipelines pass it.

        Raises:
            ValueError: The table cannot be read, a column has no observed value, an option does not make sense, or no
                program suits the columns.
        """
        return self._fit(X)

    def refit(self, X: Any) -> "Imputer":
        """The same programs with the same weights, learnt from another table, which is all that they know.

        Arguments:
            X: A table with the same columns.
        """
        check_is_fitted(self, "programs_")
        names = list(self.weights_)
        learner: Imputer = clone(self).set_params(schema=self.schema_, method=names if len(names) > 1 else names[0])
        return learner._fit(X, stack=self)

    def _fit(self, X: Any, stack: "Imputer | None" = None) -> Self:
        """Learns from a table: programs, and how to stack them where there is no imputer to take that from."""
        began = time.monotonic()
        self._check_options()
        table = self._checked(X, reset=True)
        self.seed_ = _seed_of(self.random_state)
        self.schema_ = self._schema(table)
        encoded = self.schema_.encode(table)
        take_levels, take_atoms = self._taken()
        self.scaling_ = Scaling.fit(self.schema_, encoded, levels=take_levels, atoms=take_atoms)
        x = self.scaling_.forward(self.scaling_.plausible(encoded))
        if len(x) > LEARNT_ROWS:
            rows = torch.as_tensor(np.random.default_rng(self.seed_).permutation(len(x))[:LEARNT_ROWS])
            x = x[rows.sort().values]
        scored = scored_columns(encoded, comparable(x, self.scaling_.columns))
        x = dequantise(x, self.scaling_.columns, fork(self.seed_))
        names = self._suitable(encoded)
        notes = self._gross(encoded)
        if not take_atoms and (named := [c.name for c in self.schema_.columns if c.atom is not None]):
            knowing = ", ".join(name for name, program in METHODS.items() if program.ATOMS)
            notes.append(f"The atom of {', '.join(named)} is a number like others here: {knowing} know atoms.")
        deadline = None if self.time_limit is None else began + self.time_limit
        with reporting(self.progress) as report:
            learner = Learner(self.scaling_.columns, dict(self.options or {}), self.seed_, report, deadline, notes)
            found = Weighed({}, dict(stack.weights_), {}) if stack else weigh(learner, names, x, scored)
            self.scores_ = found.scores
            self.weights_: dict[str, float] = found.weights
            kept = list(self.weights_)
            self.programs_ = {
                name: found.programs.get(name) or learner.fit(name, x, len(kept) - i) for i, name in enumerate(kept)
            }
        if stack is None:
            holed = x.masked_fill(hide(x, HIDDEN_SHARE, self.seed_, torch.ones_like(scored)), torch.nan)
            hurried = deadline is not None and time.monotonic() > deadline
            self.spread_ = LinearPool(self.programs_, self.weights_).estimate_spread(holed, self.seed_, hurried=hurried)
        else:
            self.spread_ = stack.spread_
        atoms = zip(self.schema_.columns, self.scaling_.atoms, strict=True)
        self.info_: dict[str, Any] = {
            "method": self.method if isinstance(self.method, str) else list(self.method),
            "weights": dict(self.weights_),
            "scores": dict(self.scores_),
            "spread": self.spread_,
            "assumed": self.schema_.assumed,
            "atoms": {column.name: atom for column, atom in atoms if atom is not None},
            "rows": len(encoded),
            "rows_learnt_from": len(x),
            "seconds": time.monotonic() - began,
            "warnings": notes,
            "seed": self.seed_,
            "versions": {name: version(name) for name in ("pyro-gen", "pyro-ppl", "torch", "numpy")},
        }
        return self

    def _gross(self, encoded: Tensor) -> list[str]:
        """Names the gross entries of a table, see :class:`pyro_gen.data.Scaling`."""
        found = torch.isnan(self.scaling_.plausible(encoded)) & ~torch.isnan(encoded)
        said = []
        for d in found.any(0).nonzero()[:, 0].tolist():
            rows, name = found[:, d].nonzero()[:, 0].tolist(), self.schema_.columns[d].name
            where = f"row {rows[0] + 1}" if len(rows) == 1 else f"{len(rows)} rows, the first of them {rows[0] + 1},"
            said.append(
                f"Column {name!r} has {float(encoded[rows[0], d]):.12g} in {where} far beyond all other numbers: it is "
                "taken for a code, and nothing is learnt from it. Leave the cell empty if nothing was observed, or "
                f"give the column limits, as in Column({name!r}, 'real', upper=...), if it is a number."
            )
        return said

    def _pool(self) -> LinearPool:
        return LinearPool(self.programs_, self.weights_, self.spread_)

    def _check_options(self) -> None:
        if self.strategy not in ("mean", "median", "draw"):
            raise ValueError(f'Imputer(strategy={self.strategy!r}): give "mean", "median" or "draw".')
        if not isinstance(self.draws, int | np.integer) or self.draws < 1:
            raise ValueError(f"Imputer(draws={self.draws!r}): give a positive whole number.")
        if self.time_limit is not None and not (isinstance(self.time_limit, Real) and self.time_limit > 0):
            raise ValueError(f"Imputer(time_limit={self.time_limit!r}): give a positive number of seconds.")
        several = isinstance(self.method, Iterable) and not isinstance(self.method, str)
        names = list(self.method) if several else [self.method]
        known = all(name in METHODS for name in names) and len(set(names)) == len(names) > 0
        if not known and self.method != "auto":
            close = meant(next((name for name in names if name not in METHODS), ""), METHODS)
            raise ValueError(
                f'Imputer(method={self.method!r}){close}: give "auto", or some of {", ".join(METHODS)}, each once.'
            )
        for name in ("options", "schema"):
            if not isinstance(given := getattr(self, name), Mapping | Schema | None):
                raise TypeError(f"Imputer({name}={shown(given)}): give a mapping by name.")
        if self.options and (len(names) > 1 or self.method == "auto"):
            raise ValueError("Imputer(options=...) goes with a method that names one program.")
        if self.options:
            name = str(names[0])
            taken = list(inspect.signature(METHODS[name]).parameters)[1:]  # after the columns
            refuse_unknown(f"Imputer(method={name!r})", self.options, taken)

    def _schema(self, table: Any) -> Schema:
        if isinstance(self.schema, Schema):
            return self.schema
        given = dict(self.schema or {})
        schema = Schema.infer(table, overrides=given)
        if self.method == "auto":
            return schema
        # Who asks for a program of real columns takes numbers for real ones, be they few.
        names = [self.method] if isinstance(self.method, str) else self.method
        kinds = frozenset.intersection(*(METHODS[name].KINDS for name in names))
        numbers = {
            column.name: "real"
            for column in schema.columns
            if column.kind in ("binary", "count") and column.kind not in kinds and column.name not in given
            if all(isinstance(level, int | float) and not isinstance(level, bool) for level in column.levels)
        }
        return Schema.infer(table, overrides=given | numbers) if numbers else schema

    def _taken(self) -> tuple[bool, bool]:
        """Whether numbers of a few values may be given to the programs as levels, and numbers with atoms as such."""
        if self.method == "auto":
            return True, True
        programs = [METHODS[name] for name in ([self.method] if isinstance(self.method, str) else self.method)]
        return all("ordinal" in program.KINDS for program in programs), all(program.ATOMS for program in programs)

    def _suitable(self, encoded: Tensor) -> list[str]:
        """The names of the programs to try for a table."""
        if isinstance(self.method, str) and self.method != "auto":
            return [self.method]
        if self.method != "auto":
            return list(self.method)
        kinds = {column.kind for column in self.scaling_.columns}
        atoms = any(column.atom is not None for column in self.scaling_.columns)
        observed = int((~torch.isnan(encoded)).sum())
        names = [
            name
            for name, program in METHODS.items()
            if kinds <= program.KINDS and atoms <= program.ATOMS and program.automatic(encoded.shape[1], observed)
        ]
        if not names:
            raise ValueError(f"Imputer: no program suits a table with columns of kinds {', '.join(sorted(kinds))}.")
        return names

    # Imputing

    def impute(self, X: Any, draws: int | None = None, *, part: str = "") -> Completed:
        """Completes a table many times.

        Arguments:
            X: The table that was fitted, or another with the same columns.
            draws: The number of draws; left out, that of the constructor.
            part: Which part of a larger table this is, where it is given in parts: rows of different parts get draws of
                their own, be they alike.

        Returns:
            The completed tables. Observed entries are as they were. Draws are made when they are asked for, so that
            many take no more memory than a few.

        Raises:
            ValueError: The table does not have the columns that were fitted, or a level that was not seen.
        """
        check_is_fitted(self, "programs_")
        draws = self.draws if draws is None else draws
        if not isinstance(draws, int | np.integer) or draws < 1:
            raise ValueError(f"Imputer.impute(draws={draws!r}): give a positive whole number.")
        table = self._checked(X, reset=False)
        encoded = self.schema_.encode(table)
        seed = self.seed_
        if part:
            seed = int.from_bytes(hashlib.blake2b(f"{seed}:{part}".encode(), digest_size=8).digest()) >> 1
        gross = [note for note in self._gross(encoded) if note not in self.info_["warnings"]]
        return Completed.from_cells(
            Draws(self._pool(), self.scaling_, encoded, draws, seed),
            torch.isnan(encoded),
            schema=self.schema_,
            like=table,
            info={**self.info_, "warnings": self.info_["warnings"] + gross},
            m=draws,
        )

    def log_prob(self, X: Any, values: Any) -> npt.NDArray[np.float64]:
        r"""Scores values of missing entries, one by one, given what is seen in their rows.

        Arguments:
            X: The table that was fitted, or another with the same columns.
            values: The same table with values of missing entries. Observed entries are not looked at.

        Returns:
            The log-density of each value in the unit of its column, or its log-probability where the column has levels
            or counts, by the stacked programs, in nats, with shape :math:`(N, D)`; NaN where ``X`` has a value or
            ``values`` has none.

        Raises:
            ValueError: The tables do not have the columns that were fitted, or a level that was not seen, or differ in
                their number of rows.

        Example:
            >>> x = np.random.default_rng(0).normal(100, 15, size=(500, 2))
            >>> imputer = Imputer(method="gaussian", random_state=0).fit(x)
            >>> imputer.log_prob([[90.0, np.nan]], [[90.0, 100.0]]).round(1)  # -log(15 sqrt(2 pi)) = -3.6
            array([[ nan, -3.6]])
        """
        check_is_fitted(self, "programs_")
        encoded, wanted = (self.schema_.encode(self._checked(table, reset=False)) for table in (X, values))
        if len(wanted) != len(encoded):
            raise ValueError(f"Imputer.log_prob: values has {len(wanted)} rows, expected {len(encoded)}, those of X.")
        wanted = wanted.where(torch.isnan(encoded), torch.nan)
        found = torch.full_like(wanted, torch.nan)
        rows = (~torch.isnan(wanted)).any(1).nonzero()[:, 0]
        for part in rows.split(max(1, NUMBERS_WORKED_ON // encoded.shape[1])):
            x, v = self.scaling_.forward(self.scaling_.plausible(encoded[part])), self.scaling_.forward(wanted[part])
            found[part] = self._pool().cell_log_prob(x, v) + self.scaling_.log_abs_det(wanted[part])
        return found.numpy()

    def transform(self, X: Any) -> Any:
        """Completes a table once, by the ``strategy``.

        A mean is no value that could have been observed: of counts it may be 2.4 (an integer dtype, which cannot hold
        that, rounds it). It is that of the draws of :meth:`impute`, which are whole where the column is, and within
        its limits.

        Arguments:
            X: The table that was fitted, or another with the same columns.

        Returns:
            The completed table, of the type of ``X``.
        """
        check_is_fitted(self, "programs_")
        if self.strategy == "draw":
            return self.impute(X, draws=1)[0]
        if self.strategy == "median":
            return self.impute(X, draws=MEDIAN_DRAWS).median()
        table = self._checked(X, reset=False)
        encoded = self.schema_.encode(table)
        filled = Expectations(self._pool(), self.scaling_, self.schema_).filled(encoded, self.seed_)
        return self.schema_.decode(filled, table, rounded=False)

    # scikit-learn

    def _checked(self, X: Any, reset: bool) -> Any:
        from sklearn.utils.validation import validate_data

        if hasattr(X, "columns"):  # a data frame: the schema reads it, scikit-learn notes its names
            names = [] if reset else list(getattr(self, "feature_names_in_", []))
            alike = len(X.columns) == len(names) and set(X.columns) == set(names)
            # Columns are known by their names: their order is the affair of whoever wrote the file.
            validate_data(self, X[names] if alike else X, reset=reset, skip_check_array=True)
            if len(X) == 0:
                raise ValueError("Imputer: the table has no rows.")
            return X
        refuse_no_table("Imputer", X)
        X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
        return X

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """The names of the columns, which are those of the table that was fitted."""
        from sklearn.utils.validation import _check_feature_names_in

        check_is_fitted(self, "programs_")
        return _check_feature_names_in(self, input_features)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.non_deterministic = False
        return tags


def _seed_of(random_state: int | np.random.RandomState | None) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    raise ValueError(f"Imputer(random_state={random_state!r}): give a whole number from 0 on, a RandomState, or None.")
