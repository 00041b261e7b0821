"""A safetensors file: what it holds, and its tensors' rows, read straight into memory of their own.

Enters: a path. Leaves: `TensorInfo`s, and tensors. safetensors checks the header when the file is opened for the first
time; rows are read without mapping the file, whose pages would count as this process's memory, and without a copy.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from pumice.errors import CheckpointError

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""safetensors' names of the dtypes that weights may have."""
_STORED = DTYPES | {
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""And those that parts of quantised weights have."""
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where a tensor is and what it looks like; `dtype` is safetensors' name (`F16`, `BF16`, …).

    Its bytes begin at `offset` of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


def read_header(file: Path) -> dict[str, TensorInfo]:
    """All tensors of a file.

    Raises:
        CheckpointError: missing, or not safetensors.
    """
    if not file.exists():
        raise CheckpointError(f"{file} is missing: the checkpoint is incomplete, download it again")
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file: expected safetensors weights")
    try:
        with safe_open(file, framework="pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, str(error)) from None
    return {
        name: TensorInfo(
            file=file, dtype=dtype, shape=shape, offset=8 + length + header[name]["data_offsets"][0]
        )
        for name, (dtype, shape) in found.items()
    }


def read_rows(info: TensorInfo, start: int, stop: int) -> torch.Tensor:
    """Rows `start` up to `stop` along the first axis, in its own dtype.

    Raises:
        CheckpointError: the file was removed or cut since it was opened.
    """
    return _read(info, (stop - start, *info.shape[1:]), start * math.prod(info.shape[1:]))


def read_whole(info: TensorInfo) -> torch.Tensor:
    """The tensor; raises as `read_rows`."""
    return _read(info, info.shape, 0)


def _read(info: TensorInfo, shape: tuple[int, ...], skipped: int) -> torch.Tensor:
    """The values after the first `skipped` ones."""
    dtype = _STORED[info.dtype]
    tensor = torch.empty(shape, dtype=dtype)
    if not tensor.numel():
        return tensor
    room = tensor.flatten().view(torch.uint8).numpy().data
    try:
        with info.file.open("rb", buffering=0) as file:
            file.seek(info.offset + skipped * dtype.itemsize)
            while room:
                count = file.readinto(room)
                if not count:
                    raise _unreadable(info.file, "it ends too early")
                room = room[count:]
    except OSError as error:
        raise _unreadable(info.file, str(error)) from None
    return tensor


def _unreadable(file: Path, reason: str) -> CheckpointError:
    lines = reason.splitlines() or [""]
    told = lines[0].removeprefix("Error while deserializing header: ")
    return CheckpointError(f"{file} is not readable as safetensors ({told}): download or convert it again")


def check_values(tensor: torch.Tensor, name: str, info: TensorInfo) -> None:
    """NaN, infinity, or more than float32 holds would only show in what the bundle answers: raises CheckpointError."""
    if tensor.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(tensor))  # one pass; NaN comes through
    if not -_LARGEST <= low <= high <= _LARGEST:
        raise CheckpointError(
            f"{info.file}: tensor {name!r} has values from {low} to {high}, expected finite float32 numbers: "
            "download or convert it again"
        )
