"""Finished records on disk, in order: line i of the file is record i, so that its length says how far a run has come.

Enters: records. Leaves: a file that holds every record once, however often its writer was killed: what was cut short is
cut off when the file is opened again. What a killed process had written stays, and a machine that stops loses a second
at most.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pumice.bulk.places import is_plain, is_there
from pumice.bulk.record import Record, decode_record, encode_record
from pumice.errors import BatchError

SYNC_SECONDS = 1.0


class Journal:
    """An open journal; only one process at a time may have it.

    Attributes:
        records: how many it holds.
        failed: how many of them are errors.
    """

    def __init__(self, path: Path) -> None:
        """Open or make it.

        Raises:
            BatchError: it cannot be written, another process writes it, or it is a file of somebody else's.
        """
        self.path = path
        self.records = self.failed = 0
        self._made = not is_there(path)
        if not self._made and not is_plain(path):
            raise foreign(path)
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            _lock(self._file, path)
            if not holds_records(path):
                raise foreign(path)
            self._recover()
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def append(self, record: Record) -> None:
        """Write the next record.

        Raises:
            BatchError: the disk is full, or the like.
        """
        assert record.index == self.records
        data = encode_record(record)
        try:
            while data:
                data = data[self._file.write(data) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.records += 1
        self.failed += record.error is not None

    def sync(self) -> None:
        """Have the disk hold what was written. Raises `OSError`."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def clear(self) -> None:
        """Forget all records."""
        try:
            self._file.truncate(0)
        except OSError as error:
            raise unwritable(self.path, error) from None
        self.records = self.failed = 0

    def close(self) -> None:
        """Let others have it; one that was made for nothing goes."""
        if not self._file.closed:
            try:
                with contextlib.suppress(OSError):  # what matters was written; `finish` syncs by itself
                    self.sync()
                    if self._made and not self.records:
                        self.path.unlink()
            finally:
                self._file.close()

    def _recover(self) -> None:
        """Count the records, and cut off what follows the last whole one."""
        try:
            self._file.seek(0)
            end = 0
            with self.path.open("rb") as file:
                for line in file:
                    record = _whole(line, self.records)
                    if record is None:
                        break
                    self.records += 1
                    self.failed += record.error is not None
                    end += len(line)
            if os.fstat(self._file.fileno()).st_size > end:
                self._file.truncate(end)
        except OSError as error:
            raise unwritable(self.path, error) from None


_BEGINNING = b'{"index":0,"id":"'
"""How a journal begins, whatever is in it."""


def holds_records(path: Path) -> bool:
    """Whether a file is a journal, or the beginning of one, or empty.

    Raises:
        BatchError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_BEGINNING))
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    return _BEGINNING.startswith(head)


def foreign(path: Path) -> BatchError:
    """A file in the journal's place that is none."""
    return BatchError(
        f"{str(path)!r} is there already, and pumice did not write it: move it away, or choose another output"
    )


def read_records(path: Path) -> Iterator[Record]:
    """The records of a finished file.

    Raises:
        BatchError: it cannot be read, or has other lines than were written.
    """
    try:
        with path.open("rb") as file:
            for index, line in enumerate(file):
                record = _whole(line, index)
                if record is None:
                    raise BatchError(
                        f"line {index + 1} of {str(path)!r} was changed: begin anew with --overwrite"
                    )
                yield record
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def unwritable(path: Path, error: OSError) -> BatchError:
    """Why a file cannot be written, and what to do."""
    then = "free some space, and run the same command again to go on" if error.errno == errno.ENOSPC else ""
    return BatchError(f"{str(path)!r} cannot be written: {error.strerror or error}{'; ' * bool(then)}{then}")


def _whole(line: bytes, index: int) -> Record | None:
    """A line's record, if it is number `index` and complete."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = decode_record(line)
    except ValueError:
        return None
    return record if record.index == index else None


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes out, where the system can, until the file is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except BlockingIOError:
        mine = False
    except OSError:  # a file system without locks; or a file that is gone
        mine = path.exists()
    if not mine:
        raise BatchError(f"another process writes {str(path)!r}: wait for it, or choose another output")
