"""The command line: `pumice export | verify | info | run | batch | bench`."""

from pumice.cli.main import main

__all__ = ["main"]
