"""`python -m runtime` is the command `cutoff`."""

from __future__ import annotations

import sys

from runtime.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
