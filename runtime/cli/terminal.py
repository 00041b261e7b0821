"""Text on a terminal: answers as they come, and names and values from files, which must not steer it.

Enters: pieces of text, or values for JSON. Leaves: text without control characters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any


def printable(text: str) -> str:
    """The text with everything escaped that would break a line, move a cursor or hide something."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same of a table: its lines stay."""
    return "\n".join(printable(line) for line in text.split("\n"))


def json_lines(text: str) -> str:
    """JSON whose strings are escaped where JSON itself lets control characters stand: the value is the same."""
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value for other programs, readable on a terminal."""
    return json_lines(json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if character <= "\uffff" else json.dumps(character)[1:-1]


def print_stream(stream: Iterable[str]) -> None:
    """Print pieces as they come, without the space that an answer often begins with.

    A terminal gets no control characters but line ends and tabs; a file or a pipe gets the text as it is.
    """
    begun, terminal = False, sys.stdout.isatty()
    for piece in stream:
        shown = piece if begun else piece.lstrip()
        begun = begun or bool(shown)
        print(_harmless(shown) if terminal else shown, end="", flush=True)
    print()


def _harmless(text: str) -> str:
    """Without control characters; joiners and the like, which `printable` escapes, are parts of words."""
    return "".join(repr(c)[1:-1] if _controls(c) else c for c in text)


def _controls(character: str) -> bool:
    return (character < " " and character not in "\n\t") or "\x7f" <= character <= "\x9f"
