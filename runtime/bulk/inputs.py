"""The inputs of a run, one after another: lines of a JSONL file, or the images of a folder.

Enters: a path. Leaves: `Entry` objects in an order that is always the same, and the `Identity` by which a resumed run
knows its inputs again. Nothing grows with their number but 8 bytes an id, while duplicates are looked for.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from pumice.bulk.item import record_id
from pumice.errors import BatchError, PumiceError, UsageError

MAX_LINE = 64 * 2**20
"""Bytes of a line: room for two of the largest images as data URIs."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
"""Of images in a folder, in small letters or capitals."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Inputs as they were: how many, and the SHA-256 of a JSONL file, or of a folder's names, sizes and times."""

    records: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An input: its number from 0, its id, where it stands, and its fields; or why it has none."""

    index: int
    id: str
    where: str
    fields: Mapping[str, Any] | PumiceError


class Digest(Protocol):
    """A hash that is being made."""

    def update(self, data: bytes, /) -> None:
        """Add to it."""
        ...


class Inputs(Protocol):
    """Somewhere to read inputs from."""

    @property
    def path(self) -> Path:
        """Where they are."""
        ...

    @property
    def folder(self) -> Path:
        """Where their relative paths begin."""
        ...

    def read(self, digest: Digest) -> Iterator[Entry]:
        """All of them, added to `digest`. Raises `OSError`."""
        ...


def open_inputs(path: Path) -> Inputs:
    """What is at a path.

    Raises:
        UsageError: neither a folder nor a regular file.
    """
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        raise UsageError(f"there is no {str(path)!r}: expected a JSONL file, or a folder of images")
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no regular file: inputs are read twice, so pipes will not do")
    return JsonLines(path)


class JsonLines:
    """A record a line; empty lines are skipped. A record without id has its line's number, from 1."""

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


class ImageFolder:
    """A record an image, in the order of their paths; hidden files are skipped, links to folders not followed.

    Its id is the path from the folder on, with `/` between its parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.folder = path

    def read(self, digest: Digest) -> Iterator[Entry]:
        """See `Inputs`."""
        for index, (name, file) in enumerate(_walk(self.path, "")):
            status = file.stat()
            digest.update(
                f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "backslashreplace")
            )
            # A name that is no UTF-8 cannot be written as JSON: its bytes are shown.
            shown = name.encode("utf-8", "backslashreplace").decode()
            yield Entry(index=index, id=shown, where=repr(name), fields={"image": name})


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as listing:
        entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, name + "/")
        elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield name, entry


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
        raise BatchError(
            f"{str(inputs.path)!r} has no records: expected lines of JSON, or images ({_LISTED})"
        )
    unique, counts = np.unique(np.frombuffer(ids, np.uint64), return_counts=True)
    if len(unique) < len(ids):
        _check_ids(inputs, set(unique[counts > 1].tolist()))
    return Identity(records=len(ids), sha256=digest.hexdigest())


_LISTED = ", ".join(SUFFIXES)


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
