"""A line on a terminal that says what is waited for, gone when it is there.

Enters: what is waited for. Leaves: nothing: a pipe or a file never sees it, and the next line stands in its place.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pumice.cli.terminal import printable


@contextmanager
def waiting(text: str, *, quiet: bool) -> Iterator[None]:
    """Show the text on standard error, if that is a terminal and nobody wants it `quiet`, while the block runs."""
    shown = "" if quiet or sys.stderr is None or not sys.stderr.isatty() else f"pumice: {printable(text)} …"
    shown = shown[: shutil.get_terminal_size().columns - 1]  # a line that is broken could not be taken back
    _write(shown)
    try:
        yield
    finally:
        _write(f"\r{' ' * len(shown)}\r" if shown else "")


def _write(text: str) -> None:
    if text:
        sys.stderr.write(text)
        sys.stderr.flush()
