"""The stored results of the recipes, and the tables that README and documentation show of them."""

import json
from pathlib import Path
from typing import Any

from pyro_gen._files import write_text
from pyro_gen.registry import MODELS
from pyro_gen.traces import structure
from pyro_gen.zoo.entries import load, names
from pyro_gen.zoo.reproduction import Reproduction

__all__ = ["RESULTS", "clock", "models_table", "store", "stored", "table", "write_tables"]

#: The folder of the stored results, in a checkout.
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "zoo"


def store(reproduction: Reproduction) -> Path:
    """Writes a result to :data:`RESULTS`, for the tables of the documentation.

    Raises:
        ValueError: The package does not run from a checkout.
    """
    if not RESULTS.parent.is_dir():
        raise ValueError("results are stored in a checkout of the repository, and this is an installed package.")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{reproduction.name}.json"
    write_text(path, json.dumps(reproduction.to_dict(), indent=2) + "\n")
    return path


def stored() -> dict[str, dict[str, Any]]:
    """The stored results by entry; empty where the package does not run from a checkout."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}


def clock(seconds: float) -> str:
    """A time to be read by people.

    Example:
        >>> clock(5.4), clock(150.0)
        ('5 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def table() -> str:
    """The entries as a Markdown table, with the results that are stored."""
    results = stored()
    lines = [
        "| entry | what | must reproduce | test figure ± Monte Carlo error | |  time |",
        "|---|---|---|---|---|---|",
    ]
    for entry in map(load, names()):
        row = f"| `{entry.name}` | {entry.title} | {entry.figure} ({entry.figure.what}) "
        found = results.get(entry.name)
        if found is None:
            lines.append(row + "| not run yet | | |")
            continue
        digits = 3 if entry.figure.unit == "bits/dim" else 2
        measured = f"{found['value']:.{digits}f}"
        if found["kind"] != "exact":
            measured += f" ± {found['standard_error']:.{digits}f}"
        verdict = "holds" if entry.figure.holds(found["value"]) else "**missed**"
        lines.append(row + f"| {measured} | {verdict} | {clock(found['seconds'])}, {found['device']} |")
    return "\n".join(lines)


def models_table() -> str:
    """The models as a Markdown table: class, paper, kind of density, recipes with their figures."""
    results, recipes = stored(), [load(name) for name in names()]
    lines = ["| model | what | paper | kind | recipes and their figures |", "|---|---|---|---|---|"]
    for name, card in MODELS.items():
        program, *rows = next(iter(card.small.values()))()
        found = []
        for entry in (e for e in recipes if e.model == name):
            value = "not run yet"
            if entry.name in results:
                # A pure number says by its measure what it is.
                value = f"{results[entry.name]['value']:.2f} {entry.figure.unit or f'({entry.figure.what})'}"
            found.append(f"`{entry.name}`: {value}")
        if card.command == "impute":
            found.append("`pyro-gen impute`")
        row = (f"`{name}`", card.title, card.paper, structure(program, *rows).kind, "; ".join(found))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def write_tables(page: Path) -> bool:
    """Puts :func:`table` and :func:`models_table` between the marks of a Markdown page; returns whether it changed.

    Raises:
        ValueError: The page has no marks.
    """
    text = new = page.read_text(encoding="utf-8")
    for name, make in (("zoo", table), ("models", models_table)):
        start, end = f"<!-- {name}-table:start -->\n", f"<!-- {name}-table:end -->"
        if start in new and end in new:
            new = new.split(start)[0] + start + make() + "\n" + end + new.split(end, 1)[1]
    if "-table:start -->\n" not in text:
        raise ValueError(
            f"{page} has no lines <!-- zoo-table:start --> and <!-- zoo-table:end --> to put a table between."
        )
    write_text(page, new)
    return new != text
