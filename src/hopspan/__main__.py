"""`python -m hopspan` is the command `hopspan`."""

import sys

from hopspan.cli import main

if __name__ == "__main__":
    sys.exit(main())
