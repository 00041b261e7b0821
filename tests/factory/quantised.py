"""Checkpoints quantised by the formats' definitions, and the float ones that they stand for.

A `Packing` makes of one matrix what its format stores and what that stands for in float32; `quantise` does so with
every matrix of a checkpoint's text layers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LARGEST = torch.finfo(torch.float8_e4m3fn).max
LAYER_MATRIX = re.compile(r"\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$")

Packed = tuple[dict[str, Tensor], Tensor]
"""Tensors by the last part of their names, and float32 values [out, in]."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """One format: its config, what it makes of a matrix, and files that it puts beside."""

    config: Mapping[str, Any]
    pack: Callable[[Tensor], Packed]
    files: Mapping[str, Any] = field(default_factory=dict)


def quantise(
    source: Path, folder: Path, packing: Packing, *, matrices: re.Pattern[str] = LAYER_MATRIX
) -> tuple[Path, Path]:
    """Two copies of the checkpoint `source` beneath `folder`: quantised, and float32 of the same values."""
    quantised, plain = (Path(shutil.copytree(source, folder / name)) for name in ("quantised", "plain"))
    tensors = load_file(source / "model.safetensors")
    stored, values = {}, {}
    for name, tensor in tensors.items():
        if "vision_tower" not in name and matrices.search(name):
            parts, values[name] = packing.pack(tensor.float())
            stored |= {f"{name.removesuffix('weight')}{part}": kept for part, kept in parts.items()}
        else:
            stored[name] = values[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, quantised / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in values.items()}, plain / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | {"quantization_config": packing.config}
    for name, content in {"config.json": config, **packing.files}.items():
        (quantised / name).write_text(json.dumps(content))
    return quantised, plain


def scaled(
    config: Mapping[str, Any],
    block: tuple[int, int],
    *,
    part: str = "weight_scale",
    shape: Callable[[Tensor], Tensor] = lambda grid: grid,
    dtype: torch.dtype = torch.float32,
    numbers: torch.dtype = torch.float8_e4m3fn,
    others: Mapping[str, Tensor] = {},
) -> Packing:
    """8-bit numbers with a scale for each block of rows × columns; 0 are all of them."""
    most = 127.0 if numbers == torch.int8 else LARGEST

    def pack(matrix: Tensor) -> Packed:
        rows, columns = matrix.shape
        high, wide = block[0] or rows, block[1] or columns
        q, value = torch.empty(matrix.shape, dtype=numbers), torch.empty(matrix.shape)
        grid = torch.empty(-(-rows // high), -(-columns // wide), dtype=dtype)
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                at = slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide)
                grid[i, j] = matrix[at].abs().max() / most
                ratio = (matrix[at] / grid[i, j].float()).clamp(-most, most)
                q[at] = (ratio.round() if numbers == torch.int8 else ratio).to(numbers)
                value[at] = q[at].float() * grid[i, j].float()
        return {"weight": q, part: shape(grid), **{n: t.clone() for n, t in others.items()}}, value

    return Packing(config=config, pack=pack)


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    """The config that llm-compressor writes."""
    own = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "group_size": None}
    group = {
        "targets": ["Linear"],
        "weights": own | weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
    }


ONE = torch.tensor(0.5)
EIGHT_BITS = {
    "fp8 per tensor": scaled(
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
        (0, 0),
        part="weight_scale_inv",
        shape=lambda grid: grid.view(()),
        dtype=torch.bfloat16,
        others={"activation_scale": ONE},
    ),
    "fp8 blocks": scaled(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 32]},
        (16, 32),
        part="weight_scale_inv",
    ),
    "fp8 blocks cut off": scaled(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [24, 24]},
        (24, 24),
        part="weight_scale_inv",
    ),
    "fbgemm": scaled(
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
        (1, 0),
        others={"input_scale_ub": ONE},
    ),
    "float-quantized channel": scaled(compressed("float-quantized"), (1, 0), dtype=torch.bfloat16),
    "float-quantized vector": scaled(compressed("float-quantized"), (1, 0), shape=lambda grid: grid.view(-1)),
    "float-quantized tensor": scaled(
        compressed("float-quantized", strategy="tensor"),
        (0, 0),
        shape=lambda grid: grid.view(1),
        others={"input_scale": ONE},
    ),
    "float-quantized blocks": scaled(
        compressed("float-quantized", strategy="block", block_structure=[16, 32]), (16, 32)
    ),
    "float-quantized groups": scaled(
        compressed("float-quantized", strategy="group", group_size=32), (1, 32), dtype=torch.float16
    ),
    "int-quantized channel": scaled(
        compressed("int-quantized", type="int"), (1, 0), numbers=torch.int8, dtype=torch.bfloat16
    ),
}
"""By what a test is called."""


def four_bits(
    config: Mapping[str, Any],
    group: int,
    store: Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]],
    *,
    symmetric: bool,
    dtype: torch.dtype = torch.float16,
    least: int = 0,
    files: Mapping[str, Any] = {},
) -> Packing:
    """Integers [out, in], scales and zero points [out, groups] of at least `least`, as `store` has them.

    A group of 0 is a whole row.
    """

    def pack(matrix: Tensor) -> Packed:
        rows, columns = matrix.shape
        groups = matrix.view(rows, -1, group or columns)
        if symmetric:
            scales = (groups.abs().amax(2) / 7.5).to(dtype)
            points = torch.full(scales.shape, 8.0)
        else:
            low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
            scales = ((high - low) / 15).to(dtype)
            points = (-low / scales.float()).round().clamp(least, 15)
        q = (groups / scales.float()[:, :, None] + points[:, :, None]).round().clamp(0, 15)
        value = (q - points[:, :, None]) * scales.float()[:, :, None]
        parts = store(q.view(rows, columns).int(), scales, None if symmetric else points.int())
        return parts, value.view(rows, columns)

    return Packing(config=config, pack=pack, files=files)


def words(values: Tensor, axis: int, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Eight 4-bit values along an axis in an int32, the first of `order` in the lowest bits; padded with 0."""
    values = values.movedim(axis, 0).long()
    values = torch.cat([values, values.new_zeros(-len(values) % 8, *values.shape[1:])])
    made = torch.zeros(len(values) // 8, *values.shape[1:], dtype=torch.int64)
    for place, column in enumerate(order):
        made += values[column::8] << (4 * place)
    made = torch.where(made >= 1 << 31, made - (1 << 32), made)
    return made.to(torch.int32).movedim(0, axis).contiguous()


def _by_rows(q: Tensor, scales: Tensor, points: Tensor | None) -> dict[str, Tensor]:
    parts = {"weight_packed": words(q, 1), "weight_scale": scales, "weight_shape": torch.tensor(q.shape)}
    return parts if points is None else parts | {"weight_zero_point": words(points, 0)}


def _awq(q: Tensor, scales: Tensor, points: Tensor | None) -> dict[str, Tensor]:
    assert points is not None
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {"qweight": words(q.T, 1, order), "qzeros": words(points.T, 1, order), "scales": scales.T}


def _gptq(offset: int) -> Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]:
    def store(q: Tensor, scales: Tensor, points: Tensor | None) -> dict[str, Tensor]:
        zeros = torch.full(scales.shape, 8) if points is None else points
        columns = q.shape[1]
        return {
            "qweight": words(q.T, 0),
            "qzeros": words(zeros.T - offset, 1),
            "scales": scales.T,
            "g_idx": (torch.arange(columns) // (columns // scales.shape[1])).int(),
        }

    return store


_PACKED = {"num_bits": 4, "type": "int"}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
FOUR_BITS = {
    "pack-quantized symmetric": four_bits(
        compressed("pack-quantized", **_PACKED, strategy="group", group_size=32),
        32,
        _by_rows,
        symmetric=True,
        dtype=torch.bfloat16,
    ),
    "pack-quantized asymmetric": four_bits(
        compressed("pack-quantized", **_PACKED, strategy="group", group_size=16, symmetric=False),
        16,
        _by_rows,
        symmetric=False,
    ),
    "pack-quantized rows": four_bits(
        compressed("pack-quantized", **_PACKED, strategy="channel"), 0, _by_rows, symmetric=True
    ),
    "awq": four_bits(_AWQ, 32, _awq, symmetric=False, files={"quant_config.json": {"w_bit": 4}}),
    "gptq symmetric": four_bits(
        _GPTQ | {"sym": True}, 32, _gptq(1), symmetric=True, files={"quantize_config.json": {"bits": 4}}
    ),
    "gptq asymmetric": four_bits(_GPTQ | {"sym": False}, 32, _gptq(1), symmetric=False, least=1),
    "gptq v2 rows": four_bits(
        _GPTQ | {"sym": False, "checkpoint_format": "gptq_v2", "group_size": -1}, 0, _gptq(0), symmetric=False
    ),
}
"""By what a test is called."""


def _in_another_order(packing: Packing, group: int) -> Packing:
    """As `desc_act` has it: columns are grouped in an order of their own, and stored in the matrix's."""

    def pack(matrix: Tensor) -> Packed:
        columns = matrix.shape[1]
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(columns))
        back = order.argsort()
        parts, value = packing.pack(matrix[:, order])
        words_in = parts["qweight"]
        q = torch.stack([words_in >> 4 * place & 15 for place in range(8)], dim=1).flatten(0, 1)
        parts |= {"qweight": words(q[back], 0), "g_idx": (back // group).int()}
        return parts, value[:, back]

    return Packing(config=packing.config, pack=pack, files=packing.files)


ORDERED = {
    "gptq in another order": _in_another_order(
        four_bits(_GPTQ | {"sym": False, "desc_act": True}, 16, _gptq(1), symmetric=False, least=1), 16
    ),
    "gptq symmetric in another order": _in_another_order(
        four_bits(_GPTQ | {"sym": True, "desc_act": True}, 32, _gptq(1), symmetric=True), 32
    ),
}
"""By what a test is called: integers whose blocks cannot be had."""


NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
OFFSET = 0.05


def table(block: int, *, nested: int = 0, kind: str = "nf4") -> Packing:
    """bitsandbytes' 4 bits; with `nested`, magnitudes in 8 bits, in blocks of so many."""
    numbers, inner = torch.tensor(NF4), torch.linspace(-1, 1, 256)

    def pack(matrix: Tensor) -> Packed:
        count = matrix.numel()
        flat = torch.cat([matrix.flatten(), torch.zeros(-count % block)]).view(-1, block)
        magnitudes = stored = flat.abs().amax(1)
        parts: dict[str, Tensor] = {}
        state = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": list(matrix.shape)}
        if nested:
            rest = magnitudes - OFFSET
            scales = torch.stack([part.abs().max() for part in rest.split(nested)])
            each = scales[torch.arange(len(rest)) // nested]
            stored = (rest / each)[:, None].sub(inner).abs().argmin(1).to(torch.uint8)
            magnitudes = inner[stored.long()] * each + OFFSET
            parts = {"nested_absmax": scales, "nested_quant_map": inner.clone()}
            state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": OFFSET}
        places = (flat / magnitudes[:, None])[:, :, None].sub(numbers).abs().argmin(2)
        value = (numbers[places] * magnitudes[:, None]).flatten()[:count].view(matrix.shape)
        pairs = places.flatten()[: count + count % 2].view(-1, 2)
        parts |= {"absmax": stored, "quant_map": numbers.clone()}
        parts[f"quant_state.bitsandbytes__{kind}"] = torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        )
        whole = {"weight": (pairs[:, :1] << 4 | pairs[:, 1:]).to(torch.uint8)}
        return whole | {f"weight.{name}": part for name, part in parts.items()}, value

    return Packing(config={"quant_method": "bitsandbytes", "load_in_4bit": True}, pack=pack)


def _row_scales(matrix: Tensor) -> Packed:
    """bitsandbytes' int8: rows by their largest magnitudes, of which 127 is one."""
    largest = matrix.abs().amax(1)
    q = (matrix / largest[:, None] * 127).round().to(torch.int8)
    parts = {"weight": q, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, q.float() * largest[:, None] * 7.874015718698502e-3


BITSANDBYTES = {
    "nf4": table(64),
    "nf4 nested": table(64, nested=256),
    "nf4 past the ends of rows": table(40, nested=7),
    "int8 rows": Packing(config={"quant_method": "bitsandbytes", "load_in_8bit": True}, pack=_row_scales),
}
"""By what a test is called."""
