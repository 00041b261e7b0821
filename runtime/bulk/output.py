"""The output of a run, from its first record to its last name.

Enters: a path and the run's provenance. Leaves: the output, whole; until then its records lie in a journal beside it.

    out.jsonl.run.json    what it is made from
    out.jsonl.partial     the journal: records of a run that is not finished
    out.jsonl             finished; and while a journal is there too, what its failed inputs are tried again from

A file is only ever renamed into place, so a kill at any moment leaves one of these states, and each can be gone on
from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pumice.bulk.journal import Journal, read_records, unwritable
from pumice.bulk.parquet import read_parquet, require_pyarrow, write_parquet
from pumice.bulk.provenance import Provenance, read_provenance, sync_folder, write_provenance
from pumice.bulk.record import Record
from pumice.errors import BatchError, UsageError
from pumice.machine.disk import sync

SUFFIXES = (".jsonl", ".parquet")


class Output:
    """Where records go."""

    def __init__(self, path: Path) -> None:
        """Look at a path; nothing is written.

        Raises:
            UsageError: it is of neither kind, or there is no folder for it.
        """
        if path.suffix not in SUFFIXES:
            raise UsageError(
                f"the output is {str(path)!r}; expected a name that ends with .jsonl or .parquet"
            )
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {str(path.parent)!r} for the output: make it first")
        if path.is_dir():
            raise UsageError(f"the output {str(path)!r} is a folder; expected a file")
        self.path = path
        self._parquet = path.suffix == ".parquet"
        if self._parquet:
            require_pyarrow()
        self._journal = path.with_name(path.name + ".partial")
        self._provenance = path.with_name(path.name + ".run.json")

    def finished(self, provenance: Provenance, *, overwrite: bool, retry_errors: bool) -> bool:
        """Whether there is nothing to do.

        Raises:
            BatchError: what is there belongs to another run.
        """
        if overwrite:
            return False
        if _holds_something(self._journal) or self.path.exists():
            self._check(provenance)
        if self._journal.exists() or not self.path.exists():
            return False
        return not (retry_errors and any(record.error is not None for record in self.records()))

    def begin(self, provenance: Provenance, *, overwrite: bool) -> Journal:
        """The journal to go on with.

        Raises:
            BatchError: what is there belongs to another run, or cannot be written.
        """
        if not overwrite and _holds_something(self._journal):
            self._check(provenance)  # before a file of somebody else's is opened, and cut
        journal = Journal(self._journal)
        try:
            if overwrite:
                _remove(self.path)
                journal.clear()
            if journal.records or self.path.exists():
                self._check(provenance)
            else:
                write_provenance(self._provenance, provenance)
        except BaseException:
            journal.close()
            raise
        return journal

    def records(self) -> Iterator[Record]:
        """Those of the finished output. Raises `BatchError`."""
        return read_parquet(self.path) if self._parquet else read_records(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is a finished output."""
        return self.path.exists()

    @property
    def unfinished(self) -> Path:
        """Where the records are while a run goes on."""
        return self._journal

    def finish(self, journal: Journal) -> None:
        """Put the journal's records into their place.

        Raises:
            BatchError: they cannot be written; the journal stays.
        """
        try:
            journal.sync()
            if self._parquet:
                self._convert()
                self._journal.unlink()
            else:
                self._journal.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def _convert(self) -> None:
        new = self.path.with_name(self.path.name + ".tmp")
        try:
            write_parquet(read_records(self._journal), new)
            sync(new)
            new.replace(self.path)
        finally:
            new.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _check(self, provenance: Provenance) -> None:
        found = read_provenance(self._provenance)
        if found is None:
            there = self.path if self.path.exists() else self._journal
            raise BatchError(
                f"{str(there)!r} is there already, and no {str(self._provenance)!r} says what it was made from: "
                "choose another output, or --overwrite"
            )
        if (difference := provenance.difference(found)) is not None:
            raise BatchError(
                f"{str(self.path)!r} belongs to another run ({difference}): "
                "give the same command, choose another output, or --overwrite"
            )


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
