"""The tables of samples and of implicit programs in the documentation are those of the stored results."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("benchmark", "key", "page"), [("samples", "figures", "samples"), ("implicit", "programs", "likelihoods")]
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
    if benchmark == "implicit":
        assert all(found.get("gap", 0.0) <= module.GAP for found in stored.values())
        # Of standard normal data the network starts right, and a step from angle t to s multiplies by cos(t - s).
        chain = module.DDPM((8, 8), steps=100, schedule="cosine")
        z, deterministic = torch.randn(5, 64), module.Deterministic(chain)
        alpha, sigma = module.alpha_sigma(torch.stack([chain.gamma(i) for i in deterministic.at]))
        factor = (alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]).prod() * alpha[-1]
        found = 2 * deterministic(z).flatten(1) - 1
        assert torch.allclose(found, factor * z, atol=1e-5)
        assert not torch.allclose(found, alpha[-1] * z, atol=0.1)  # the twin: what infinitely many steps give
