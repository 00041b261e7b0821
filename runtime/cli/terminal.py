"""Answers on a terminal.

Enters: pieces of text. Leaves: nothing; they are printed as they come.
"""

from __future__ import annotations

from collections.abc import Iterable


def print_stream(stream: Iterable[str]) -> None:
    """Print pieces as they come, without the space that an answer often begins with."""
    begun = False
    for piece in stream:
        shown = piece if begun else piece.lstrip()
        begun = begun or bool(shown)
        print(shown, end="", flush=True)
    print()
