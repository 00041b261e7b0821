"""A small file that somebody named, found, and read whole: no pipe that would wait for ever, no device that never ends.

Enters: a path, and the most that such a file can have. Leaves: its bytes. What is wrong is an `OSError`, as for a file
that cannot be opened, so that each reader words its own failure.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_PART = 1 << 16
"""Bytes read at a time: what is asked for is allocated, however little there is."""


def named(path: str | os.PathLike[str]) -> Path:
    """The path as its user meant it: `~` is a home, where there is such a user; else it is part of the name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file (or of one that is linked to), which are `most` or fewer.

    Raises:
        OSError: it is missing, cannot be read, is a folder, pipe or device, or is larger; `strerror` says which.
    """
    # A pipe is opened without waiting for its other end; what was opened is looked at, not what has the name later.
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        handle = os.open(path, flags)
    except ValueError:  # a zero byte, or what the file system cannot spell
        raise OSError(errno.EINVAL, "it is no name of a file") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, expected a regular file")
        data = bytearray()
        while status.st_size <= most and (part := file.read(min(_PART, most + 1 - len(data)))):
            data += part
    if max(len(data), status.st_size) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes, which such a file cannot be")
    return bytes(data)
