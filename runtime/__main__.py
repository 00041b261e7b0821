"""`python -m pumice`: the command line."""

import sys

from pumice.cli import main

sys.exit(main())
