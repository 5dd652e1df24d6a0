"""Names of the package that documents and docstrings mention are names that it has, also after things have moved."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "pyro_gen").rglob("*.py"),
]


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or what a module or class has by that name."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def lost(text: str) -> Iterator[str]:
    """The names in a text that are not there."""
    for name in sorted(set(re.findall(r"\bpyro_gen(?:\.[A-Za-z_]\w*)+", text))):
        if not name.endswith(".py") and not exists(name):
            yield name


def test_what_is_mentioned_is_there() -> None:
    found = {path.relative_to(ROOT): list(lost(path.read_text(encoding="utf-8"))) for path in PAGES}
    assert {path: names for path, names in found.items() if names} == {}


def test_what_is_not_there_is_found() -> None:
    text = (
        ":func:`pyro_gen.inference.fit`, :class:`~pyro_gen.program.Program.plate`, pyro_gen.gone.Thing, pyro_gen.fiit"
    )
    assert list(lost(text)) == ["pyro_gen.fiit", "pyro_gen.gone.Thing"]
