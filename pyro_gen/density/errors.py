"""What an error says, and which line of the user's it comes from."""

import sys
import traceback
from pathlib import Path

__all__ = ["error_line", "first_line"]

LIBRARIES = ("torch", "pyro", "opt_einsum", "pyro_gen")


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def error_line(error: Exception) -> str:
    """The line of the user's model that raised an error."""
    # By where they are, not by name: a user's own folder may be called pyro.
    folders = [Path(str(sys.modules[name].__file__)).parent for name in LIBRARIES if name in sys.modules]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[0] != "<"]
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(folder) for folder in folders)]
    return f" At {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}" if own else ""
