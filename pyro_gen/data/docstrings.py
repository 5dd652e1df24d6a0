"""The docstrings of Python's standard library: real text that is on every machine.

A document is a public module with its docstrings, the tests and tools that come with Python left out. Their number and
words depend on the version of Python; figures of them are bounds with room for that.
"""

import ast
import functools
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

__all__ = ["docstrings"]

LEFT_OUT = {
    *("test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "site-packages", "dist-packages"),
}
LEAST_WORDS = 50  # of a document


@functools.cache
def docstrings() -> Mapping[str, str]:
    """The text of each module with 50 words or more, by its name; it takes some seconds, once.

    Raises:
        ValueError: The sources of the library are not there.

    Example:
        >>> len(docstrings()) > 200, "Insert item x in list a" in docstrings()["bisect"]
        (True, True)
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT & set(parts) or parts[0].startswith(("_", "config-")):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # what is not meant to be read by this Python
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        text = "\n".join(t for t in texts if t)
        if len(text.split()) >= LEAST_WORDS:
            found[".".join(p for p in parts if p != "__init__")] = text
    if not found:
        raise ValueError(f"docstrings: {root} has no source files of the standard library.")
    return MappingProxyType(found)
