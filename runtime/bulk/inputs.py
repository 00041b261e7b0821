"""The inputs of a run, one after another: lines of a JSONL file, the images of a folder, or one image.

Enters: a path. Leaves: `Entry` objects in an order that is always the same, and the `Identity` by which a resumed run
knows its inputs again. Nothing grows with their number but 8 bytes an id, while duplicates are looked for.
"""

from __future__ import annotations

import hashlib
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pumice.bulk.entry import Digest, Entry, Identity, Inputs
from pumice.bulk.image_folder import ImageFolder, LoneImage
from pumice.bulk.item import record_id
from pumice.errors import BatchError, PumiceError, UsageError
from pumice.images.suffixes import SUFFIXES

__all__ = ["Entry", "Identity", "Inputs", "entries", "open_inputs", "scan"]

MAX_LINE = 64 * 2**20
"""Bytes of a line: room for two of the largest images as data URIs."""


def open_inputs(path: Path, own: frozenset[Path] = frozenset()) -> Inputs:
    """What is at a path; `own` are files of the run itself, which a folder may hold and which are not told of.

    Raises:
        UsageError: neither a folder nor a regular file, or one of another kind.
        BatchError: it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"there is no {str(path)!r}: expected {_EXPECTED}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BatchError(f"{str(path)!r} cannot be read: {reason}") from None
    if stat.S_ISDIR(mode):
        return ImageFolder(path, own)
    if not stat.S_ISREG(mode):
        raise UsageError(f"{str(path)!r} is no regular file: inputs are read twice, so pipes will not do")
    head = _head(path)
    if path.suffix.lower() in SUFFIXES or head.startswith(_IMAGES) or head[8:12] == b"WEBP":
        return LoneImage(path)
    if b"\0" in head:
        raise UsageError(f"{str(path)!r} is no text: expected {_EXPECTED}")
    return JsonLines(path)


_EXPECTED = f"a JSONL file, a folder of images, or one image ({', '.join(SUFFIXES)})"

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a")
"""How images begin, whatever they are called."""


def _head(path: Path) -> bytes:
    """A file's first bytes. UTF-16 is seen by its zero bytes too."""
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None


class JsonLines:
    """A record a line; empty lines are skipped. A record without id has its line's number, from 1."""

    numbered = True
    passed_over = ""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent

    def read(self, digest: Digest) -> Iterator[Entry]:
        """See `Inputs`."""
        index = 0
        with self.path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                digest.update(line)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                too_long = len(line) > MAX_LINE
                while too_long and not line.endswith(b"\n") and (line := file.readline(MAX_LINE)):
                    digest.update(line)
                if too_long or not line.isspace():
                    yield _entry(index, number, None if too_long else line)
                    index += 1


def _entry(index: int, number: int, line: bytes | None) -> Entry:
    where, identity = f"line {number}", str(number)
    try:
        fields = _fields(where, line)
        identity = record_id(fields, identity)
    except PumiceError as error:
        return Entry(index=index, id=identity, where=where, fields=error)
    return Entry(index=index, id=identity, where=where, fields=fields)


def _fields(where: str, line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise UsageError(f"{where} has more than {MAX_LINE:,} bytes; give images as paths")
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{where} is a JSON {_KINDS.get(type(fields), 'value')}, expected an object")
    return fields


_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def scan(inputs: Inputs) -> Identity:
    """Read inputs through once, to know them again.

    Raises:
        BatchError: they cannot be read, there are none, or two have the same id.
    """
    digest = hashlib.sha256()
    ids = array("Q")
    try:
        for entry in inputs.read(digest):
            ids.append(_digest_of(entry.id))
    except OSError as error:
        raise _unreadable(inputs, error) from None
    if not ids:
        passed = inputs.passed_over and f"; passed over {inputs.passed_over}"
        raise BatchError(
            f"{str(inputs.path)!r} has no records: expected lines of JSON, or images ({', '.join(SUFFIXES)}){passed}"
        )
    unique, counts = np.unique(np.frombuffer(ids, np.uint64), return_counts=True)
    if len(unique) < len(ids):
        _check_ids(inputs, set(unique[counts > 1].tolist()))
    return Identity(records=len(ids), sha256=digest.hexdigest())


def _check_ids(inputs: Inputs, doubtful: set[int]) -> None:
    """Two ids may share a digest; raise only if two are the same."""
    seen: dict[str, str] = {}
    for entry in inputs.read(hashlib.sha256()):
        if _digest_of(entry.id) not in doubtful:
            continue
        if entry.id in seen:
            raise BatchError(
                f"{seen[entry.id]} and {entry.where} of {str(inputs.path)!r} have the same id {entry.id!r}; "
                "ids tell records apart (without one, a record has its line's number)"
            )
        seen[entry.id] = entry.where


def _digest_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def entries(inputs: Inputs, identity: Identity) -> Iterator[Entry]:
    """The inputs that `scan` saw.

    Raises:
        BatchError: they have changed since, or cannot be read.
    """
    digest = hashlib.sha256()
    count = 0
    try:
        for entry in inputs.read(digest):
            if count == identity.records:
                raise _changed(inputs)
            yield entry
            count += 1
    except OSError as error:
        raise _unreadable(inputs, error) from None
    if Identity(records=count, sha256=digest.hexdigest()) != identity:
        raise _changed(inputs)


def _changed(inputs: Inputs) -> BatchError:
    return BatchError(f"{str(inputs.path)!r} was changed while it was read: begin anew with --overwrite")


def _unreadable(inputs: Inputs, error: OSError) -> BatchError:
    return BatchError(f"{error.filename or str(inputs.path)!r} cannot be read: {error.strerror}")
