"""The programs of README and documentation work as they stand there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_gen.models.tabular import METHODS
from pyro_gen.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def program_text(page: str, name: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    section = re.search(rf"<!-- {name}:start.*?```python\n(.*?)```\n<!-- {name}:end -->", text, re.S)
    assert section is not None
    return section[1]


def run_program(page: str, name: str, **given: object) -> dict[str, object]:
    names = {"__name__": "page", **given}
    exec(compile(program_text(page, name), page, "exec"), names)
    return names


def test_the_example_of_a_table_with_holes(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    table = pd.DataFrame({"x": x, "y": 2 * x + rng.normal(size=200)}).mask(rng.random((200, 2)) < 0.2)

    def analysis(data: pd.DataFrame) -> tuple[float, float]:
        return data["x"].mean(), data["x"].var() / len(data)

    run_program("README.md", "holes", table=table, analysis=analysis)
    assert "std.error" in capsys.readouterr().out


def test_the_example_of_the_structure_of_data(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(40, 2)) + 9 * (np.arange(40) % 2)[:, None]
    found = run_program("README.md", "structure", table=pd.DataFrame(x))["found"]
    assert found.number_probabilities_[2] > 0.9  # type: ignore[attr-defined]
    assert "2 with probability" in capsys.readouterr().out


def test_the_example_of_a_program_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(100, 2) * torch.tensor([1.0, 3.0]) + 2
    x[0, 1] = torch.nan
    program = run_program("README.md", "program", x=x)["program"]
    loc, scale = (p.detach() for p in program.parameters())  # type: ignore[attr-defined]
    assert torch.allclose(loc, x.nanmean(0), atol=0.05)  # maximum likelihood in closed form
    assert torch.allclose(scale.exp()[1], x[1:, 1].std(correction=0), rtol=0.05)
    assert "0 failed" in capsys.readouterr().out


def test_the_number_of_models() -> None:
    text = README.read_text(encoding="utf-8")
    assert f"\n{len(MODELS)} models, from" in text
    rows = text.split("<!-- models-table:start -->")[1].split("<!-- models-table:end -->")[0]
    assert rows.count("\n| `") == len(MODELS)


def test_links_between_pages_lead_somewhere() -> None:
    for page in (README, *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if not line.startswith("|")]) <= 125  # without the rows of tables


def test_the_program_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_program("docs/programs.md", "program")
    draws, holes = names["lower_halves"], names["holes"]
    assert isinstance(draws, torch.Tensor)
    assert isinstance(holes, torch.Tensor)
    assert draws.shape == (20, 5, 8, 8)
    assert torch.equal(draws[:, :, :4], holes[:, :4].expand(20, 5, 4, 8))
    assert not draws.isnan().any()
    assert "nats" in capsys.readouterr().out


def test_the_program_is_at_most_40_lines() -> None:
    assert len([line for line in program_text("docs/programs.md", "program").splitlines() if line.strip()]) <= 40


def test_the_documentation_names_every_method_and_example_of_imputation() -> None:
    text = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert [name for name in METHODS if f'`"{name}"`' not in text] == []
    named = set(re.findall(r"`(?:examples/)?(\w+\.py)`", text))
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {name for name in examples if "imput" in name or name == "mnar.py"} <= named
    limit = re.search(r"at most (\d+) lines", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert limit is not None
    assert f"<= {limit[1]}" in (ROOT / "tests/test_examples.py").read_text(encoding="utf-8")


def test_the_posterior_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_program("docs/posteriors.md", "posterior")
    mu = names["idata"].posterior["mu"]  # type: ignore[attr-defined]
    assert mu.sizes == {"chain": 512, "draw": 50}  # as many as repay themselves, until 1,000 effective draws
    # Reference: 4.41 with standard deviation 3.3, known to 0.03; these draws are known to 0.05.
    assert abs(float(mu.mean()) - 4.41) < 0.3
    assert "nats" in capsys.readouterr().out


def test_the_samples_of_the_documentation_are_judged(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_program("docs/samples.md", "samples")["found"]
    assert found.frechet.value > 1.5 * found.frechet.real.value  # type: ignore[attr-defined]
    assert "real against real" in capsys.readouterr().out


def test_the_imputation_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_program("docs/tables.md", "imputation")
    pooled = names["completed"].fit(names["slope"]).pool()  # type: ignore[attr-defined]
    low, high = pooled.intervals()[0]
    assert low < 0.6 < high
    assert 0.03 < pooled.standard_error[0] < 0.12
    assert "std.error" in capsys.readouterr().out


def test_the_labels_of_the_documentation_run() -> None:
    names = run_program("docs/programs.md", "labels")
    accuracy, draws, labels, flowers = (names[name] for name in ("accuracy", "draws", "labels", "flowers"))
    assert isinstance(accuracy, float)
    assert isinstance(draws, dict)
    assert isinstance(flowers, dict)
    assert isinstance(labels, torch.Tensor)
    assert accuracy > 0.85  # 0.4 by the ELBO with one label in ten, which swaps two species
    assert draws["x"].shape == (100, 4, 4)
    assert torch.equal(draws["x"][..., :2], flowers["x"][:, :2].expand(100, 4, 2))
    assert draws["species"][:, 1:3].unique(dim=0).tolist() == [[0.0, 1.0]]
    assert labels[0].argmax() in draws["species"][:, 0]
