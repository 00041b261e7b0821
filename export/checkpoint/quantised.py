"""Checkpoints that are quantised already: which are read, and which tensors make up each of their matrices.

Enters: `config.json`'s `quantization_config`, and the headers' tensors. Leaves: matrices by the name that each would
have in a float checkpoint (`….weight`), the tensors with those in place of their parts, or a `CheckpointError`.

    float8    weight F8_E4M3, weight_scale or weight_scale_inv    fp8, fbgemm_fp8, compressed-tensors (float-quantized)
    int8      weight I8, weight_scale                             compressed-tensors (int-quantized)
    int4      weight_packed, weight_scale, weight_shape           compressed-tensors (pack-quantized)
              qweight, qzeros, scales                             awq (gemm), gptq
    others    weight U8, weight.absmax, weight.quant_map, …       bitsandbytes (nf4, fp4)
              weight I8, SCB                                      bitsandbytes (int8)

Only weights are read so: activations, which some of these methods quantise too, stay float here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pumice.errors import CheckpointError
from pumice.export.checkpoint.bitsandbytes_matrix import table_matrix
from pumice.export.checkpoint.integer_layouts import awq, by_rows, gptq
from pumice.export.checkpoint.integer_matrix import Recent
from pumice.export.checkpoint.scaled_matrix import A_127TH, KINDS, scaled_matrix
from pumice.export.checkpoint.tensor_file import TensorInfo

READ = (
    "read are fp8, fbgemm_fp8, awq (4 bits, gemm), gptq (4 bits), bitsandbytes, "
    "and compressed-tensors' float-, int-, naive- and pack-quantized"
)
_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
"""Of compressed-tensors."""
_SCALES = ("weight_scale_inv", "weight_scale")
_OF_ACTIVATIONS = (
    "input_scale",
    "activation_scale",
    "input_scale_ub",
    "input_zero_point",
    "k_scale",
    "v_scale",
)

_EXPECTED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "awq": {"bits": (4,), "version": ("gemm", "GEMM", None), "zero_point": (True, None)},
    "bitsandbytes": {},
    "gptq": {"bits": (4,), "checkpoint_format": ("gptq", "gptq_v2", None), "dynamic": (None, {})},
}
"""What `quantization_config` may say, by method; None are keys that are missing."""


class StoredMatrix(Protocol):
    """A matrix that is stored quantised."""

    @property
    def kind(self) -> str:
        """Of a stored number: `float8_e4m3fn`, `int8`, `int4`, `nf4`."""

    @property
    def info(self) -> TensorInfo:
        """Where most of it is, with the whole's shape."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` up to `stop` as float32."""


def quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a config says of the whole's quantisation, under either name."""
    said = config.get("quantization_config") or config.get("compression_config")
    return said if isinstance(said, dict) else None


def refuse_other_methods(where: Path, config: Mapping[str, Any], instead: str, *, whole: bool) -> None:
    """Methods whose weights are not read, and any that only a part of the model names; raises CheckpointError.

    `instead` says what to do.
    """
    said = quantization_config(config)
    method = said.get("quant_method") if said is not None else None
    told = f"{where} says that the weights are quantised ({method or 'unknown method'})"
    if not whole or said is None or method not in ("fp8", "fbgemm_fp8", "compressed-tensors", *_EXPECTED):
        raise CheckpointError(f"{told}: {READ}; {instead}")
    for key, expected in _EXPECTED.get(method, {}).items():
        if said.get(key) not in expected:
            raise CheckpointError(f"{told} with {key} {said.get(key)!r}: {READ}; {instead}")
    if method == "fp8" and said.get("scale_fmt", "float") != "float":
        raise CheckpointError(f"{told} with scales in {said['scale_fmt']!r}: {READ}; {instead}")
    if method == "compressed-tensors":
        for found in _formats(said):
            if found not in _FORMATS:
                raise CheckpointError(f"{told} in the format {found!r}: {READ}; {instead}")
        for key in ("sparsity_config", "transform_config"):
            part = said.get(key)
            if part and not (isinstance(part, dict) and part.get("format") == "dense"):
                raise CheckpointError(f"{told} with a {key}, which is not undone: {instead}")


def _formats(said: Mapping[str, Any]) -> list[Any]:
    """The whole's format, and those that groups of layers have of their own."""
    groups = said.get("config_groups")
    own = (
        [g.get("format") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    )
    found = [part for part in own if part is not None]
    return found if found and said.get("format") == "mixed-precision" else [said.get("format"), *found]


def stored_matrices(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]
) -> tuple[dict[str, TensorInfo], dict[str, StoredMatrix]]:
    """The tensors of a whole that a config says is quantised, with matrices in place of their parts; and those.

    Raises:
        CheckpointError: parts that do not fit each other.
    """
    said = quantization_config(config) or {}
    matrices: dict[str, StoredMatrix] = {}
    used: set[str] = set()
    recent, block = Recent(), _block_size(said)
    for name, info in tensors.items():
        made: tuple[StoredMatrix, tuple[str, ...]]
        module, _, part = name.rpartition(".")
        if part == "weight" and f"{name}.absmax" in tensors:
            made = table_matrix(name, tensors)
        elif part == "weight" and info.dtype in KINDS:
            made = _scaled(name, tensors, block)
        elif part == "weight_packed":
            made = by_rows(name, tensors)
        elif part == "qweight" and said.get("quant_method") == "awq":
            made = awq(name, tensors, recent)
        elif part == "qweight":
            made = gptq(name, tensors, said, recent)
        else:
            used |= {name} if part in _OF_ACTIVATIONS else set()
            continue
        matrices[f"{module}.weight"] = made[0]
        used |= {f"{module}.{part}" for part in made[1]}
    whole = {name: info for name, info in tensors.items() if name not in used}
    return whole | {name: matrix.info for name, matrix in matrices.items()}, matrices


def _scaled(
    name: str, tensors: Mapping[str, TensorInfo], block: tuple[int, int] | None
) -> tuple[StoredMatrix, tuple[str, ...]]:
    """A matrix in 8 bits, and what its scales and what lies beside them are called."""
    info = tensors[name]
    if info.dtype == "I8" and _beside(name, "SCB") in tensors:
        whole = scaled_matrix(name, info, tensors[_beside(name, "SCB")], None)
        return replace(whole, factor=A_127TH), ("SCB", "weight_format")
    scales = next((part for part in _SCALES if _beside(name, part) in tensors), None)
    if scales is None:
        raise CheckpointError(
            f"{info.file}: tensor {name!r} is {info.dtype} and has no {_SCALES[1]} beside it"
        )
    if _beside(name, "weight_zero_point") in tensors:
        raise CheckpointError(
            f"{info.file}: tensor {name!r} has zero points: expected symmetric {info.dtype}"
        )
    return scaled_matrix(name, info, tensors[_beside(name, scales)], block), (scales,)


def _beside(name: str, part: str) -> str:
    """The tensor `part` of the module that a weight belongs to."""
    return f"{name.rpartition('.')[0]}.{part}"


def _block_size(said: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale, where the config says so."""
    found = said.get("weight_block_size")
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found = (weights.get("block_structure") if isinstance(weights, dict) else None) or found
    if not isinstance(found, list) or len(found) != 2 or not all(type(n) is int and n > 0 for n in found):
        return None
    return found[0], found[1]
