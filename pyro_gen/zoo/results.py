"""The stored results of the recipes, and the table that the README shows of them."""

import json
from pathlib import Path
from typing import Any

from pyro_gen.zoo.entries import load, names
from pyro_gen.zoo.reproduction import Reproduction

__all__ = ["RESULTS", "clock", "store", "stored", "table", "write_table"]

#: The folder of the stored results, in a checkout.
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "zoo"


def store(reproduction: Reproduction) -> Path:
    """Writes a result to :data:`RESULTS`, for the table of the README.

    Raises:
        ValueError: The package does not run from a checkout.
    """
    if not RESULTS.parent.is_dir():
        raise ValueError("results are stored in a checkout of the repository, and this is an installed package.")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{reproduction.name}.json"
    path.write_text(json.dumps(reproduction.to_dict(), indent=2) + "\n", encoding="utf-8")
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
        row = f"| `{entry.name}` | {entry.title} | {entry.figure} ({entry.figure.method}) "
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


def write_table(readme: Path) -> bool:
    """Puts :func:`table` between the marks of a README; returns whether that changed it.

    Raises:
        ValueError: The file has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    start, end = "<!-- zoo-table:start -->\n", "<!-- zoo-table:end -->"
    if start not in text or end not in text:
        raise ValueError(f"{readme} has no lines {start.strip()} and {end} to put the table between.")
    new = text.split(start)[0] + start + table() + "\n" + end + text.split(end, 1)[1]
    readme.write_text(new, encoding="utf-8")
    return new != text
