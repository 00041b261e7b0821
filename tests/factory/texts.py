"""Small LLaVAs with every type of text model, their tensors named by transformers' own modules.

Enters: a folder and a name of `TEXTS`. Leaves: a checkpoint as transformers 5 writes it. Nothing of pumice's tables of
names is asked: what transformers' model has is drawn, and everything else is `make_checkpoint`'s.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.factory.checkpoint import make_checkpoint
from tests.factory.parts import Text, Vision

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "max_position_embeddings": 512,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.9],
    "long_factor": [2.0, 3.0, 5.0, 7.0, 8.0, 9.0],
}
WINDOWS = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 12,
}

TEXTS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16, "rope_theta": 1e6, "attention_bias": True},
    "qwen3 of narrow heads": {"head_dim": 24, "rms_norm_eps": 0.05, **WINDOWS, "use_sliding_window": True},
    "phi3": {"sliding_window": 20},
    "phi3 of phi-4": {
        "rope_scaling": LONGROPE,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 256,
        "tie_word_embeddings": True,
    },
    "phi": {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
    "gemma": {"head_dim": 32, "num_key_value_heads": 1, "hidden_act": "gelu", "tie_word_embeddings": True},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, **WINDOWS},
    "olmo": {},
    "olmo2": {"attention_bias": True},
    "olmo2 of narrow heads": {"hidden_size": 48, "rms_norm_eps": 0.05},
    "smollm3": {"num_hidden_layers": 3, "no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "ministral": {"head_dim": 24, **WINDOWS},
    "stablelm": {"use_qkv_bias": True},
    "stablelm in parallel": {"partial_rotary_factor": 0.5, "use_parallel_residual": True},
    "starcoder2": {"sliding_window": 20},
    "cohere": {"attention_bias": True, "tie_word_embeddings": True},
    "cohere2": {**WINDOWS},
    "helium": {"head_dim": 16},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.75},
    "exaone4": {**WINDOWS},
    "exaone4 without windows": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "nemotron": {},
    "arcee": {"mlp_bias": True},
    "seed_oss": {"head_dim": 16, "attention_out_bias": True},
    "ernie4_5": {"head_dim": 16, "use_bias": True},
}
"""Keys of a `text_config` beside `SIZES`; the first word is its `model_type`."""

SEEDS = {
    "qwen3": 1,
    "phi3 of phi-4": 1,
    "gemma": 7,
    "gemma2": 1,
    "olmo2 of narrow heads": 1,
    "smollm3": 1,
    "ministral": 1,
    "stablelm in parallel": 1,
    "cohere": 1,
    "cohere2": 1,
    "helium": 1,
    "glm": 5,
    "exaone4 without windows": 1,
    "nemotron": 2,
    "ernie4_5": 2,
}
"""Other than 0: with them no answer of `tests/export/test_text_types.py` ends early or hangs on a tie."""

_STORED_MINUS_ONE = ("gemma", "nemotron")


def make_text_checkpoint(folder: Path, name: str, *, seed: int | None = None, **keys: Any) -> Path:
    """Write the checkpoint `name` of `TEXTS`, with other `keys` of its `text_config` if given, and return it."""
    seed = SEEDS.get(name, 0) if seed is None else seed
    kind, own = name.split()[0], TEXTS[name] | keys
    tied = bool(own.get("tie_word_embeddings", False))
    text = SIZES | own | {"model_type": kind, "tie_word_embeddings": tied}
    made = {"vision": Vision(layers=2, width=32, heads=2, mlp=48), "layout": "new", "seed": seed}
    make_checkpoint(folder, text=Text(width=text["hidden_size"], tied=tied), **made)
    config = json.loads((folder / "config.json").read_text())
    ids = {key: config["text_config"][key] for key in ("bos_token_id", "eos_token_id")}
    config["text_config"] = text | ids | {"pad_token_id": config["pad_token_id"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    tensors = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "vision_tower" in n or "multi_modal_projector" in n}
    for parameter, value in model.named_parameters():
        if parameter not in kept:
            kept[parameter] = _drawn(parameter, tuple(value.shape), kind, tied, seed)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _drawn(name: str, shape: tuple[int, ...], kind: str, tied: bool, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    values = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return values * 0.1
    if len(shape) == 1:
        final = ".layers." not in name
        values = values if final and tied else 1 + 0.1 * values
        return values - 1 if kind.startswith(_STORED_MINUS_ONE) else values
    table = "embed_tokens" in name or "lm_head" in name
    return values * (3 if table else 1) * shape[1] ** -0.5
