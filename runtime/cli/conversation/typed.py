"""A line becomes a question or a command; three double quotes stand around several lines.

Enters: lines, one by one. Leaves: what was typed, whole.

    > \"""                            > /system \"""
    ... Two lines                    ... Be brief.
    ... of one question. \"""         ... \"""
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

FENCE = '"""'
_OPENED = re.compile(r'\s*((?:/\S+[ \t]+)*)"""')
"""A fence at the beginning, or behind a command."""


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What was typed; `verbatim` text is a question as it stands: no command, and no path in it is an image's."""

    text: str
    verbatim: bool = False


def read_typed(read_line: Callable[[bool], str | None]) -> Typed | None:
    """One question or command; None at the end of input. `read_line` is told whether a line goes on."""
    text = read_line(False)
    if text is None:
        return None
    opened = _OPENED.match(text)
    if opened is None:
        return Typed(text=text.strip())
    body = text[opened.end() :]
    while not body.rstrip().endswith(FENCE):
        line = read_line(True)
        if line is None:
            return None
        body = f"{body}\n{line}"
    inside = body.rstrip().removesuffix(FENCE).strip("\n")
    return Typed(text=f"{opened[1]}{inside}", verbatim=not opened[1])
