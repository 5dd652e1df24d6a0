"""Each floor of the package imports only from its own and from the floors below it (CONTRIBUTING.md, "The floors").

And no files import each other in a circle, so that each can be read after those that it is made of.
Imports inside functions count; imports under `if TYPE_CHECKING:` do not, they name a type and load nothing.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pyro_gen"

# From the ground up. A module or a package belongs to the floor that names it, with all that it contains.
FLOORS = [
    {
        "_archives",
        "_errors",
        "_files",
        "_identity",
        "_internals",
        "_progress",
        "_random",
        "_sizes",
        "_version",
        "registry",
    },
    {
        "program",
        "parameters",
        "plates",
        "observation",
        "variables",
        "packing",
        "sequences",
        "noising",
        "heads",
        "traces",
        "distributions",
        "nets",
        "data",
    },
    {"density"},
    {"inference"},
    {"models"},
    {"imputation", "evaluation", "tasks", "structure", "lightning"},
    {"zoo", "cli", "demo", "targets", "pictures", "saving", "__init__", "__main__"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def import_nodes(node: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """All import statements below a node, at any depth, less those under `if TYPE_CHECKING:`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [node]
    skipped = set(node.body) if isinstance(node, ast.If) and is_type_checking(node.test) else set()
    return [found for child in ast.iter_child_nodes(node) if child not in skipped for found in import_nodes(child)]


def imported_names(source: str, module: str, is_package: bool) -> list[tuple[str, str | None]]:
    """What a module imports of pyro_gen: pairs of a module and a name that is taken from it, if any.

    Args:
        source: the text of the module.
        module: its dotted name, such as 'pyro_gen.inference.svi'.
        is_package: whether the text is that of an `__init__.py`.
    """
    names: list[tuple[str, str | None]] = []
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [(alias.name, None) for alias in node.names]
            continue
        base = node.module or ""
        if node.level:
            package = module.split(".") if is_package else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        names += [(base, alias.name) for alias in node.names]
    return [(base, name) for base, name in names if base == "pyro_gen" or base.startswith("pyro_gen.")]


def imported_parts(source: str, module: str, is_package: bool, parts: set[str]) -> set[str]:
    """The parts of pyro_gen that a module imports ('models', 'program', ...); '__init__' is pyro_gen itself.

    Args:
        source: the text of the module.
        module: its dotted name, such as 'pyro_gen.inference.svi'.
        is_package: whether the text is that of an `__init__.py`.
        parts: the modules and packages right under pyro_gen, to tell `from pyro_gen import models` from a name.
    """
    found = set()
    for base, name in imported_names(source, module, is_package):
        inside = base.split(".")[1:] or ([name] if name in parts else ["__init__"])
        found.add(inside[0])
    return found


