"""`python -m gill`: the same as the command `gill`."""

import sys

from gill.cli import main

if __name__ == "__main__":
    sys.exit(main())
