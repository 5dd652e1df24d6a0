"""What the checks found, as a table."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["NOT_RUN", "Report", "Result"]


NOT_RUN = "The program does not run."


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        name: The name of the check.
        status: ``"passed"``, ``"failed"`` or ``"skipped"``.
        message: What was found (failed), why it does not apply (skipped), or what is checked, with a remark (passed).
        advice: What to do about a failure; empty otherwise.
    """

    name: str
    status: str
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """The results of all checks; prints as a table.

    Attributes:
        program: The name of the program's class.
        results: One result per check, in the order of :data:`CHECKS`.
    """

    program: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """The results of the checks that failed."""
        return tuple(r for r in self.results if r.status == "failed")

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, name: str) -> Result:
        """Returns the result of the check of that name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"There is no check named {name!r}: {', '.join(r.name for r in self.results)}.")

    def raise_for_failures(self) -> None:
        """Raises what failed.

        Raises:
            ValueError: A check failed; the message has every failure with its advice.
        """
        if self.failures:
            raise ValueError(
                f"{self.program} fails {len(self.failures)} of {len(self.results)} checks.\n"
                + "\n".join(_lines(r) for r in self.failures)
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return {"program": self.program, "ok": self.ok, "checks": [asdict(r) for r in self.results]}

    def __str__(self) -> str:
        counts = {s: sum(r.status == s for r in self.results) for s in ("passed", "failed", "skipped")}
        head = f"{self.program}: " + ", ".join(f"{n} {s}" for s, n in counts.items())
        lines = [_lines(r) for r in self.results if r.message != NOT_RUN]
        if len(lines) < len(self):
            lines.append(f"skipped the other {len(self) - len(lines)} checks: the program does not run.")
        return "\n".join([head, *lines])


def _lines(result: Result) -> str:
    status = result.status.upper() if result.status == "failed" else result.status
    text = [f"{status:8}{result.name:20}{result.message}"] + [f"{'':28}-> {result.advice}"] * bool(result.advice)
    return "\n".join(textwrap.fill(t, 120, subsequent_indent=" " * 28, break_long_words=False) for t in text)
