"""An input as it was read, and by what inputs are known again.

Enters: what `inputs.py` and `image_folder.py` find. Leaves: plain data, and the Protocol that both fulfil.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pumice.errors import PumiceError


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Inputs as they were: how many, and the SHA-256 of a JSONL file, or of images' names, sizes and times."""

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

    @property
    def numbered(self) -> bool:
        """Whether an error is told with where its input stands; an image is named in it anyway."""
        ...

    @property
    def passed_over(self) -> str:
        """What the last reading left out, in words; empty if nothing."""
        ...

    def read(self, digest: Digest) -> Iterator[Entry]:
        """All of them, added to `digest`. Raises `OSError`."""
        ...
