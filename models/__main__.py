"""``python -m tinyflow.models`` is the ``tinyflow`` command, where that is not installed."""

import sys

from tinyflow.models.cli import main

if __name__ == "__main__":
    sys.exit(main())
