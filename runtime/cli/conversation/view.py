"""How a conversation looks: plain text, whatever the terminal.

Enters: lines, and streams of answers. Leaves: nothing; they are printed. No colours, no cursor movements: the same on a
dumb terminal, and in 24 columns.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator

from pumice.cli.terminal import print_stream

_NARROW = 60
"""Columns below which a row's help stands below its name."""


def say(text: str) -> None:
    """Print lines; a tab parts a row's name from its help."""
    width = shutil.get_terminal_size().columns
    lines = text.splitlines()
    column = max((len(line.partition("\t")[0]) for line in lines if "\t" in line), default=0) + 2
    for line in lines:
        name, tab, about = line.partition("\t")
        if not tab:
            print(textwrap.fill(line, width, break_long_words=False) if len(line) > width else line)
        elif width < _NARROW:
            print(textwrap.fill(name, width) if len(name) > width else name)
            print(textwrap.fill(about, max(width, 12), initial_indent="  ", subsequent_indent="  "))
        else:
            indent = " " * column
            print(textwrap.fill(f"{name:{column}}{about}", width, subsequent_indent=indent))


def complain(error: Exception) -> None:
    """Print a failure in a line, on standard error."""
    print("pumice: error:", error, file=sys.stderr)


def show(pieces: Iterable[str]) -> None:
    """Print an answer as it comes; Ctrl-C stops it."""
    try:
        print_stream(_harmless(pieces))
    except KeyboardInterrupt:
        print()


def _harmless(pieces: Iterable[str]) -> Iterator[str]:
    """An answer without what would steer the terminal."""
    for piece in pieces:
        yield "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in piece)
