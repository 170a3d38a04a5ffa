"""Run the forkserve command: python3 -m forkserve."""

import sys

from forkserve.cli import main

sys.exit(main())
