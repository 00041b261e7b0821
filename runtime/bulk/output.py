"""The output of a run, from its first record to its last name.

Enters: a path and the run's provenance. Leaves: the output, whole; until then its records lie in a journal beside it.

    out.jsonl.run.json    what it is made from
    out.jsonl.partial     the journal: records of a run that is not finished
    out.jsonl             finished; while a journal is there too, what its failed inputs are tried again from, or what
                          it will replace

A file is only ever renamed into place, so a kill at any moment leaves one of these states, and each can be gone on
from. What pumice did not write is not touched, but for an output that is to be overwritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from pumice.bulk.formats import LINES, format_of, write_whole
from pumice.bulk.journal import Journal, foreign, holds_records, read_records, unwritable
from pumice.bulk.places import is_plain, is_there
from pumice.bulk.plan import Plan, Step, There, Wish, make_plan
from pumice.bulk.provenance import (
    Provenance,
    commit_provenance,
    is_staged_by_us,
    not_ours,
    read_provenance,
    stage_provenance,
    staged,
    sync_folder,
)
from pumice.bulk.record import Record
from pumice.errors import BatchError, UsageError


class Output:
    """Where records go."""

    def __init__(self, path: Path) -> None:
        """Look at a path; nothing is written.

        Raises:
            UsageError: it is of no kind that there is, or there is no folder for it.
        """
        self._format = format_of(path)
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {str(path.parent)!r} for the output: make it first")
        if path.is_dir():
            raise UsageError(f"the output {str(path)!r} is a folder; expected a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"the output {str(path)!r} is a pipe or a device; expected a file")
        self.path = path
        self._journal = path.with_name(path.name + ".partial")
        self._provenance = path.with_name(path.name + ".run.json")
        self._new = path.with_name(path.name + ".tmp")

    @property
    def places(self) -> tuple[Path, ...]:
        """All files that a run writes."""
        new = () if self._format is LINES else (self._new,)
        return (self.path, self._journal, self._provenance, staged(self._provenance), *new)

    def check_places(self) -> None:
        """See that nothing of others is in the way; nothing is written.

        Raises:
            BatchError: something is.
        """
        is_there(self.path)
        read_provenance(self._provenance)
        if is_there(self._journal) and not (is_plain(self._journal) and holds_records(self._journal)):
            raise foreign(self._journal)
        if is_there(staged(self._provenance)) and not is_staged_by_us(staged(self._provenance)):
            raise not_ours(staged(self._provenance))
        if self._new in self.places and is_there(self._new) and not self._format.began(self._new):
            raise foreign(self._new)

    @property
    def settled(self) -> bool:
        """Whether there is a finished output, and no journal: then there may be nothing to do, nor to write."""
        return self.path.exists() and not is_there(self._journal)

    @contextlib.contextmanager
    def hold(self) -> Iterator[Journal]:
        """Keep other processes out; a journal is made, and goes again if it stays empty.

        Raises:
            BatchError: another process has it, or it cannot be written.
        """
        with contextlib.closing(Journal(self._journal)) as journal:
            try:
                yield journal
            finally:
                _unstage(self._provenance)

    def plan(self, provenance: Provenance, wish: Wish) -> Plan:
        """What to do. `hold` it before, unless it is `settled`.

        Raises:
            BatchError: what is there belongs to another run.
        """
        there = There(
            path=self.path,
            output=_stamp(self.path),
            journal=_holds_something(self._journal),
            provenance=read_provenance(self._provenance),
        )
        plan = make_plan(there, provenance, wish)
        retry = plan.step is Step.BEGIN and plan.provenance.retry
        if retry and all(record.error is None for record in self.records()):
            return dataclasses.replace(plan, step=Step.NOTHING)
        return plan

    def stage(self, plan: Plan, journal: Journal) -> None:
        """See that the disk can be written, and have what `begin` needs on it. Raises `BatchError`."""
        _unstage(self._provenance)
        if self._new in self.places and is_there(self._new):
            whole = plan.step is Step.GO_ON and journal.records == plan.provenance.inputs.records
            if not (whole and self._format.began(self._new)):
                raise foreign(self._new)
            self._new.unlink()  # what a process left that was killed in `finish`
        if plan.step is Step.BEGIN:
            stage_provenance(self._provenance, plan.provenance)

    def begin(self, plan: Plan, journal: Journal) -> None:
        """Have the journal be this plan's, after `stage`. A finished output stays.

        Raises:
            BatchError: it cannot be written.
        """
        if plan.step is Step.BEGIN:
            if journal.records:  # first, so that they are never taken for records of this run
                journal.clear()
            commit_provenance(self._provenance)

    def records(self) -> Iterator[Record]:
        """Those of the finished output. Raises `BatchError`."""
        return self._format.read(self.path)

    def finish(self, plan: Plan, journal: Journal) -> None:
        """Put the journal's records into their place.

        Raises:
            BatchError: they cannot be written; the journal stays.
        """
        try:
            journal.sync()
            if self._format is LINES:
                self._journal.replace(self.path)
            else:
                write_whole(self._format, read_records(self._journal), self._new, self.path)
                sync_folder(self.path.parent)
                self._journal.unlink()
            sync_folder(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._settle(plan.provenance)

    def _settle(self, provenance: Provenance) -> None:
        """Note that nothing is unfinished any more; a note that cannot be written changes nothing, since the output is
        another than the one that was to be replaced."""
        if provenance.replaces is not None or provenance.retry:
            with contextlib.suppress(BatchError):
                stage_provenance(
                    self._provenance, dataclasses.replace(provenance, replaces=None, retry=False)
                )
                commit_provenance(self._provenance)


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _stamp(path: Path) -> str | None:
    """By which a finished output is told from a later one; None if there is none."""
    if not is_there(path):
        return None
    status = path.lstat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _unstage(path: Path) -> None:
    """Remove what was staged and not renamed, now or by a killed process."""
    if is_staged_by_us(staged(path)):
        with contextlib.suppress(OSError):
            staged(path).unlink()
