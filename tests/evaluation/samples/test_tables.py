"""The tables of samples, of implicit programs and of games in the documentation are those of the stored results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("benchmark", "key", "page"),
    [
        ("samples", "figures", "samples"),
        ("implicit", "programs", "likelihoods"),
        ("adversarial", "games", "samples"),
    ],
)
def test_the_page_has_the_table_of_what_is_stored(
    benchmark: str, key: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location(f"{benchmark}_benchmark", ROOT / "benchmarks" / f"{benchmark}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = json.loads(module.RESULT.read_text())[key]
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert text.split(module.START)[1].split(module.END)[0].strip() == module.table(stored)
    assert all(found.get("gap", 0.0) <= 0.5 for found in stored.values())
