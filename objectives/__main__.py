"""`python -m objectives tune config.yaml`."""

import sys

from objectives.environment import spin_briefly
from objectives.tuning.cli import main

if __name__ == "__main__":  # a worker process imports this module again
    spin_briefly()
    sys.exit(main())
