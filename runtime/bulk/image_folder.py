"""The images of a folder, or one image alone, as inputs: a record each.

Enters: a path. Leaves: `Entry` objects, and what was passed over. A name that leads nowhere costs its own record only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pumice.bulk.entry import Digest, Entry
from pumice.bulk.passed_over import PassedOver
from pumice.errors import BatchError, ImageError, PumiceError
from pumice.images.addresses import names_file
from pumice.images.suffixes import SUFFIXES

_LONGEST_SUFFIX = 12
"""Characters; what follows a point after more of them is no kind of file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A name in a folder: a folder, an image with its size and time, or what is wrong with it."""

    name: str
    folder: bool = False
    size: int = 0
    time: int = 0
    error: PumiceError | None = None


class ImageFolder:
    """A record an image, in the order of their paths; hidden files are passed over, links to folders not followed.

    Its id is the path from the folder on, with `/` between its parts. A folder in it that cannot be read is a record
    too, of an error. `own` are resolved paths that are not told of: those of the run itself.
    """

    numbered = False

    def __init__(self, path: Path, own: frozenset[Path] = frozenset()) -> None:
        self.path = self.folder = path
        self._own, self._passed = own, PassedOver()

    @property
    def passed_over(self) -> str:
        """See `Inputs`."""
        return str(self._passed)

    def read(self, digest: Digest) -> Iterator[Entry]:
        """See `Inputs`."""
        self._passed = PassedOver()
        for index, found in enumerate(self._walk()):
            yield _entry(index, found, digest)

    def _walk(self) -> Iterator[_Found]:
        """All images, and whatever is wrong; a folder's names are looked at together, before its first is given."""
        line = [iter(self._list(""))]
        while line:
            found = next(line[-1], None)
            if found is None:
                line.pop()
            elif not found.folder:
                yield found
            else:
                try:
                    line.append(iter(self._list(found.name)))
                except OSError as error:
                    reason = f"the folder {found.name!r} cannot be read: {error.strerror}"
                    yield _Found(name=found.name, error=BatchError(reason))

    def _list(self, prefix: str) -> list[_Found]:
        """What is in a folder, by name; `prefix` is empty or ends with `/`."""
        with os.scandir(self.path / prefix) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        found = []
        for entry in entries:
            what = _look(entry, prefix + entry.name)
            if isinstance(what, _Found):
                found.append(what)
            elif not self._is_own(prefix, entry.name):
                self._passed.add(what, prefix + entry.name)
        return found

    def _is_own(self, prefix: str, name: str) -> bool:
        """Whether the run writes it: looked up only where the name is one of them."""
        return any(path.name == name for path in self._own) and (
            (self.path / prefix).resolve() / name in self._own
        )


class LoneImage:
    """One image, the only record; its id is its name."""

    numbered = False
    passed_over = ""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent

    def read(self, digest: Digest) -> Iterator[Entry]:
        """See `Inputs`."""
        status = self.path.stat()
        found = _Found(name=self.path.name, size=status.st_size, time=status.st_mtime_ns)
        yield _entry(0, found, digest)


def _entry(index: int, found: _Found, digest: Digest) -> Entry:
    as_read = f"{found.size}\0{found.time}" if found.error is None else "none"
    digest.update(f"{found.name}\0{as_read}\0".encode("utf-8", "backslashreplace"))
    # A name that is no UTF-8 cannot be written as JSON: its bytes are shown.
    shown = found.name.encode("utf-8", "backslashreplace").decode()
    image = f"./{found.name}" if not names_file(found.name) else found.name
    return Entry(index=index, id=shown, where=repr(found.name), fields=found.error or {"image": image})


def _look(entry: os.DirEntry[str], name: str) -> _Found | str:
    """A name's image or folder, what is wrong with it, or the kind as which it is passed over."""
    if entry.name.startswith("."):
        return "hidden"
    image = entry.name.lower().endswith(SUFFIXES)
    try:
        if entry.is_dir(follow_symlinks=False):
            return _Found(name=name + "/", folder=True)
        if not image and not entry.is_symlink() and entry.is_file():
            return _kind(entry.name)
        status = entry.stat()
    except OSError as error:
        if error.errno == errno.ENOENT and entry.is_symlink():
            return "dangling link"
        return _Found(name=name, error=_unreadable(name, error)) if image else "unreadable"
    if stat.S_ISDIR(status.st_mode):
        return "link to a folder"
    if not stat.S_ISREG(status.st_mode):
        return "pipe, socket or device"
    return _Found(name=name, size=status.st_size, time=status.st_mtime_ns) if image else _kind(entry.name)


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if 1 < len(suffix) <= _LONGEST_SUFFIX else "without a suffix"


def _unreadable(name: str, error: OSError) -> ImageError:
    if error.errno == errno.ENOENT:
        return ImageError(f"there is no image {name!r} any more: it went away while its folder was read")
    return ImageError(f"the image {name!r} cannot be opened: {error.strerror}")
