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

from pumice.bulk.inputs import Identity
from pumice.bulk.journal import unwritable
from pumice.errors import BatchError
from pumice.machine.disk import sync
from pumice.manifest import Manifest, encode_manifest
from pumice.manifest.regular_file import read_regular

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
        BatchError: it cannot be read.
    """
    try:
        return msgspec.json.decode(read_regular(path, _MOST_BYTES), type=Provenance)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BatchError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BatchError(f"{str(path)!r} is damaged: begin anew with --overwrite") from None


def write_provenance(path: Path, provenance: Provenance) -> None:
    """Put it beside an output, whole or not at all.

    Raises:
        BatchError: it cannot be written.
    """
    new = path.with_name(path.name + ".tmp")
    try:
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(provenance), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise unwritable(path, error) from None


def sync_folder(folder: Path) -> None:
    """Have the disk hold a folder's names, where the system can."""
    with contextlib.suppress(OSError):
        sync(folder)


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)
