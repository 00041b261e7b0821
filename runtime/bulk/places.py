"""The files that a run writes, held against what it reads, before anything is touched.

Enters: paths. Leaves: nothing, or a typed error that names both.
"""

from __future__ import annotations

import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pumice.errors import BatchError, UsageError


def check_apart(inputs: Path, places: Sequence[Path]) -> None:
    """No file that a run writes may be its input: by name, or as the same file under another (links, other spellings).
    The first of `places` is the output.

    Raises:
        UsageError: one is.
    """
    for number, place in enumerate(places):
        if _spelling(place) in (_spelling(inputs), _folded(inputs.resolve())) or _same(place, inputs):
            what = f"the output {str(place)!r}" if number == 0 else f"{str(place)!r}, which the run writes,"
            raise UsageError(f"{what} is the input {str(inputs)!r}: choose another output, or move the input")


def is_there(path: Path) -> bool:
    """Whether a name is taken, be it by a link that leads nowhere.

    Raises:
        BatchError: it cannot be looked at.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be used: {error.strerror}") from None
    return True


def is_plain(path: Path) -> bool:
    """Whether a name is that of a regular file, and of no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _spelling(path: Path) -> str:
    """A path as file systems that do not tell capitals from small letters have it; a link is not followed."""
    return _folded(path.parent.resolve() / path.name)


def _folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
