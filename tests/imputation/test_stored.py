"""Imputers as files: what is read imputes as what was written, and a file runs nothing."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.imputation.imputer import Imputer
from pyro_gen.imputation.stored import MODULES, read_imputer, write_imputer
from pyro_gen.models.tabular import METHODS


def table(numbers: bool) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    found = pd.DataFrame({"a": a, "b": np.where(rng.random(60) < 0.3, np.nan, a), "d": rng.normal(size=60)})
    if not numbers:
        found["c"] = np.where(rng.random(60) < 0.3, None, np.where(a > 0, "x", "y"))
        found["e"] = np.where(rng.random(60) < 0.2, np.nan, np.where(a > 0.3, 0.0, np.exp(a)))
        found["k"] = np.where(rng.random(60) < 0.3, np.nan, rng.poisson(3, 60))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_what_is_read_imputes_as_what_was_written(tmp_path: Path, name: str) -> None:
    numbers = "nominal" not in METHODS[name].KINDS
    frame = table(numbers)
    small = {"options": {"members": 2, "steps": 20}} if name in ("deep", "not_miwae") else {}
    imputer = Imputer(name, draws=2, random_state=np.random.RandomState(0), time_limit=3, **small).fit(frame)
    write_imputer(tmp_path / "a.pt", imputer, {"asked": [1, "b"]})
    again, note = read_imputer(tmp_path / "a.pt")
    assert note == {"asked": [1, "b"]}
    for k in range(2):
        pd.testing.assert_frame_equal(again.impute(frame)[k], imputer.impute(frame)[k])
    assert again.schema_ == imputer.schema_ and again.info_ == imputer.info_
    assert again.get_params()["random_state"] is None and again.draws == 2
    assert list(again.feature_names_in_) == list(frame)
    filled = again.transform(frame)
    pd.testing.assert_frame_equal(filled, imputer.transform(frame))


def test_several_programs_and_every_kind_of_column_come_back(tmp_path: Path) -> None:
    schema = {"c": "nominal", "k": "count"}
    imputer = Imputer(["copula", "mixture"], draws=1, random_state=3, schema=schema, time_limit=4).fit(table(False))
    write_imputer(tmp_path / "a.pt", imputer)
    again, _ = read_imputer(tmp_path / "a.pt")
    assert again.weights_ == imputer.weights_ and again.get_params() == imputer.get_params()
    pd.testing.assert_frame_equal(again.impute(table(False))[0], imputer.impute(table(False))[0])


def test_a_file_runs_nothing(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    def torch_bytes(obj: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(obj, buffer)
        return buffer.getvalue()

    def told(learnt: Any) -> bytes:
        described = {"parameters": {"dict": []}, "learnt": {"dict": [["a", learnt]]}, "note": None}
        return torch_bytes({"imputer": json.dumps(described), "tensors": []})

    for content in (
        pickle.dumps(Runs()),
        torch_bytes({"imputer": Runs(), "tensors": []}),
        torch_bytes({"imputer": "{", "tensors": []}),
        told({"module": ["os.system", {"dict": []}]}),
        told({"record": ["builtins.exec", {"dict": []}]}),
        told({"tensor": 3}),
        told({"what": 3}),
        told({"a": 1, "b": 2}),
        b"",
    ):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt: not an imputer that pyro-gen wrote"):
            read_imputer(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_what_no_imputer_has_is_not_stored(tmp_path: Path) -> None:
    imputer = Imputer("gaussian", draws=1, random_state=0).fit(table(True))
    imputer.info_["what"] = object()
    with pytest.raises(TypeError, match="an imputer with a object in it cannot be stored"):
        write_imputer(tmp_path / "a.pt", imputer)
    assert list(tmp_path.iterdir()) == [] and METHODS.keys() <= MODULES.keys()
