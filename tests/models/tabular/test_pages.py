"""A page of models/tabular is read without opening many files, and each file has a name of its own."""

import ast
from pathlib import Path

import pyro_gen
from pyro_gen.models.tabular import METHODS

ROOT = Path(pyro_gen.__file__).parent
FAMILY = ROOT / "models" / "tabular"
PAGES = sorted(path for path in FAMILY.glob("*.py") if path.stem != "__init__")
FILES_OF_A_PAGE, LINES_OF_A_FILE = 6, 450


def imported(path: Path, family: Path) -> set[Path]:
    """The files of the family that a file imports, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py")
            if name.startswith("pyro_gen.") and file.is_file() and family in file.parents:
                found.add(file)
    return found


def opened(page: Path, family: Path = FAMILY) -> set[Path]:
    """A page and all that it imports of its family, through its imports."""
    found, left = {page}, [page]
    while left:
        more = imported(left.pop(), family) - found
        found |= more
        left += more
    return found


def test_the_pages_are_the_methods() -> None:
    assert {page.stem for page in PAGES} == set(METHODS)
    assert all(cls.__module__.rsplit(".", 1)[1] == name for name, cls in METHODS.items())


def test_a_page_opens_few_files() -> None:
    counts = {page.stem: len(opened(page)) for page in PAGES}
    assert max(counts.values()) <= FILES_OF_A_PAGE, counts
    # All of the pages together open what is there: nothing else is left in parts.
    assert set().union(*map(opened, PAGES)) == {p for p in FAMILY.rglob("*.py") if p.stem != "__init__"}
    assert len(set().union(*map(opened, PAGES))) > FILES_OF_A_PAGE  # what the count would say of a page of everything


def test_files_have_names_of_their_own_and_are_not_long() -> None:
    files = [path for path in FAMILY.rglob("*.py") if path.stem != "__init__"]
    assert len({path.name for path in files}) == len(files)
    assert max(len(path.read_text().splitlines()) for path in files) <= LINES_OF_A_FILE


def test_gibbs_steps_stand_in_the_page() -> None:
    for name in ("gaussian", "student_t", "factor_analysis", "copula", "mixture", "selection"):
        text = ast.get_docstring(ast.parse((FAMILY / f"{name}.py").read_text())) or ""
        assert text.count(r"\sim") >= 5 and "posterior" in text, name
