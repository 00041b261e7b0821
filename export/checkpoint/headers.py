"""Where a checkpoint's tensors lie: what the headers of its weight files say, of all shards together.

Enters: a folder, and its parsed `config.json`. Leaves: every tensor's place, dtype and shape under the checkpoint's own
names, and which of them are quantised matrices. No value is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pumice.errors import CheckpointError
from pumice.export.checkpoint.json_file import read_json
from pumice.export.checkpoint.quantised import StoredMatrix, quantization_config, stored_matrices
from pumice.export.checkpoint.support import FLOAT_INSTEAD, refuse_other_tensors
from pumice.export.checkpoint.tensor_file import DTYPES, TensorInfo, read_header

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_BUFFERS = ("position_ids",)
"""Last parts of names of integer tensors that old checkpoints carry along and nobody reads."""


def weight_files(names: Iterable[str]) -> list[str]:
    """Those names that are of safetensors, or of their index."""
    return [name for name in names if name.endswith(".safetensors") or name == INDEX_NAME]


def read_headers(
    path: Path, config: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, StoredMatrix]]:
    """Every tensor's place, dtype and shape, from the headers of the weight files; and what is quantised.

    Raises:
        CheckpointError: files or tensors that are missing, damaged, or of a kind that is not read.
    """
    if (path / WEIGHTS_NAME).exists():
        tensors = read_header(path / WEIGHTS_NAME)
    elif (path / INDEX_NAME).exists():
        tensors = _read_shards(path)
    else:
        found = weight_files(sorted(entry.name for entry in path.iterdir()))
        told = f"only {', '.join(found[:3])}" if found else "no weights"
        raise CheckpointError(f"{path} has {told}: expected {WEIGHTS_NAME}, or shards with {INDEX_NAME}")
    matrices: dict[str, StoredMatrix] = {}
    if quantization_config(config) is not None:
        tensors, matrices = stored_matrices(tensors, config)
    refuse_other_tensors(path, tensors)
    for name, info in tensors.items():
        if info.dtype not in DTYPES and name not in matrices and name.rpartition(".")[2] not in _BUFFERS:
            raise wrong_dtype(name, info)
    if not any(info.dtype in DTYPES for info in tensors.values()):
        raise CheckpointError(f"{path} has weight files without weights: download or convert it again")
    return tensors, matrices


def wrong_dtype(name: str, info: TensorInfo) -> CheckpointError:
    """What is raised of a tensor that is neither float nor quantised."""
    choices = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
    return CheckpointError(
        f"{info.file}: tensor {name!r} is {info.dtype}, weights must be {choices}: {FLOAT_INSTEAD}"
    )


def _read_shards(path: Path) -> dict[str, TensorInfo]:
    """All shards that the index names; where two hold a tensor, the index says which counts."""
    where = path / INDEX_NAME
    weight_map = read_json(where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where} has no weight_map: expected an object from tensor names to shards")
    for shard in weight_map.values():
        plain = isinstance(shard, str) and PurePosixPath(shard).name == shard and "\\" not in shard
        if not plain or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{where} names the shard {shard!r}: expected a .safetensors file in the same folder"
            )
    shards = {shard: read_header(path / shard) for shard in sorted(set(weight_map.values()))}
    tensors = {name: info for shard in shards.values() for name, info in shard.items()}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError(
                f"{where} says that {shard} holds {name!r}, but it does not: download it again"
            )
        tensors[name] = shards[shard][name]
    return tensors
