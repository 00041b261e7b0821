"""A bundle in a Ray Data pipeline: `ds.map_batches(BatchGenerator, …)`. docs/ray.md has a whole example.

Enters: batches of columns, as Ray Data gives them to actors. Leaves: the same columns, and those of the answers. Ray
schedules, restarts and stores; nothing here needs it but the count of an actor's CPUs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pumice.bulk.record import Record
from pumice.bulk.window import run_batch
from pumice.engine import Engine
from pumice.errors import UsageError
from pumice.loading import load

COLUMNS: dict[str, type] = {
    "text": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "image_tokens": int,
    "completion_tokens": int,
    "seconds": float,
    "error_type": str,
    "error_message": str,
}
"""What is added to a batch; a column of the same name is replaced. Fields of `pumice.bulk.Record`.

Where a row has none it is empty text or 0: a batch whose rows all had None would be a column of another type, and its
file would not fit those of other batches.
"""


class BatchGenerator:
    """Answers batches of rows. One actor holds one model and one engine, for as long as it lives.

    Args:
        bundle: a folder that every machine of the cluster sees, or `org/name` on the hub, which each machine fetches.
        revision: a branch, a tag or a commit of a bundle on the hub.
        columns: where a record's fields are: `{"image": "bytes", "id": "path"}`. By default every field is in the
            column of its name: id, prompt or messages, image or images. A row without id has its number within its
            batch, by which sampling draws: give ids.
        prompt: the question of rows without one.
        raw: take prompts as they stand.
        folder: where relative paths of images begin; by default the actor's working directory.
        slots: answers at a time.
        context: tokens that a prompt and its answer may have; by default the model's context.
        device: `auto`, `cpu` or `cuda`.
        threads: threads to compute with; by default the CPUs that Ray gives the actor.
        options: options of `generate` for all rows.

    Raises:
        BundleError, DeviceError, UsageError: as `pumice.load` and `pumice.Engine`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        revision: str | None = None,
        columns: Mapping[str, str] | None = None,
        prompt: str | None = None,
        raw: bool = False,
        folder: str | Path | None = None,
        slots: int = 8,
        context: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        self._fields = {name: name for name in _FIELDS} | dict(columns or {})
        if unknown := sorted(set(self._fields) - set(_FIELDS)):
            raise UsageError(f"columns has the unknown field {unknown[0]!r}; expected {', '.join(_FIELDS)}")
        model = load(
            bundle, revision=revision, device=device, threads=_cpus() if threads is None else threads
        )
        model.wait()
        model.options(**options)  # what is wrong with all rows is no row's fault
        self._engine = Engine(model, slots=slots, context=context, max_queue=2 * slots)
        self._slots, self._prompt, self._raw, self._folder = slots, prompt, raw, folder
        self._options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns of N rows, and N values in each of `COLUMNS`: of text as objects, int64, float64."""
        rows = max((len(column) for column in batch.values()), default=0)
        records = list(
            run_batch(
                self._engine,
                (self._row(batch, i) for i in range(rows)),
                prompt=self._prompt,
                raw=self._raw,
                folder=self._folder,
                in_flight=2 * self._slots,
                **self._options,
            )
        )
        return {**batch, **{name: _column(name, kind, records) for name, kind in COLUMNS.items()}}

    def _row(self, batch: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The fields of a row, as plain Python objects but for images that are arrays."""
        row = {
            field: _plain(batch[column][number]) for field, column in self._fields.items() if column in batch
        }
        if isinstance(images := row.get("images"), np.ndarray):  # images of one size, in one array
            row["images"] = list(images)
        return row


_FIELDS = ("id", "prompt", "messages", "image", "images", "video", "videos")


def _plain(value: Any) -> Any:
    """NumPy's scalars and lists, as Ray Data makes them of columns, as Python's own; arrays of images stay."""
    if isinstance(value, np.generic):
        value = value.item()
    if (
        isinstance(value, np.ndarray)
        and value.dtype != np.uint8
        and (value.ndim < 2 or value.dtype == object)
    ):
        value = list(value)
    if isinstance(value, Mapping):  # Arrow gives a struct all of its fields, None where they were not
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _column(name: str, kind: type, records: list[Record]) -> NDArray[Any]:
    """A field of all records."""
    if name.startswith("error_"):
        values = [getattr(record.error, name.removeprefix("error_"), None) for record in records]
    else:
        values = [getattr(record, name) for record in records]
    return np.array([value or kind() for value in values], object if kind is str else kind)


def _cpus() -> int | None:
    """CPUs that Ray gives this actor; None outside Ray, or for a part of one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0)) or None
