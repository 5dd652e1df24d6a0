"""Several things that are wrong with a table, said at once: who mends them one by one runs a program many times."""

from collections.abc import Sequence

__all__ = ["Problems", "problems"]


class Problems(ValueError):
    """What is wrong with the columns of a table.

    Arguments:
        each: What is wrong, a sentence each.
        of: What is said in front.

    Attributes:
        each: As given.

    Example:
        >>> print(Problems(["column 'a' is empty.", "column 'b' holds text."], "t.csv: "))
        t.csv: 2 problems: (1) column 'a' is empty; (2) column 'b' holds text.
    """

    def __init__(self, each: Sequence[str], of: str = "") -> None:
        self.each = tuple(text.rstrip(".") for text in each)
        numbered = "; ".join(f"({i}) {text}" for i, text in enumerate(self.each, 1))
        several = f"{len(self.each)} problems: {numbered}"
        super().__init__(f"{of}{several}.")


def problems(each: Sequence[str], of: str = "") -> ValueError:
    """An error that says one thing, or several."""
    return Problems(each, of) if len(each) > 1 else ValueError(f"{of}{each[0].rstrip('.')}.")
