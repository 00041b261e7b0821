"""Tensors drawn and written as safetensors, a slice at a time: memory does not grow with them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tests.factory.parts import Dtype
from tests.factory.tensors import Drawn

SLICE_ELEMENTS = 1 << 22
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}

Placed = tuple[int, Drawn]
"""A tensor's place in the model, which seeds it, and the tensor."""


def write_weights(
    folder: Path, tensors: Iterable[Drawn], seed: int, dtype: Dtype, shard_bytes: int | None
) -> None:
    """One file, or shards of about `shard_bytes` with their index."""
    placed = list(enumerate(tensors))
    if shard_bytes is None:
        _write_safetensors(folder / "model.safetensors", placed, seed, dtype)
        return
    itemsize = getattr(torch, dtype).itemsize
    shards = _shards(placed, itemsize, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(folder / name, shard, seed, dtype)
        weight_map |= {tensor.name: name for _, tensor in shard}
    total = sum(tensor.count for _, tensor in placed) * itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _shards(placed: list[Placed], itemsize: int, shard_bytes: int) -> list[list[Placed]]:
    shards: list[list[Placed]] = [[]]
    filled = 0
    for place, tensor in placed:
        size = tensor.count * itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((place, tensor))
        filled += size
    return shards


def _write_safetensors(path: Path, tensors: list[Placed], seed: int, dtype: Dtype) -> None:
    """Header first (its offsets follow from the shapes), then the tensors one by one."""
    itemsize = getattr(torch, dtype).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for _, tensor in tensors:
        start, end = end, end + tensor.count * itemsize
        header[tensor.name] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for place, tensor in tensors:
            _write_values(file, tensor, zlib.crc32(f"{seed}/{place}".encode()), getattr(torch, dtype))


def _write_values(file: BinaryIO, tensor: Drawn, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, tensor.count, SLICE_ELEMENTS):
        values = torch.empty(min(SLICE_ELEMENTS, tensor.count - start), dtype=torch.float32)
        values.normal_(tensor.mean, tensor.std, generator=generator)
        file.write(values.to(dtype).view(torch.uint8).numpy().tobytes())