def modules_of(package: Path) -> dict[str, Path]:
    """The files of the package by dotted name; that of an `__init__.py` is its folder's."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).with_suffix("").parts
        found[".".join(["pyro_gen", *(inside[:-1] if inside[-1] == "__init__" else inside)])] = path
    return found


def circles(package: Path) -> list[list[str]]:
    """The sets of files that import each other, directly or through others, each as sorted dotted names."""
    files = modules_of(package)
    imports: dict[str, set[str]] = {}
    for module, path in files.items():
        pairs = imported_names(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        targets = {f"{base}.{name}" if f"{base}.{name}" in files else base for base, name in pairs}
        imports[module] = {t for t in targets if t in files and t != module}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = imports[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reach = {module: reached(module) for module in files}
    found = {tuple(sorted(m for m in reach[module] if module in reach[m])) for module in files}
    return [list(circle) for circle in sorted(found) if circle]


def named_in_vain(package: Path) -> list[str]:
    """The parts that FLOORS names and that are not on disk."""
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return sorted(FLOOR_OF.keys() - there)


def violations(package: Path) -> list[str]:
    """One line for each part without a floor and for each import of a higher floor."""
    parts = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    found = [f"pyro_gen.{part} has no floor: name it in FLOORS" for part in sorted(parts - FLOOR_OF.keys())]
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).with_suffix("").parts
        part = inside[0]
        if part not in FLOOR_OF:
            continue
        is_package = inside[-1] == "__init__"
        module = ".".join(["pyro_gen", *(inside[:-1] if is_package else inside)])
        for target in sorted(imported_parts(path.read_text(encoding="utf-8"), module, is_package, parts)):
            if FLOOR_OF.get(target, -1) > FLOOR_OF[part]:
                found.append(f"{module} imports pyro_gen.{target} from a floor above")
    return found


def test_no_floor_imports_from_above() -> None:
    assert violations(PACKAGE) == []


def test_the_table_of_the_floors_is_the_list() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The floors")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert [set(re.findall(r"`(\w+)`", row)) for row in reversed(rows)] == FLOORS


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("inference/ais.py", "from pyro_gen.models.vae import VAE"),
        ("inference/ais.py", "def f():\n    import pyro_gen.models.vae"),
        ("inference/ais.py", "from ..models import vae"),
        ("inference/ais.py", "from pyro_gen import models"),
        ("inference/ais.py", "from .. import models"),
        ("inference/__init__.py", "from ..models import vae"),
        ("inference/ais.py", "if not TYPE_CHECKING:\n    import pyro_gen.models"),
        ("inference/ais.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import pyro_gen.models"),
        ("program.py", "import pyro_gen as pg"),
        ("program.py", "from pyro_gen import observe"),
        ("models/vae/vae.py", "from ...evaluation import check_program"),
        ("gadgets.py", ""),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, path: str, line: str) -> None:
    package = plant(tmp_path, path, line)
    assert len(violations(package)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("inference/ais.py", "from ..density import density\nfrom .svi import fit\nimport torch"),
        (
            "program.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pyro_gen.inference.objectives import ELBO",
        ),
        ("models/vae/vae.py", "from pyro_gen import nets\nfrom pyro_gen.inference import ELBO"),
        ("cli.py", "import pyro_gen as pg\nimport pyro_generic"),
    ],
)
def test_what_is_allowed_is_not_reported(tmp_path: Path, path: str, line: str) -> None:
    assert violations(plant(tmp_path, path, line)) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from pyro_gen.inference.svi import fit", "from pyro_gen.inference.ais import ais"),
        ("def f():\n    from pyro_gen.inference.svi import fit", "import pyro_gen.inference.ais"),
        ("from . import svi", "if True:\n    from ..inference.ais import ais"),
    ],
)
def test_a_planted_circle_is_caught(tmp_path: Path, first: str, second: str) -> None:
    package = plant(tmp_path, "inference/ais.py", first)
    plant(tmp_path, "inference/svi.py", second)
    assert circles(package) == [["pyro_gen.inference.ais", "pyro_gen.inference.svi"]]


def test_a_planted_circle_through_others_and_a_package_is_caught(tmp_path: Path) -> None:
    package = plant(tmp_path, "inference/ais.py", "from pyro_gen.inference import fit")  # no file of this name
    plant(tmp_path, "inference/__init__.py", "from pyro_gen.inference.svi import fit")
    plant(tmp_path, "inference/svi.py", "def f():\n    from pyro_gen.inference.ais import ais")
    assert circles(package) == [["pyro_gen.inference", "pyro_gen.inference.ais", "pyro_gen.inference.svi"]]


def test_names_of_types_make_no_circle(tmp_path: Path) -> None:
    package = plant(tmp_path, "inference/ais.py", "from pyro_gen.inference.svi import fit")
    named = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pyro_gen.inference.ais import ais"
    plant(tmp_path, "inference/svi.py", named)
    assert circles(package) == []


def test_floors_name_what_is_there(tmp_path: Path) -> None:
    assert named_in_vain(PACKAGE) == []
    package = plant(tmp_path, "cli.py", "")
    missing = named_in_vain(package)  # the small copy has few parts: all others are reported
    assert "density" not in missing and "zoo" in missing


def plant(folder: Path, path: str, text: str) -> Path:
    """A small copy of the package's shape with one file of the given text in it."""
    package = folder / "pyro_gen"
    for name in ("inference", "models", "models/vae", "evaluation"):
        (package / name).mkdir(parents=True, exist_ok=True)
        (package / name / "__init__.py").touch()
    for name in ("__init__.py", "program.py", "observation.py", "nets.py", "density.py", "cli.py"):
        (package / name).touch()
    (package / path).write_text(text, encoding="utf-8")
    return package
