"""The values that quantised blocks stand for, as ONNX Runtime's MatMulNBits reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from pumice.export.recipes.recipe import Storage
from pumice.export.weights.quantization import Blocks


def dequantize_rows(blocks: Blocks, storage: Storage, columns: int) -> Tensor:
    """What `quantize_rows` stands for: float32 [rows, columns]."""
    assert storage.bits is not None
    q = _unpacked(blocks.packed, storage.bits)
    zero: Tensor | int = 1 << storage.bits - 1
    if blocks.zero_points is not None:
        zero = _unpacked(blocks.zero_points, storage.bits)[:, : blocks.scales.shape[1], None].float()
    values = (q.float() - zero) * blocks.scales.float()[:, :, None]
    return values.flatten(1)[:, :columns]


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    return packed if bits == 8 else torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
