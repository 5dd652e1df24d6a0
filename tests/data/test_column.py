import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest

from pyro_gen.data import KINDS, Column, Schema

NAN = float("nan")


@pytest.mark.parametrize("kind", KINDS)
def test_columns(kind: str) -> None:
    extra = {"bounded": {"lower": 0, "upper": 1}, "binary": {"levels": [0, 1]}}.get(kind, {})
    if kind in ("nominal", "ordinal"):
        extra = {"levels": np.array([1, 2, 3])}
    column = Column("a", kind, **extra)
    assert column.discrete == (kind in ("binary", "nominal", "ordinal"))
    assert column.integer == (kind == "count")
    assert isinstance(column.levels, tuple) and all(type(level) is int for level in column.levels)
    assert column == pickle.loads(pickle.dumps(column)) == copy.deepcopy(column) and hash(column)


WRONG = {
    "kind": (("a", "float"), {}, "kind 'float' is not one of real, positive"),
    "no levels": (("a", "nominal"), {}, "a nominal column has at least 2 levels, got 0"),
    "one level": (("a", "ordinal"), {"levels": ("x",)}, "at least 2 levels, got 1"),
    "three": (("a", "binary"), {"levels": (1, 2, 3)}, "a binary column has 2 levels .* got 3"),
    "twice": (("a", "nominal"), {"levels": ("x", "y", "x")}, "not all different"),
    "equal": (("a", "nominal"), {"levels": (1, True)}, "not all different"),
    "nan": (("a", "nominal"), {"levels": ("x", NAN)}, "'missing' is no level"),
    "NA": (("a", "nominal"), {"levels": ("x", pd.NA)}, "'missing' is no level"),
    "None": (("a", "nominal"), {"levels": ("x", None)}, "'missing' is no level"),
    "levels of numbers": (("a", "real"), {"levels": (1, 2)}, "levels are for binary, nominal and ordinal"),
    "limits of levels": (("a", "binary"), {"levels": (1, 2), "lower": 0}, "are for numbers"),
    "unbounded": (("a", "bounded"), {"lower": 0}, "needs both lower and upper"),
    "empty": (("a", "bounded"), {"lower": 1, "upper": 1}, "is not below"),
    "upside down": (("a", "real"), {"lower": 2, "upper": 1}, "is not below"),
    "infinite": (("a", "real"), {"upper": math.inf}, "not finite; leave it out"),
    "negative counts": (("a", "count"), {"upper": -1}, "counts start at 0"),
    "negative positives": (("a", "positive"), {"upper": 0}, "positive numbers are above 0"),
    "no whole": (("a", "real"), {"lower": 0.2, "upper": 0.8, "integer": True}, "no whole number lies between"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_columns(case: tuple) -> None:
    args, extra, message = case
    with pytest.raises(ValueError, match=message):
        Column(*args, **extra)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="name is text"):
        Column(3, "real")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tuple of values, got the text 'abc'"):
        Column("a", "nominal", levels="abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="made of columns"):
        Schema(("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="duplicate column names: 'a'"):
        Schema((Column("a", "real"), Column("a", "count")))
    with pytest.raises(ValueError, match="at least one column"):
        Schema(())
