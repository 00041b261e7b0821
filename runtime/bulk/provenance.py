"""What an output is made from, in a small JSON file beside it, by which a run that goes on knows itself again.

Enters: a bundle's manifest, the identity of the inputs, what is asked of them. Leaves: `OUTPUT.run.json`, written whole
or not at all; or a typed error that says what differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pumice.bulk.entry import Identity
from pumice.bulk.journal import unwritable
from pumice.bulk.places import is_plain, is_there
from pumice.errors import BatchError
from pumice.machine.disk import sync
from pumice.manifest import Manifest, encode_manifest

_FORMAT = 1
_MOST_BYTES = 64 << 20

_REPORTS = ("parity.json", "PARITY.md")
"""What `pumice verify` writes into a bundle, beside its figures in the manifest."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """All that decides what records say, and nothing that does not: neither device nor slots."""

    bundle: str
    """SHA-256 of its manifest, without what `pumice verify` adds."""
    inputs: Identity
    prompt: str | None
    raw: bool
    options: dict[str, Any]
    format: int = _FORMAT
    replaces: str | None = None
    """Stamp of a finished output of others that lies there until this run is finished (`--overwrite`)."""
    retry: bool = False
    """Whether the unfinished run keeps what the finished output has answered."""

    def difference(self, other: Provenance) -> str | None:
        """What `other` has otherwise, in words."""
        if self.format != other.format:
            return "it was begun by another version of pumice"
        if self.bundle != other.bundle:
            return "it was begun with another bundle"
        if self.inputs.records != other.inputs.records:
            return (
                f"the inputs have changed: {other.inputs.records:,} records then, {self.inputs.records:,} now"
            )
        if self.inputs != other.inputs:
            return "the inputs have changed"
        for name in ("prompt", "raw"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} was {getattr(other, name)!r}, now it is {getattr(self, name)!r}"
        for name in sorted({*self.options, *other.options}):
            then, now = other.options.get(name), self.options.get(name)
            if then != now:
                return f"{name} was {_shown(then)}, now it is {_shown(now)}"
        return None


def digest_of(manifest: Manifest) -> str:
    """By which a bundle is known."""
    files = {name: entry for name, entry in manifest.files.items() if name not in _REPORTS}
    return hashlib.sha256(
        encode_manifest(dataclasses.replace(manifest, files=files, parity=None))
    ).hexdigest()


def read_provenance(path: Path) -> Provenance | None:
    """What is beside an output; None if nothing is.

    Raises:
        BatchError: it cannot be read, or is nothing that pumice wrote.
    """
    if not is_there(path):
        return None
    try:
        if is_plain(path):
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(_LONGEST), type=Provenance)
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    raise not_ours(path)


def not_ours(path: Path) -> BatchError:
    """A file in the way that pumice did not write, or that is damaged: it is left alone."""
    return BatchError(
        f"{str(path)!r} is there already, and pumice did not write it as it is: "
        "move it away, or choose another output"
    )


def stage_provenance(path: Path, provenance: Provenance) -> Path:
    """Write it beside its place, to be renamed into it; so a disk that cannot be written is known early.

    Raises:
        BatchError: it cannot be written, or something of others is in the way.
    """
    new = staged(path)
    try:
        with new.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(provenance), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise not_ours(new) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise unwritable(path, error) from None
    return new


def commit_provenance(path: Path) -> None:
    """Rename what was staged into its place.

    Raises:
        BatchError: it cannot be.
    """
    try:
        staged(path).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None


def staged(path: Path) -> Path:
    """Where it lies until then."""
    return path.with_name(path.name + ".tmp")


def is_staged_by_us(path: Path) -> bool:
    """Whether a file is what a killed process left of `stage_provenance`, however little of it."""
    if not is_plain(path):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(len(_BEGINNING))
    except OSError:
        return False
    return _BEGINNING.startswith(head)


_BEGINNING = b'{\n  "bundle": "'
"""How what is staged begins."""

_LONGEST = 64 * 2**20
"""Bytes, as of a line of the inputs: a prompt and a schema may be long."""


def sync_folder(folder: Path) -> None:
    """Have the disk hold a folder's names, where the system can."""
    with contextlib.suppress(OSError):
        sync(folder)


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
