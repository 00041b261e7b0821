"""Records as a Parquet file, a row each, by pyarrow.

Enters: records in order. Leaves: a file with the columns of `SCHEMA`; a batch of rows is in memory at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pumice.bulk.record import Record, from_row, to_row
from pumice.errors import BatchError, UsageError

ROWS = 10_000
"""Rows of a group."""


def require_pyarrow() -> Any:
    """pyarrow and its Parquet part, imported.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: pip install 'pumice[parquet]', or choose a .jsonl or .csv output"
        ) from None
    return pyarrow


def write_parquet(records: Iterator[Record], path: Path) -> None:
    """Write a whole file. Raises `OSError`."""
    arrow = require_pyarrow()
    schema = _schema(arrow)
    with arrow.parquet.ParquetWriter(str(path), schema, compression="zstd") as writer:
        while rows := [to_row(record) for record in itertools.islice(records, ROWS)]:
            writer.write_table(arrow.Table.from_pylist(rows, schema))


def read_parquet(path: Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        BatchError: it cannot be read, or has other columns.
    """
    arrow = require_pyarrow()
    try:
        with arrow.parquet.ParquetFile(str(path)) as file:
            for batch in file.iter_batches(ROWS):
                yield from (from_row(row) for row in batch.to_pylist())
    except (OSError, ValueError, KeyError, msgspec.MsgspecError, arrow.ArrowException) as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error}; begin anew with --overwrite") from None


def _schema(arrow: Any) -> Any:
    """A column for each field of `Record`; an error's are two."""
    text, count = arrow.string(), arrow.int64()
    one = [("token_id", count), ("token", text), ("logprob", arrow.float64())]
    logprobs = arrow.list_(arrow.struct([*one, ("top", arrow.list_(arrow.struct(one)))]))
    answer = [("text", text), ("finish_reason", text), ("completion_tokens", count), ("logprobs", logprobs)]
    return arrow.schema(
        [
            arrow.field("index", count, nullable=False),
            arrow.field("id", text, nullable=False),
            ("text", text),
            ("finish_reason", text),
            ("prompt_tokens", count),
            ("image_tokens", count),
            ("completion_tokens", count),
            ("seconds", arrow.float64()),
            ("logprobs", logprobs),
            ("answers", arrow.list_(arrow.struct(answer))),
            ("error_type", text),
            ("error_message", text),
        ]
    )
