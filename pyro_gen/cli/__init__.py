"""The command line: a thin layer over the functions of the package.

Results go to standard output (with ``--json`` as JSON and nothing else), progress and errors to standard error.
"""

from pyro_gen.cli.app import main

__all__ = ["main"]
