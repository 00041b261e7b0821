"""Removes what an export has left when it was killed; a program of its own, and the function that it calls.

Started before the temporary folder exists, in a session of its own, with a pipe as stdin. When the exporting process
ends in any way, SIGKILL included, the pipe closes; unless `DONE` came first, the janitor puts things back.
Only the standard library's lightest parts are imported: `python -I -S janitor.py FOLDER DESTINATION PARENT...`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable

DONE = b"done"
NEW, OLD = ".new.tmp", ".old.tmp"
"""Ends of the names of the folder being written, and of one that is being replaced where folders cannot be swapped."""


def clear(folder: str, destination: str, made_parents: Iterable[str] = ()) -> None:
    """Remove the temporary `folder`; a bundle that was moved aside returns to `destination` unless replaced.

    `made_parents` are removed too, innermost first, where they are empty.
    """
    assert folder.endswith(NEW), folder
    old = folder.removesuffix(NEW) + OLD
    if os.path.isdir(old) and not os.path.lexists(destination):  # noqa: PTH112
        os.rename(old, destination)  # noqa: PTH104
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    for parent in made_parents:
        with contextlib.suppress(OSError):
            os.rmdir(parent)  # noqa: PTH106


if __name__ == "__main__":
    if sys.stdin.buffer.read() != DONE:
        clear(sys.argv[1], sys.argv[2], sys.argv[3:])
