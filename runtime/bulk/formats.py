"""The kinds of files that records are written to, by suffix.

Enters: a path's suffix, records. Leaves: a file, whole or not at all; or the records of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pumice.bulk.csv_file import COLUMNS, read_csv, write_csv
from pumice.bulk.journal import foreign, read_records, unwritable
from pumice.bulk.parquet import read_parquet, require_pyarrow, write_parquet
from pumice.bulk.places import is_plain, is_there
from pumice.bulk.record import Record, encode_record
from pumice.errors import BatchError, UsageError
from pumice.machine.disk import sync


@dataclass(frozen=True, kw_only=True)
class Format:
    """How records become a file, and come back."""

    write: Callable[[Iterator[Record], Path], None]
    read: Callable[[Path], Iterator[Record]]
    require: Callable[[], object] = lambda: None
    """Raises `UsageError` if something is not installed."""
    beginning: bytes = b""

    def began(self, path: Path) -> bool:
        """Whether a file is one of this kind, or the beginning of one, however little of it."""
        if not is_plain(path):
            return False
        with path.open("rb") as file:
            head = file.read(len(self.beginning))
        return self.beginning.startswith(head)


def _write_lines(records: Iterator[Record], path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(encode_record(record) for record in records)


LINES = Format(write=_write_lines, read=read_records)

FORMATS = {
    ".jsonl": LINES,
    ".csv": Format(write=write_csv, read=read_csv, beginning=",".join(COLUMNS).encode()),
    ".parquet": Format(
        write=lambda records, path: write_parquet(records, path),
        read=read_parquet,
        require=require_pyarrow,
        beginning=b"PAR1",
    ),
}


def format_of(path: Path) -> Format:
    """By the suffix, in small letters or capitals.

    Raises:
        UsageError: there is none of that name, or it needs what is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"the output is {str(path)!r}; expected a name that ends with {_listed()}")
    form = FORMATS[suffix]
    form.require()
    return form


def _listed() -> str:
    *most, last = FORMATS
    return f"{', '.join(most)} or {last}"


def write_whole(form: Format, records: Iterator[Record], new: Path, path: Path) -> None:
    """Write to `new`, and rename it to `path`. Raises `OSError`, or `BatchError` if `new` is somebody's; then `path` is
    as it was."""
    if is_there(new):
        raise foreign(new)
    try:
        form.write(records, new)
        sync(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_records(records: Iterable[Record], path: str | Path, *, overwrite: bool = False) -> None:
    """Write records to a `.jsonl`, `.csv` or `.parquet` file, as `pumice batch` does: whole or not at all.

    Raises:
        UsageError: a name of another kind, or Parquet without pyarrow.
        BatchError: the file is there and is not to be overwritten, or cannot be written.
    """
    path = Path(path)
    form = format_of(path)
    if is_there(path) and not overwrite:
        raise BatchError(f"{str(path)!r} is there already: choose another output, or overwrite=True")
    new = path.with_name(f"{path.name}.tmp")
    try:
        write_whole(form, iter(records), new, path)
    except OSError as error:
        raise unwritable(path, error) from None
    with contextlib.suppress(OSError):
        sync(path.parent)
