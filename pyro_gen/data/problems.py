"""Several things that are wrong with a table, said at once: who mends them one by one runs a program many times."""

from collections.abc import Callable, Sequence

from pyro_gen._errors import Advice

__all__ = ["Problems"]


class Problems(ValueError):
    """What is wrong with the columns of a table.

    Arguments:
        each: What is wrong, a sentence each, or the exception that says it.
        of: What is said in front.

    Attributes:
        each: As given.
        of: As given.

    Example:
        >>> print(Problems(["column 'a' is empty.", "column 'b' holds text."], "t.csv: "))
        t.csv: 2 problems: (1) column 'a' is empty; (2) column 'b' holds text.
        >>> print(Problems(["column 'a' is empty"], "t.csv: "))
        t.csv: column 'a' is empty.
    """

    def __init__(self, each: Sequence[str | Exception], of: str = "") -> None:
        self.each, self.of = tuple(each), of
        super().__init__(self.each, of)

    def __str__(self) -> str:
        return self._said(str)

    def on_the_command_line(self) -> str:
        """The sentences with options in them."""
        return self._said(lambda one: one.on_the_command_line() if isinstance(one, Advice) else str(one))

    def _said(self, say: Callable[[str | Exception], str]) -> str:
        texts = [say(one).rstrip(".") for one in self.each]
        if len(texts) == 1:
            return f"{self.of}{texts[0]}."
        return f"{self.of}{len(texts)} problems: {'; '.join(f'({i}) {text}' for i, text in enumerate(texts, 1))}."
