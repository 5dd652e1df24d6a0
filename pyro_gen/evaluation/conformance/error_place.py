"""Where an error comes from."""

import sysconfig
import traceback
from pathlib import Path

__all__ = ["first_line", "place_of"]

_PACKAGE = Path(__file__).parents[2]


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next((line for line in str(error).splitlines() if line.strip()), "no message")


def place_of(error: Exception) -> str:
    """The innermost line of the user's code that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if not f.filename.startswith((sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")))
        and (not Path(f.filename).is_relative_to(_PACKAGE) or Path(f.filename).is_relative_to(_PACKAGE / "models"))
        and not f.filename.startswith("<")
    ]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}" + (f" `{frame.line}`" if frame.line else "")
