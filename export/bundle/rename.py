"""Moving a finished folder to its destination in one step.

    destination missing     renameat2(RENAME_NOREPLACE)     folder → destination
    destination there       renameat2(RENAME_EXCHANGE)      folder ↔ destination

Other systems than Linux, and some file systems, cannot exchange; there, two renames, and the janitor (which knows the
name of the folder in between) puts the old one back if only the first was made.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from pumice.errors import ExportError
from pumice.export.bundle import janitor

_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def move_into_place(folder: Path, destination: Path) -> None:
    """Put `folder` at `destination`. What was there is at `folder` afterwards, or at its `.old.tmp` name.

    Raises:
        ExportError: there was nothing at `destination` when this began, and then there was.
        OSError: the folder cannot be moved.
    """
    exists = destination.exists()
    try:
        _renameat2(folder, destination, _EXCHANGE if exists else _NOREPLACE)
    except FileExistsError:
        raise ExportError(f"{destination} came into being during the export, and is kept") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _move_in_steps(folder, destination, exists)


def move_back(folder: Path, destination: Path) -> None:
    """Undo `move_into_place` where something was replaced: the new one is at `folder` again. Raises OSError."""
    old = Path(str(folder).removesuffix(janitor.NEW) + janitor.OLD)
    if old.exists():
        destination.rename(folder)
        old.rename(destination)
    else:
        _renameat2(folder, destination, _EXCHANGE)


def _move_in_steps(folder: Path, destination: Path, exists: bool) -> None:
    if exists:
        destination.rename(str(folder).removesuffix(janitor.NEW) + janitor.OLD)
    folder.rename(destination)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, "no renameat2")
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
