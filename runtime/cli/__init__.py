"""The command line, `pumice COMMAND`; its commands for checkpoints import `pumice.export`, inside functions.

Enters: arguments. Leaves: text on a terminal, and an exit code.
"""

from pumice.cli.main import main

__all__ = ["main"]
