"""python -m streamprune_triton: the command `streamprune`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
