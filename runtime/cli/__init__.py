"""The command line: `pumice export | verify | info | run`."""

from pumice.cli.main import main

__all__ = ["main"]
