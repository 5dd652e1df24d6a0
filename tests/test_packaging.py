"""The wheel, which is what users get, holds all of pyro_gen, claims no other name, and runs away from the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def files_on_disk(package: Path) -> set[str]:
    """What a wheel of the package must hold: every file but caches, as paths from the package's parent."""
    return {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def wheel_faults(names: set[str], on_disk: set[str]) -> list[str]:
    """What is wrong with a wheel that holds the files `names`: files left out, and top-level names it may not claim."""
    contents = {name for name in names if ".dist-info/" not in name}
    missing = [f"not in the wheel: {name}" for name in sorted(on_disk - contents)]
    claimed = {name.split("/")[0] for name in contents} - {"pyro_gen"}
    return missing + [f"claims the top-level name {name}" for name in sorted(claimed)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("pyro_gen-*.whl"))


def test_source_distribution_holds_the_whole_package(tmp_path: Path) -> None:
    # hatchling's walk is another one here, and the links at the root once made it drop models/ and inference/.
    hatchling = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    built = subprocess.run(hatchling, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    with tarfile.open(next(tmp_path.glob("pyro_gen-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_on_disk(ROOT / "pyro_gen") - names == set()
    assert not any(name.startswith(("models", "inference")) for name in names)


@pytest.fixture
def unpacked(wheel: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def run_outside(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a folder without a checkout, where only the unpacked wheel and the dependencies can be imported."""
    empty = site.parent / "elsewhere"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True, check=False
    )


def test_wheel_holds_the_whole_package_and_no_other_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel_faults(names, files_on_disk(ROOT / "pyro_gen")) == []
    assert {
        "pyro_gen/__init__.py",
        "pyro_gen/py.typed",
        "pyro_gen/models/__init__.py",
        "pyro_gen/inference/__init__.py",
    } <= names
    assert any(name.startswith("pyro_gen/recipes/") and name.endswith(".toml") for name in names)


def test_the_check_sees_a_forgotten_file_and_a_stolen_name() -> None:
    on_disk = {"pyro_gen/__init__.py", "pyro_gen/recipes/a.toml"}
    assert wheel_faults(on_disk | {"pyro_gen-0.1.0.dist-info/METADATA"}, on_disk) == []
    assert wheel_faults({"pyro_gen/__init__.py"}, on_disk) == ["not in the wheel: pyro_gen/recipes/a.toml"]
    assert wheel_faults(on_disk | {"models/vae.py"}, on_disk) == ["claims the top-level name models"]


def test_every_module_of_the_wheel_imports_outside_the_checkout(unpacked: Path) -> None:
    modules = sorted(
        ".".join(path.relative_to(unpacked).with_suffix("").parts).removesuffix(".__init__")
        for path in (unpacked / "pyro_gen").rglob("*.py")
    )
    code = f"""
import importlib
for name in {modules!r}:
    importlib.import_module(name)
import pyro_gen
print(pyro_gen.__file__)
"""
    result = run_outside(unpacked, code)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip().splitlines()[-1]) == unpacked / "pyro_gen" / "__init__.py"


def test_the_global_names_models_and_inference_stay_free(unpacked: Path) -> None:
    # Also in the editable install that runs this test: its finder must not expose the links at the root.
    code = """
import importlib.util
import pyro_gen
print([importlib.util.find_spec(name) for name in ("models", "inference")])
"""
    result = run_outside(unpacked, code)
    assert result.stdout.strip() == "[None, None]", result.stderr


def test_the_rooms_at_the_root_are_links_into_the_package() -> None:
    for name in ("models", "inference"):
        assert (ROOT / name).is_symlink(), name
        assert (ROOT / name).resolve() == ROOT / "pyro_gen" / name
