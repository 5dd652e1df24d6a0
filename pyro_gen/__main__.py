"""``python -m pyro_gen`` is the command ``pyro-gen``."""

import sys

from pyro_gen.cli import main

if __name__ == "__main__":
    sys.exit(main())
