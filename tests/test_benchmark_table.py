"""The speed table says what the stored results say, and leaves out what has not been measured."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_table", FOLDER / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("x", "text"), [(0.117, "0.12"), (3.4845, "3.5"), (41675.2, "41,700"), (16.25, "16.2"), (544885.3, "545,000")]
)
def test_numbers_have_the_digits_that_count(speed: ModuleType, x: float, text: str) -> None:
    assert speed.number(x) == text


def test_a_row_for_each_result(speed: ModuleType, tmp_path: Path) -> None:
    step = json.loads((FOLDER / "results" / "svi_step.json").read_text())
    (tmp_path / "svi_step.json").write_text(json.dumps(step))
    *_, row = speed.table(tmp_path).splitlines()
    assert f"| {speed.number(step['median']['compiled'])} ms |" in row
    assert f"Pyro {speed.number(step['median']['pyro_svi'])} ms" in row
    assert len(speed.table(tmp_path).splitlines()) == 3  # what is not there is left out
    assert len(speed.table().splitlines()) > 5
