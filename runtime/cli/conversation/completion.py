"""What Tab offers: commands, names of options, paths.

Enters: a line up to the cursor. Leaves: where the word to be completed begins, and what it may become.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pumice.cli.conversation.commands import BY_NAME
from pumice.cli.conversation.paths import IMAGE_SUFFIXES, as_path, words
from pumice.generation.option_table import OPTIONS

_OPENED = re.compile(r"""(?:^|(?<=[ \t]))(["'][^"']*)$""")
"""A quote that is not closed yet."""
_MOST = 200
"""Names that are offered of one folder."""


def completions(line: str) -> tuple[int, list[str]]:
    """Where the last word of `line` begins, and all that it may become."""
    command, blank, rest = line.partition(" ")
    if line.startswith("/") and not blank and "/" not in command[1:]:
        return 0, [f"/{name} " for name in sorted(BY_NAME) if f"/{name}".startswith(command)]
    known = BY_NAME.get(command[1:]) if command.startswith("/") and blank else None
    begin = _last_word(line)
    typed = line[begin:]
    if known is None:
        is_path = typed.startswith(("/", "~/", "./", "../"))
        return begin, _paths(typed, images=True) if is_path else []
    if known.completes == "paths":
        return begin, _paths(typed, images=known.names[0] == "image")
    if known.completes == "commands":
        return begin, [name for name in sorted(BY_NAME) if name.startswith(typed.lstrip("/"))]
    if known.completes == "options":
        if begin == len(command) + 1:
            return begin, [f"{option.name} " for option in OPTIONS if option.name.startswith(typed)]
        if rest.startswith("json_schema"):
            return begin, _paths(typed, images=False)
    return begin, []


def _last_word(line: str) -> int:
    opened = _OPENED.search(line)
    if opened is not None:
        return opened.start(1)
    parted = words(line)
    return parted[-1].start if parted and parted[-1].end == len(line) else len(line)


def _paths(typed: str, *, images: bool) -> list[str]:
    """Files and folders that a typed path may become; with `images`, of files only those."""
    quote = typed[:1] if _OPENED.fullmatch(typed) else ""
    parted = words(typed.removesuffix("\\"))
    plain = typed[1:] if quote else parted[-1].text if parted else ""
    head, _, start = plain.rpartition("/")
    folder = f"{head}/" if "/" in plain else ""
    try:
        with os.scandir(as_path(folder) or ".") as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name.startswith(start))
    except (OSError, ValueError):
        return []
    kept = [
        (name, is_folder)
        for name, is_folder in found
        if (start or not name.startswith("."))
        and (is_folder or not images or Path(name).suffix.lower() in IMAGE_SUFFIXES)
    ]
    return [
        _quoted(f"{folder}{name}", quote) + ("/" if is_folder else quote) for name, is_folder in kept[:_MOST]
    ]


def _quoted(path: str, quote: str) -> str:
    """A path as it can be typed."""
    if quote:
        return quote + path
    if os.name == "nt":
        return f'"{path}"' if " " in path else path
    return "".join(f"\\{c}" if c in " \t\"'\\" else c for c in path)
