"""llama.cpp's formats on the same model, simulated in torch: what its rounding costs, without llama.cpp.

Enters: a Llama checkpoint and a format's name. Leaves: a `LlamaForCausalLM` that computes with what such a file stands
for, and the megabytes of such a file's tensors.

Weights are quantised and dequantised by gguf's own functions; norms stay float32. The table is tied, so llama.cpp
stores it as it does a head: in Q6_K, or in Q8_0 where the width is no multiple of 256, as here.

Activations are rounded as its kernels for CPUs do, in blocks of 32 to 8 bits with one scale d = max|x| / 127 kept in
float16: Q8_0, for weights in Q4_0 and Q8_0. Weights in Q4_1 (w = d_w·q + m) meet Q8_1, which also keeps s = d·Σq in
float16: their product is Σ d_w·d·q·q_x + m·s for each block.

Not simulated: its cache of keys and values in float16, and the order of its sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BLOCK = 32
FORMATS = ("Q4_0", "Q4_1", "Q8_0")
_TABLE = "Q8_0"
_K_QUANT_WIDTH = 256


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A matrix [N, D] in a format: `bytes_` of the file, the `weight` [N, D] that they stand for.

    `minima` [N, D / 32] are each block's m; None where the format has none.
    """

    bytes_: int
    weight: Tensor
    minima: Tensor | None


def store(weight_ND: Tensor, name: str) -> Stored:
    """Quantise a matrix by gguf's own functions."""
    import gguf

    kind = gguf.GGMLQuantizationType[name]
    data = gguf.quantize(weight_ND.float().numpy(), kind)
    weight = torch.from_numpy(gguf.dequantize(data, kind).astype(np.float32)).view(weight_ND.shape)
    minima = None
    if name == "Q4_1":
        block, size = gguf.GGML_QUANT_SIZES[kind]
        halves = np.ascontiguousarray(data.reshape(-1, size)[:, 2:4]).view(np.float16)
        minima = torch.from_numpy(halves.astype(np.float32)).view(len(weight), weight.shape[1] // block)
    return Stored(bytes_=data.nbytes, weight=weight, minima=minima)


def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations […, D] as kernels have them, and each block's s, […, D / 32]."""
    blocks = x.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    whole = (blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
    sums = (scale * whole.sum(-1, keepdim=True)).half().float()[..., 0]
    return (whole * scale.half().float()).flatten(-2), sums


class Product(nn.Module):
    """A matrix product as llama.cpp's kernels compute it."""

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.weight, self.minima = stored.weight, stored.minima

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] → […, N]."""
        near, sums = rounded(x)
        product = nn.functional.linear(near, self.weight)
        if self.minima is None:
            return product
        return product + nn.functional.linear(sums - near.unflatten(-1, (-1, BLOCK)).sum(-1), self.minima)


def simulate(model: Any, name: str) -> float:
    """Turn a float32 `LlamaForCausalLM` with a tied head into one that is stored in the format `name`, in place.

    Returns:
        Megabytes (10⁶ bytes) of all tensors as a file has them.

    Raises:
        ValueError: its head is not tied, or is wide enough for Q6_K.
    """
    body, width = model.model, model.config.hidden_size
    if not model.config.tie_word_embeddings or width % _K_QUANT_WIDTH == 0:
        raise ValueError(f"expected a tied head whose width is no multiple of {_K_QUANT_WIDTH}, got {width}")
    table = store(body.embed_tokens.weight.detach(), _TABLE)
    norms = sum(
        4 * tensor.numel() for key, tensor in model.state_dict().items() if key.endswith("norm.weight")
    )
    total: int = table.bytes_ + norms
    for layer in body.layers:
        for part in (layer.self_attn, layer.mlp):
            for key, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    stored = store(linear.weight.detach(), name)
                    setattr(part, key, Product(stored))
                    total += stored.bytes_
    body.embed_tokens.weight = nn.Parameter(table.weight, requires_grad=False)
    model.lm_head = Product(table)
    return total / 1e6
