"""The way in: a command's exit code, whenever Ctrl-C comes. Imports nothing before it can answer it.

Enters: `sys.argv`. Leaves: 0; 2 for bad use, 3 for an unusable device, 1 for any other failure, 130 for Ctrl-C
(docs/command-line.md). A failure is one line on standard error; `PUMICE_DEBUG=1` shows where it came from.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        from pumice.cli.commands import run_command

        return run_command(argv)
    except KeyboardInterrupt:  # before anything was there to answer it
        return INTERRUPTED
