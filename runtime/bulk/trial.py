"""Whether a run can work at all, seen before it writes anything.

Enters: inputs before a model is loaded, then the first records. Leaves: the records, unchanged; or a typed error, where
nothing can be asked, or all failed for the same reason.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from pumice.bulk.entry import Entry, Inputs
from pumice.bulk.item import Defaults, make_item
from pumice.bulk.record import Record
from pumice.errors import BatchError, ImageError, PumiceError, UsageError, VideoError
from pumice.images.addresses import names_file
from pumice.images.videos import Video

TRIES = 1000
"""Records that may fail before they are written all the same."""


def check_workable(inputs: Inputs, defaults: Defaults) -> None:
    """Look for a record that can be asked, as far as can be told without a model. Usually it is the first.

    Raises:
        UsageError, BatchError: there is none.
    """
    first: PumiceError | None = None
    count = 0
    try:
        for entry in inputs.read(hashlib.sha256()):
            error = _fault(entry, defaults, inputs)
            if error is None:
                return
            first = first or error
            count += 1
    except OSError:
        return  # it was readable just now: the run will say what has changed
    if first is not None:
        raise _hopeless(count, str(first), usage=isinstance(first, UsageError))


def _fault(entry: Entry, defaults: Defaults, inputs: Inputs) -> PumiceError | None:
    where = f"{entry.where}: " if inputs.numbered else ""
    if isinstance(entry.fields, PumiceError):
        told = str(entry.fields)
        return type(entry.fields)(told if told.startswith(entry.where) else f"{where}{told}")
    try:
        item = make_item(entry.index, entry.id, entry.fields, defaults)
    except UsageError as error:
        return UsageError(f"{where}{error}")
    for given in item.images:
        video = isinstance(given, Video)
        if _missing(given.source if video else given):
            return (
                VideoError(f"{where}there is no video {given.source!r}")
                if video
                else ImageError(f"{where}there is no image {str(given)!r}")
            )
    return None


def _missing(image: object) -> bool:
    """Whether an image is a path at which nothing is."""
    if not isinstance(image, str) or not names_file(image):
        return False
    try:
        Path(image).stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # it will say so itself
        return False
    return False


def tried(records: Iterator[Record], tries: int = TRIES) -> Iterator[Record]:
    """The same records; the first are held back until one is answered, two fail differently, or `tries` have failed.

    Raises:
        UsageError, BatchError: all have failed, for one reason.
    """
    held: list[Record] = []
    for record in records:
        held.append(record)
        if record.error is None or _reason(record) != _reason(held[0]) or len(held) == tries:
            return itertools.chain(held, records)
    if held and held[0].error is not None:
        error = held[0].error
        raise _hopeless(len(held), error.message, usage=error.type == "UsageError")
    return iter(held)


def _reason(record: Record) -> tuple[str, str] | None:
    """What kind of failure it is: the message without names and numbers."""
    if record.error is None:
        return None
    return record.error.type, _PARTICULARS.sub("…", record.error.message)


_PARTICULARS = re.compile(r"""'[^']*'|"[^"]*"|[-+]?\d[\d,.]*(e[-+]?\d+)?""")
"""Names, texts and numbers."""


def _hopeless(count: int, reason: str, *, usage: bool) -> PumiceError:
    what = "the only record" if count == 1 else f"none of the {count:,} records"
    begun = "cannot be answered" if count == 1 else "can be answered; the first"
    return (UsageError if usage else BatchError)(f"{what} {begun}: {reason}")
