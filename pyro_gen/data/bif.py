"""Discrete Bayesian networks from files: the Bayesian interchange format (BIF), and three published networks in it."""

import itertools
import math
import os
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NetworkTables", "draw_rows", "network_file", "read_bif"]

PUBLISHED = Path(__file__).parent / "networks"

_TOKEN = re.compile(r'"[^"]*"|[{}()\[\]|,;]|[^\s{}()\[\]|,;"]+')
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_PROPERTY = re.compile(r"\bproperty\b[^;]*;")


class NetworkTables(NamedTuple):
    """A discrete network as its file has it.

    Attributes:
        parents: The parents of each node, by name.
        levels: The names of the values of each node.
        tables: The conditional probabilities of each node, float64, with a dimension for each parent in order and the
            node's own last: shape (*levels of the parents, levels).
    """

    parents: dict[str, tuple[str, ...]]
    levels: dict[str, tuple[str, ...]]
    tables: dict[str, Tensor]


def network_file(name: str) -> Path:
    """The file of a published network: ``"asia"``, ``"sachs"`` or ``"insurance"``.

    Raises:
        ValueError: There is none of that name.
    """
    path = PUBLISHED / f"{name}.bif"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PUBLISHED.glob("*.bif")))
        raise ValueError(
            f"There is no published network {name!r} here: give one of {known}, or the path of a BIF file."
        )
    return path


def draw_rows(network: NetworkTables, n: int, seed: int) -> Tensor:
    """Draws n rows of values 0, 1, ... from a network, with shape (n, D), a column for each node in order."""
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name in TopologicalSorter(network.parents).static_order():
        rows = network.tables[name][tuple(drawn[p] for p in network.parents[name])].expand(n, -1)
        drawn[name] = torch.multinomial(rows, 1, generator=generator).squeeze(1)
    return torch.stack([drawn[name] for name in network.parents], 1)


def read_bif(path: str | os.PathLike[str]) -> NetworkTables:
    """Reads a discrete network from a BIF file.

    Arguments:
        path: The file.

    Raises:
        ValueError: The file is not such a network; the message says what is wrong and with which node.

    Example:
        >>> asia = read_bif(network_file("asia"))
        >>> asia.parents["dysp"], asia.tables["dysp"].shape
        (('bronc', 'either'), torch.Size([2, 2, 2]))
    """
    text = _PROPERTY.sub("", _COMMENT.sub(" ", Path(path).read_text(encoding="utf-8")))
    words = [w.strip('"') for w in _TOKEN.findall(text)]
    levels: dict[str, tuple[str, ...]] = {}
    blocks: list[list[str]] = []
    start = 0
    for end in (i for i, w in enumerate(words) if w == "}" and words[i + 1 : i + 2] != [";"]):
        block, start = words[start:end], end + 1
        if block[:1] == ["variable"] and "discrete" in block and block.count("{") == 2:
            inner = block[len(block) - 1 - block[::-1].index("{") + 1 :]
            levels[block[1]] = tuple(w for w in inner if w not in (",", ";", "}"))
        elif block[:1] == ["probability"]:
            blocks.append(block)
        elif block[:1] != ["network"]:
            raise ValueError(
                f"{path}: expected network, a discrete variable or probability, found {' '.join(block[:6])!r}."
            )
    parents, tables = {}, {}
    for block in blocks:
        close = block.index(")")
        name, *given = [w for w in block[2:close] if w not in ("|", ",")]
        if unknown := [n for n in (name, *given) if n not in levels]:
            raise ValueError(
                f"{path}: the probability of {name!r} names {unknown[0]!r}, which is no variable of the file."
            )
        parents[name] = tuple(given)
        tables[name] = _table(path, name, parents[name], levels, block[close + 2 :])
    if lost := [n for n in levels if n not in tables]:
        raise ValueError(f"{path}: there is no probability of {lost[0]!r}.")
    return NetworkTables({n: parents[n] for n in levels}, levels, {n: tables[n] for n in levels})


def _table(
    path: str | os.PathLike[str],
    name: str,
    given: tuple[str, ...],
    levels: dict[str, tuple[str, ...]],
    words: list[str],
) -> Tensor:
    """The conditional probabilities of a node from the entries of its block."""
    rows: dict[tuple[str, ...], list[float]] = {}
    while words:
        end = words.index(";")
        entry, words = [w for w in words[:end] if w != ","], words[end + 1 :]
        key: tuple[str, ...]
        if entry[0] == "table":
            key, numbers = (), entry[1:]
        elif entry[0] == "(":
            close = entry.index(")")
            key, numbers = tuple(entry[1:close]), entry[close + 1 :]
        else:
            raise ValueError(f"{path}: an entry of {name!r} starts with {entry[0]!r}: expected ( values of parents ).")
        rows[key] = [float(w) for w in numbers]
    shape = [len(levels[n]) for n in (*given, name)]
    expected = list(itertools.product(*(levels[n] for n in given)))
    if sorted(rows) != sorted(expected) or any(len(row) != shape[-1] for row in rows.values()):
        raise ValueError(
            f"{path}: the probabilities of {name!r} are to be {shape[-1]} numbers for each of the "
            f"{math.prod(shape[:-1])} combinations of values of its parents, written as ( values ) numbers;"
        )
    return torch.tensor([rows[key] for key in expected], dtype=torch.float64).reshape(shape)
