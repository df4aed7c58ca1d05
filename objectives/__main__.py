"""`python -m objectives tune config.yaml`."""

import sys

from objectives.tuning.cli import main

if __name__ == "__main__":  # a worker process imports this module again
    sys.exit(main())
