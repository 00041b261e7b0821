"""One way to spoil a checkpoint, and the files that it is done to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Apply = Callable[[Path, Random], None]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`apply` changes a copy of the family's checkpoint, made with `options`; its random numbers come from the name."""

    name: str
    family: str
    apply: Apply
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, folder: Path) -> None:
        self.apply(folder, Random(self.name))


def read(file: Path) -> Any:
    """The JSON in a file."""
    return json.loads(file.read_text())


def write(file: Path, content: Any) -> None:
    """Write JSON, with NaN and Infinity as Python does."""
    file.write_text(json.dumps(content))


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and its data."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def with_header(file: Path, header: dict[str, Any], data: bytes) -> None:
    """Write a safetensors file, whatever its header says."""
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
