"""An adapter's folder, opened: its settings, and where its tensors are.

Enters: a folder with `adapter_config.json` and `adapter_model.safetensors`, or a hub id. Leaves: an `OpenedAdapter`.
Only JSON and safetensors are opened.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pumice.errors import CheckpointError, UsageError
from pumice.export.adapters.change import Stored
from pumice.export.adapters.settings import LoraSettings, read_settings
from pumice.export.checkpoint.hub import fetch, is_hub_id
from pumice.export.checkpoint.json_file import read_json
from pumice.export.checkpoint.tensor_file import DTYPES, read_header
from pumice.export.progress import Progress
from pumice.manifest import AppliedAdapter
from pumice.manifest.regular_file import named, read_regular

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MOST_CONFIG_BYTES = 1 << 22
"""Of the settings; patterns for every matrix of a large model are a tenth."""
_PICKLE = "adapter_model.bin"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter to merge: a folder or a hub id, and what its part of the weights is times."""

    path: str | Path
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OpenedAdapter:
    """An adapter whose tensors stay on disk; `name` is the hub id, or the folder's name with its parent's."""

    path: Path
    name: str
    scale: float
    settings: LoraSettings
    tensors: Mapping[str, Stored]

    def applied(self) -> AppliedAdapter:
        """As the manifest tells of it."""
        return AppliedAdapter(
            adapter=self.name,
            scale=self.scale,
            config_sha256=hashlib.sha256(
                read_regular(self.path / CONFIG_NAME, MOST_CONFIG_BYTES)
            ).hexdigest(),
            weights_sha256=_sha256(self.path / WEIGHTS_NAME),
        )


def open_adapters(adapters: Sequence[str | Path | Adapter], progress: Progress) -> tuple[OpenedAdapter, ...]:
    """All of them, in their order.

    Raises:
        CheckpointError: missing, damaged, not safetensors, or of a kind that cannot be merged.
        UsageError: a scale that is no finite number.
    """
    if isinstance(adapters, str | Path):
        raise UsageError(
            f"adapters is the path {str(adapters)!r}, expected a list of paths: [{str(adapters)!r}]"
        )
    return tuple(_open(a if isinstance(a, Adapter) else Adapter(path=a), progress) for a in adapters)


def _open(adapter: Adapter, progress: Progress) -> OpenedAdapter:
    if not math.isfinite(adapter.scale):
        raise UsageError(
            f"the adapter {adapter.path} has the scale {adapter.scale}, expected a finite number"
        )
    path, text = named(adapter.path), str(adapter.path)
    if not path.exists() and is_hub_id(text):
        path, name = fetch(text, _settings, progress), text
    else:
        resolved = path.resolve()
        name = f"{resolved.parent.name}/{resolved.name}"
    _check_files(path)
    return OpenedAdapter(
        path=path, name=name, scale=adapter.scale, settings=_settings(path), tensors=_tensors(path)
    )


def _settings(path: Path) -> LoraSettings:
    where = path / CONFIG_NAME
    if not where.exists():
        raise CheckpointError(f"{path} has no {CONFIG_NAME}: expected a folder that PEFT saved an adapter in")
    return read_settings(where, read_json(where, MOST_CONFIG_BYTES))


def _check_files(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(
            f"no adapter at {path}: expected a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or a hub id (org/name)"
        )
    if not (path / WEIGHTS_NAME).exists() and (path / _PICKLE).exists():
        raise CheckpointError(
            f"{path} has only pickled weights ({_PICKLE}), which can run code and are never opened: save the adapter "
            "again as safetensors"
        )


def _tensors(path: Path) -> dict[str, Stored]:
    where = path / WEIGHTS_NAME
    if not where.exists():
        raise CheckpointError(
            f"{path} has no {WEIGHTS_NAME}: expected a folder that PEFT saved an adapter in"
        )
    found = {name: Stored(name=name, info=info) for name, info in read_header(where).items()}
    for name, stored in found.items():
        if stored.info.dtype not in DTYPES:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {stored.info.dtype}, expected float weights: save the adapter unquantised"
            )
    if not found:
        raise CheckpointError(f"{where} has no tensors: save the adapter again")
    return found


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
