"""Directed acyclic graphs, as the parents of each node."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

__all__ = ["ancestors", "check_graph", "check_known", "topological_order"]

Parents = Mapping[str, Sequence[str]]


def check_graph(parents: Parents) -> dict[str, tuple[str, ...]]:
    """The parents of each node as tuples.

    Raises:
        ValueError: There is no node, a parent is no node or is given twice, or the arrows make a circle.
    """
    if not parents:
        raise ValueError('There is no node: give the parents of each by name, {"rain": [], "wet": ["rain"]}.')
    for name, above in parents.items():
        if isinstance(above, str):
            raise ValueError(f"The parents of {name!r} are {above!r}: give a list of names, [{above!r}].")
        if unknown := [p for p in above if p not in parents]:
            raise ValueError(f"{unknown[0]!r}, a parent of {name!r}, is no node: give its own parents too, [] if none.")
        if len(set(above)) < len(above):
            raise ValueError(f"A parent of {name!r} is given twice: {', '.join(above)}.")
    try:
        topological_order(parents)
    except CycleError as error:
        raise ValueError(f"The arrows make a circle, {' -> '.join(error.args[1])}: take one of them away.") from None
    return {name: tuple(above) for name, above in parents.items()}


def topological_order(parents: Parents) -> list[str]:
    """The nodes, each after its parents."""
    return list(TopologicalSorter(parents).static_order())


def ancestors(parents: Parents, names: Iterable[str]) -> set[str]:
    """Some nodes and all that are above them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(parents[name])
    return found


def check_known(what: str, names: Iterable[str], nodes: Collection[str]) -> None:
    """Raises a ``ValueError`` if a name is that of no node."""
    for name in names:
        if name not in nodes:
            raise ValueError(f"{what}: {name!r} is no node of the network, which has {', '.join(nodes)}.")
