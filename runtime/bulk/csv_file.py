"""Records as a CSV file, a row each: RFC 4180, UTF-8, a header, and the columns of Parquet.

Enters: records in order. Leaves: a file whose `logprobs` and `answers` are JSON text, and whose empty fields are null
where the column can be. Texts are as they are: those that begin with `=` or the like are formulas to spreadsheets
(docs/batch.md).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pumice.bulk.record import Record, from_row, to_row
from pumice.errors import BatchError

COLUMNS = (
    "index",
    "id",
    "text",
    "finish_reason",
    "prompt_tokens",
    "image_tokens",
    "completion_tokens",
    "seconds",
    "logprobs",
    "answers",
    "error_type",
    "error_message",
)
_NESTED = ("logprobs", "answers")
_NUMBERS = ("index", "prompt_tokens", "image_tokens", "completion_tokens", "seconds")

_LONGEST_FIELD = 2**31 - 1
"""Characters; Python's own bound of 131,072 is below what the log-probabilities of a long answer take."""


def write_csv(records: Iterator[Record], path: Path) -> None:
    """Write a whole file. Raises `OSError`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # RFC 4180: commas, doubled quotes, \r\n
        writer.writerow(COLUMNS)
        for record in records:
            row = to_row(record)
            writer.writerow([_field(name, row.get(name)) for name in COLUMNS])


def read_csv(path: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        BatchError: it cannot be read, or has other columns.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != COLUMNS:
                raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
            for row in reader:
                yield _record(row)
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error, msgspec.MsgspecError, RecursionError) as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error}; begin anew with --overwrite") from None


def _field(name: str, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if name in _NESTED and value is not None else value


def _record(row: list[str]) -> Record:
    """A row's record; an empty field is null, but for the text of an answer."""
    fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name, text in fields.items():
        if text == "" and (name not in ("id", "text") or (name == "text" and fields["error_type"])):
            fields[name] = None
        elif name in _NESTED or name in _NUMBERS:
            fields[name] = msgspec.json.decode(text)
    if fields["error_type"] is not None and fields["error_message"] is None:
        fields["error_message"] = ""
    return from_row(fields)
