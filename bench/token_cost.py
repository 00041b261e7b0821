"""What decoding a token must read from memory: the least, by which its speed is limited.

Enters: a checkpoint. Leaves: weights that a token goes through, and bytes of keys and values for each token of context.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

INT4_BITS = 4.5
"""Of a weight: 4, and a 16-bit scale for every 32."""

_KV_BYTES = 4
"""Of a key's or value's element: float32, as pumice keeps them on the CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """`weights` of the decoder's layers and head; `kv_bytes` for each token of context."""

    weights: int
    kv_bytes: int

    def tokens_per_second(self, read_gb_s: float, context: int) -> float:
        """The most that reading so many GB/s allows, with 4-bit weights, after so many tokens of context."""
        return read_gb_s * 1e9 / (self.weights * INT4_BITS / 8 + self.kv_bytes * context)


def token_cost(checkpoint: Path) -> TokenCost:
    """By the checkpoint's tensors and config."""
    sizes = {
        name: math.prod(tensor["shape"])
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, tensor in _header(path).items()
        if name != "__metadata__" and ("language_model" in name or name.startswith("lm_head"))
    }
    if any("lm_head" in name for name in sizes):  # a table that is only looked up in
        sizes = {name: size for name, size in sizes.items() if "embed_tokens" not in name}
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    heads = text["num_attention_heads"]
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    kv = 2 * text["num_hidden_layers"] * text.get("num_key_value_heads", heads) * head_dim * _KV_BYTES
    return TokenCost(weights=sum(sizes.values()), kv_bytes=kv)


def _header(path: Path) -> dict[str, dict[str, list[int]]]:
    """Names, types and shapes of a safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(size))
        return header
