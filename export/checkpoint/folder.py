"""A checkpoint folder, read lazily: names, dtypes and shapes at once, values one tensor at a time.

Enters: a folder in Hugging Face layout (`config.json`; `model.safetensors`, or shards with their index), or a
hub id. Leaves: a `Checkpoint`. Only JSON and safetensors are opened: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pumice.errors import CheckpointError
from pumice.export.checkpoint.headers import INDEX_NAME, WEIGHTS_NAME, read_headers, weight_files, wrong_dtype
from pumice.export.checkpoint.hub import fetch, is_hub_id
from pumice.export.checkpoint.integer_matrix import ByColumns, ByRows, IntegerMatrix
from pumice.export.checkpoint.json_file import MOST_BYTES, read_json
from pumice.export.checkpoint.original import refuse_original
from pumice.export.checkpoint.quantised import StoredMatrix, quantization_config
from pumice.export.checkpoint.support import (
    refuse_other_architectures,
    refuse_other_kinds,
    refuse_other_quantisers,
)
from pumice.export.checkpoint.tensor_file import DTYPES, TensorInfo, check_values, read_rows, read_whole
from pumice.export.progress import Progress, Silent
from pumice.manifest.regular_file import read_regular
from pumice.models.tensor_names import canonical_name

_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose weights stay on disk until they are asked for.

    `name` is the hub id or the folder's name; `config` is `config.json` as it stands; `tensors` has every
    tensor of every shard under the checkpoint's own names. `quantised` are those of them that are stored so: they are
    read as float32. `changes` has what adapters make of some tensors' rows start … stop, by the same names
    (`pumice.export.adapters`).
    """

    path: Path
    name: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    quantised: Mapping[str, StoredMatrix] = field(default_factory=dict)
    changes: Mapping[str, Callable[[torch.Tensor, int, int], torch.Tensor]] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """The dtype that most weights have, by torch's name: `float16`."""
        sizes: Counter[str] = Counter()
        for name, info in self.tensors.items():
            if name in self.quantised:
                sizes[self.quantised[name].kind] += math.prod(info.shape)
            elif info.dtype in DTYPES:
                sizes[str(DTYPES[info.dtype]).removeprefix("torch.")] += math.prod(info.shape)
        return sizes.most_common(1)[0][0]

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Each tensor's own name by its canonical one; where two have the same, the later.

        `shapes` tells such a checkpoint from others.
        """
        return MappingProxyType({canonical_name(name): name for name in self.tensors})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its canonical name.

        Raises:
            CheckpointError: two tensors have the same one.
        """
        if len(self.names) < len(self.tensors):
            own = set(self.names.values())
            twice = canonical_name(next(name for name in self.tensors if name not in own))
            raise CheckpointError(f"the checkpoint has the tensor {twice} twice, under different prefixes")
        return {canonical: self.tensors[name].shape for canonical, name in self.names.items()}

    @cached_property
    def integers(self) -> Mapping[str, IntegerMatrix]:
        """The matrices whose integers can be had as they are, by canonical name; no adapter changes them."""
        return {
            canonical_name(name): matrix
            for name, matrix in self.quantised.items()
            if isinstance(matrix, ByRows | ByColumns) and name not in self.changes
        }

    @property
    def config_sha256(self) -> str:
        """SHA-256 of the bytes of `config.json`, in lower-case hexadecimal."""
        return hashlib.sha256(read_regular(self.path / "config.json", MOST_BYTES)).hexdigest()

    def nbytes(self, name: str) -> int:
        """Bytes that the tensor takes as it is read."""
        info = self._info(name)
        as_float32 = name in self.quantised or name in self.changes
        return math.prod(info.shape) * DTYPES["F32" if as_float32 else info.dtype].itemsize

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its own dtype and shape, in memory of its own (the file is closed again).

        One that is quantised, or changed by an adapter, is float32.

        Raises:
            CheckpointError: no such tensor, values that float32 does not hold, or a file removed or damaged meanwhile.
        """
        info = self._info(name)
        if name in self.quantised:
            return self.read_rows(name, 0, info.shape[0])
        tensor = read_whole(info)
        check_values(tensor, name, info)
        return self.changes[name](tensor, 0, info.shape[0]) if name in self.changes else tensor

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` up to `stop` (along the first axis) of a large tensor; otherwise as `read`."""
        info = self._info(name)
        assert 0 <= start <= stop <= info.shape[0], (name, start, stop, info.shape)
        stored = self.quantised.get(name)
        rows = read_rows(info, start, stop) if stored is None else stored.rows(start, stop)
        check_values(rows, name, info)
        return self.changes[name](rows, start, stop) if name in self.changes else rows

    def read_canonical(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows as `read_rows` gives them, of the tensor with this canonical name: a `pumice.models.weights.Read`."""
        return self.read_rows(self.names[name], start, stop)

    def _info(self, name: str) -> TensorInfo:
        try:
            info = self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None
        if info.dtype not in DTYPES and name not in self.quantised:
            raise wrong_dtype(name, info)
        return info


def open_checkpoint(name_or_path: str | Path, *, progress: Progress | None = None) -> Checkpoint:
    """Open a checkpoint folder, or fetch a hub id (`org/name`) that is no folder here and open that.

    Raises:
        CheckpointError: missing, damaged, not safetensors, quantised, with code of its own, an adapter, or of
            an architecture that is not supported; the message is one line that says what to do.
    """
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError as error:  # no such user
        raise CheckpointError(f"no checkpoint at {name_or_path}: {error}") from None
    text = str(name_or_path)
    if not path.exists() and is_hub_id(text):
        path = fetch(text, _check_fetched, progress or Silent())
        name = text
    else:
        resolved = path.resolve()
        name = f"{resolved.parent.name}/{resolved.name}"
    _check_folder(path)
    _check_small_files(path)
    config = _read_config(path)
    tensors, quantised = read_headers(path, config)
    return Checkpoint(
        path=path, name=name, config=config, tensors=MappingProxyType(tensors), quantised=quantised
    )


def _check_fetched(path: Path) -> None:
    """What a hub's small files tell before weights are fetched."""
    names = [entry.name for entry in path.iterdir()]
    if "config.json" not in names:
        refuse_other_kinds(path, names, whole=False)
    _read_config(path)


def _check_small_files(path: Path) -> None:
    """transformers reads them by their names: no pipe to wait for, no device that never ends."""
    for file in sorted(found for pattern in _BESIDE for found in path.glob(pattern)):
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise CheckpointError(f"{file} is a pipe or a device: expected a regular file")
        if file.is_file() and file.stat().st_size > MOST_BYTES:
            raise CheckpointError(
                f"{file} has {file.stat().st_size:,} bytes: expected {MOST_BYTES:,} at most"
            )


def _check_folder(path: Path) -> None:
    """A folder with `config.json`; what else it may be is said by its kind."""
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint at {path}: expected a folder with config.json and {WEIGHTS_NAME}, "
            "or a hub id (org/name)"
        )
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is a file: expected the folder that holds config.json and {WEIGHTS_NAME}"
        )
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        raise CheckpointError(f"{path} is empty: expected config.json and {WEIGHTS_NAME}")
    refuse_other_kinds(path, names, whole=WEIGHTS_NAME in names or INDEX_NAME in names)
    if not weight_files(names):
        _refuse_pickled_original(path, names)
        _refuse_other_weights(path, names)
    if "config.json" not in names:
        raise CheckpointError(f"{path} has no config.json: expected a checkpoint in Hugging Face layout")


def _refuse_pickled_original(path: Path, names: list[str]) -> None:
    """Its pickles are not all that is to be said; a config that cannot be read is told by others."""
    try:
        config = read_json(path / "config.json")
    except CheckpointError:
        return
    refuse_original(path, config, names)


def _refuse_other_weights(path: Path, names: list[str]) -> None:
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise CheckpointError(
            f"{path} has only pickled weights ({pickles[0]}), which can run code and are never opened: "
            "convert it to safetensors first"
        )
    if "manifest.json" in names and ("onnx" in names or any(name.endswith(".onnx") for name in names)):
        raise CheckpointError(
            f"{path} is a bundle, exported already: expected the checkpoint that it was made of"
        )
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs:
        raise CheckpointError(
            f"{path} holds GGUF weights ({ggufs[0]}): use the original safetensors checkpoint"
        )


def _read_config(path: Path) -> dict[str, Any]:
    """`config.json` of a whole that is supported, in float weights, without code of its own."""
    config = read_json(path / "config.json")
    names = [entry.name for entry in path.iterdir()]
    refuse_original(path, config, names)
    if quantization_config(config) is None:
        refuse_other_quantisers(path, names)
    refuse_other_architectures(path / "config.json", config)
    return config
