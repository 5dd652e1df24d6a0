"""The registries, and what a model costs: a toy one is added the way CONTRIBUTING says, and everything knows it."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pyro_gen.registry import DATA_SETS, MODELS, OBJECTIVES, Registry, Source

ROOT = Path(__file__).resolve().parents[1]

MODEL = '''"""A toy: independent normal entries."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_gen.data.small import normal_rows
from pyro_gen.observation import observe
from pyro_gen.program import Program
from pyro_gen.registry import model


@model("a toy", paper="Nobody (2026)", small={"": lambda: (Toy(3), normal_rows(9, 3))})
class Toy(Program):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.event_shape = torch.Size([features])
        self.loc = nn.Parameter(torch.zeros(features))

    def model(self, x: Tensor) -> Tensor:
        with self.plate(x):
            return observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
'''
RECIPE = """
title = "The toy"
[program]
model = "Toy"
[data]
name = "iris"
[figure]
measure = "log_likelihood"
at_least = -1e3
source = "nowhere"
"""


def test_a_new_model_is_a_file_its_name_in_two_and_a_recipe(tmp_path: Path) -> None:
    package = tmp_path / "pyro_gen"
    shutil.copytree(ROOT / "pyro_gen", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "models" / "linear" / "toy.py").write_text(MODEL, encoding="utf-8")
    for home, origin in (("models/linear", "linear.toy"), ("models", "linear")):
        with (package / home / "__init__.py").open("a", encoding="utf-8") as file:
            file.write(f"from pyro_gen.models.{origin} import Toy\n")
    (package / "recipes" / "toy.toml").write_text(RECIPE, encoding="utf-8")

    def run(*words: str) -> str:
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(run("-m", "pyro_gen", "zoo", "list", "--json"))
    assert "toy" in [entry["name"] for entry in listed]
    fitted = json.loads(run("-m", "pyro_gen", "fit", "Toy", "--data", "iris", "--epochs", "1", "--json"))
    assert fitted["epochs"] == 1
    checked = run(
        "-c",
        "from pyro_gen.registry import MODELS\n"
        "from pyro_gen.evaluation.conformance import check_program\n"
        "card = MODELS['Toy']\n"
        "check_program(*card.small['']()).raise_for_failures()\n"
        "assert __import__('pyro_gen').models.Toy is card.cls\n"
        "print(card.family)",
    )
    assert checked == "linear\n"


def test_a_registry_names_what_it_has() -> None:
    assert {"ELBO", "IWAE", "DReG", "Renyi", "ScoreFunctionELBO", "EnumELBO"} <= set(OBJECTIVES)
    assert {"ContrastiveDivergence", "ScoreMatching", "NoiseContrastive", "PseudoLikelihood"} <= set(OBJECTIVES)
    assert {"VAE", "Gaussian", "TableStudent"} <= set(MODELS)
    assert DATA_SETS["mnist"].from_folder and not DATA_SETS["iris"].from_folder
    with pytest.raises(
        ValueError, match=r"no objective 'ELBOW' \(did you mean 'ELBO'\?\): choose one of Adversarial, Beta"
    ):
        OBJECTIVES.find("ELBOW")


def test_a_name_is_given_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("one", 1)
    with pytest.raises(ValueError, match="there is a number 'one' already"):
        registry.add("one", 2)
    assert dict(registry) == {"one": 1}
    sources: Registry[Source] = Registry("data set")
    sources.add("two", Source(lambda root: None, False))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="there is a data set 'two' already: give this one another name"):
        sources.add("two", Source(lambda root: None, True))  # type: ignore[arg-type, return-value]


def test_a_name_is_given_once_in_a_module_that_may_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "twice_in_a_module"
    first = "class Toy: pass\nregistry.add('Toy', Toy)\n"
    (tmp_path / f"{module}.py").write_text("from tests_of_names import registry\n" + first, encoding="utf-8")
    home = ModuleType("tests_of_names")
    monkeypatch.setitem(sys.modules, "tests_of_names", home)
    monkeypatch.syspath_prepend(tmp_path)
    home.registry = Registry("model")  # type: ignore[attr-defined]
    loaded = importlib.import_module(module)
    importlib.reload(loaded)
    for fresh in range(2):  # as a doctest does it, with another module
        monkeypatch.delitem(sys.modules, module)
        loaded = importlib.import_module(module)
        assert home.registry["Toy"] is loaded.Toy, fresh
    (tmp_path / f"{module}.py").write_text("from tests_of_names import registry\n" + first * 2, encoding="utf-8")
    monkeypatch.delitem(sys.modules, module)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(ValueError, match=f"there is a model 'Toy' already, of {module}: give this one another name"):
        importlib.import_module(module)
