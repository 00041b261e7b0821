"""The command line: `pumice export | verify | info | run | batch`."""

from pumice.cli.main import main

__all__ = ["main"]
