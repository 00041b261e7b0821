"""Heads of a width that ONNX Runtime's GroupQueryAttention does not take, padded with zeros to one that it does.

Its rotary kernel wants multiples of 16. A head is padded in both rotary halves, so that partners stay partners:

    a b c d | e f g h      →      a b c d 0 0 0 0 | e f g h 0 0 0 0

Zero queries meet zero keys, zero values meet zero columns of the output projection: the result is the same. Where
queries and keys are normed, zeros make their mean square smaller, and the norm's weight makes up for it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from pumice.models.config import LlavaConfig, TextConfig
from pumice.models.weights import Read

MULTIPLE = 16
_NORM = re.compile(r"^language_model\.layers\.\d+\.self_attn\.[qk]_norm\.weight$")
_PROJECTION = re.compile(r"^language_model\.layers\.\d+\.self_attn\.([qkvo])_proj\.(weight|bias)$")


def pad_heads(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
    """The config with a `head_dim` that runs, and a reader that gives attention's tensors in that width."""
    own = config.text.rotary_dim
    padded = -(-own // MULTIPLE) * MULTIPLE
    if padded == own:
        return config, read
    text, heads = config.text, {"q": config.text.num_attention_heads, "o": config.text.num_attention_heads}

    def read_padded(name: str, start: int, stop: int) -> Tensor:
        if _NORM.match(name):
            return _norm(name, own, padded, read, text)[start:stop]
        match = _PROJECTION.match(name)
        if match is None or (match[1] == "o" and match[2] == "bias"):
            return read(name, start, stop)
        if match[1] == "o":
            return _padded(read(name, start, stop).T, own, padded).T
        rows = heads.get(match[1], text.num_key_value_heads) * own
        return _padded(read(name, 0, rows), own, padded)[start:stop]

    return replace(config, text=replace(text, head_dim=padded)), read_padded


def _norm(name: str, own: int, padded: int, read: Read, text: TextConfig) -> Tensor:
    """A norm's weight, of one head or of all; its mean is over `padded` channels for `own`."""
    count = text.num_key_value_heads if ".k_norm." in name else text.num_attention_heads
    rows = read(name, 0, own * (count if text.qk_norm == "width" else 1)).float()
    return _padded(rows, own, padded) * math.sqrt(own / padded)


def _padded(rows: Tensor, own: int, padded: int) -> Tensor:
    """[heads·own, …] → [heads·padded, …]; every half of a head is followed by zeros."""
    halves = rows.reshape(-1, own // 2, *rows.shape[1:])
    nothing = [0, 0] * (rows.dim() - 1)
    return F.pad(halves, (*nothing, 0, (padded - own) // 2)).flatten(0, 1)
