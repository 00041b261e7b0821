"""A GGUF file's weights, in Hugging Face's names and order.

Enters: the file of a Llama. Leaves: `facts`, what its header says; and its tensors as float32.

    GGUF                            Hugging Face
    token_embd.weight               model.embed_tokens.weight
    blk.3.attn_q.weight             model.layers.3.self_attn.q_proj.weight      rows in another order, see `halves`
    blk.3.ffn_norm.weight           model.layers.3.post_attention_layernorm.weight
    output_norm.weight              model.norm.weight

Dithered: weights that were quantised lie on a grid (16 values for every 32 inputs in Q4_1), which flatters a recipe
whose own grid is alike. Every such weight w = d·q + m is moved by a random part of its step, uniform in [−d/2, d/2):
where the original may have been, as far as q tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEADS = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A GGUF file, read: `facts` by key, and its tensors, whose values are still in the file."""

    facts: dict[str, Any]
    tensors: tuple[Any, ...]


def read(file: Path) -> Source:
    """Open a GGUF file."""
    import gguf

    reader = gguf.GGUFReader(file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    return Source(facts=facts, tensors=tuple(reader.tensors))


def state(source: Source, dither: int | None = None) -> dict[str, torch.Tensor]:
    """All tensors as float32 under their names in a Llama checkpoint; `dither` is the seed of a dithered variant."""
    return {checkpoint_name(tensor.name): _values(tensor, source.facts, dither) for tensor in source.tensors}


def checkpoint_name(name: str) -> str:
    """What a tensor of a GGUF file is called in a checkpoint.

    Raises:
        KeyError: no Llama has such a tensor.
    """
    if name in _OUTER:
        return _OUTER[name]
    _, layer, part, leaf = name.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}.{leaf}"


def _values(tensor: Any, facts: dict[str, Any], dither: int | None) -> torch.Tensor:
    import gguf

    shape = tuple(int(size) for size in reversed(tensor.shape))
    values: Floats = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
    block, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
    if dither is not None and block > 1:
        rng = np.random.default_rng([dither, *tensor.name.encode()])
        values = values + (rng.random(shape, np.float32) - np.float32(0.5)) * steps(
            tensor.data, block, size, shape
        )
    part = tensor.name.split(".")[-2]
    if part in _HEADS:
        values = halves(values, facts[_HEADS[part]])
    return torch.from_numpy(np.ascontiguousarray(values))


def steps(data: NDArray[np.uint8], block: int, size: int, shape: tuple[int, ...]) -> Floats:
    """How far neighbouring values of each weight's block are apart: d, the float16 that a block begins with.

    `data` are blocks of `size` bytes for `block` weights, as Q4_1 and Q8_0 have them; `shape` is of the weights.
    """
    blocks = np.ascontiguousarray(data).reshape(-1, size)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.repeat(np.abs(scales), block, axis=1).reshape(shape)


def halves(rows: Floats, heads: int) -> Floats:
    """Rows of a query or key projection, from the pairs that llama.cpp turns to the halves that transformers turns.

    Of a head of width K: rows 0, 1, 2, 3, … are its dimensions 0, K/2, 1, K/2 + 1, ….
    """
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
