"""A LLaVA checkpoint as the files that llama.cpp reads, for `peer_llama_cpp`: nothing is quantised yet.

Enters: a checkpoint's config and tensors. Leaves: a GGUF file of the text model, and one of tower and projector.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEXT_PREFIXES = ("language_model.", "model.language_model.")
TOWER = {
    "embeddings.position_embedding": "v.position_embd",
    "embeddings.patch_embedding": "v.patch_embd",
    "pre_layrnorm": "v.pre_ln",
}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def write_text(config: dict[str, Any], checkpoint: Path, path: Path) -> None:
    """The language model as float16, without a vocabulary: prompts are given as token ids."""
    import gguf
    import numpy as np

    text = config["text_config"]
    kind = "qwen2" if text.get("model_type") == "qwen2" else "llama"
    heads, layers = text["num_attention_heads"], text["num_hidden_layers"]
    kv_heads = text.get("num_key_value_heads", heads)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(layers)
    writer.add_context_length(text.get("max_position_embeddings", 4096))
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(text.get("rms_norm_eps", 1e-6))
    theta = text.get("rope_theta") or (text.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(text["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    arch = gguf.MODEL_ARCH.QWEN2 if kind == "qwen2" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(arch, layers)
    for name, array in tensors(checkpoint, TEXT_PREFIXES):
        full = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        ours = names.get_name(full, (".weight", ".bias"))
        if kind == "llama" and ".q_proj." in full:
            array = interleaved(array, heads)
        if kind == "llama" and ".k_proj." in full:
            array = interleaved(array, kv_heads)
        writer.add_tensor(ours, array.astype(np.float16) if array.ndim == 2 else array)
    finish(writer)


def write_vision(config: dict[str, Any], checkpoint: Path, path: Path) -> None:
    """Tower and projector, up to the layer that is tapped."""
    import gguf
    import numpy as np

    vision = config["vision_config"]
    layer = config.get("vision_feature_layer", -2)
    depth = vision["num_hidden_layers"] + 1 + layer if layer < 0 else layer
    processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", vision.get("hidden_act", "quick_gelu") != "quick_gelu")
    for key, value in {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "block_count": depth,
        "projection_dim": config["text_config"]["hidden_size"],
        "attention.head_count": vision["num_attention_heads"],
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.get("layer_norm_eps", 1e-5))
    writer.add_array("clip.vision.feature_layer", [depth])
    writer.add_array("clip.vision.image_mean", [float(v) for v in processor["image_mean"]])
    writer.add_array("clip.vision.image_std", [float(v) for v in processor["image_std"]])
    prefixes = tuple(
        f"{outer}vision_tower.{inner}" for outer in ("model.", "") for inner in ("vision_model.", "")
    )
    for name, array in tensors(checkpoint, prefixes):
        ours = vision_name(name, depth)
        if ours is not None:
            writer.add_tensor(
                ours,
                array.astype(np.float16) if array.ndim > 1 and ours != "v.position_embd.weight" else array,
            )
    for name, array in tensors(checkpoint, ("multi_modal_projector.", "model.multi_modal_projector.")):
        number = {"linear_1": 0, "linear_2": 2}[name.partition(".")[0]]
        writer.add_tensor(
            f"mm.{number}.{name.rpartition('.')[2]}", array.astype(np.float16) if array.ndim > 1 else array
        )
    finish(writer)


def interleaved(array: Any, heads: int) -> Any:
    """Rows of a query or key projection, from rotary halves to the pairs that llama.cpp turns."""
    return (
        array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        .swapaxes(1, 2)
        .reshape(array.shape)
    )


def vision_name(name: str, depth: int) -> str | None:
    """What a tensor of the tower is called in GGUF; None for what the tapped layer does not need."""
    stem, _, leaf = name.rpartition(".")
    if name == "embeddings.class_embedding":
        return "v.class_embd"
    if stem in TOWER:
        return f"{TOWER[stem]}.{leaf}"
    if not stem.startswith("encoder.layers."):
        return None
    number, _, part = stem.removeprefix("encoder.layers.").partition(".")
    return f"v.blk.{number}.{LAYER[part]}.{leaf}" if int(number) < depth else None


def tensors(checkpoint: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Tensors with one of the prefixes, without it, as float32 arrays."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                prefix = next((p for p in prefixes if name.startswith(p)), None)
                if prefix is not None:
                    yield name.removeprefix(prefix), opened.get_tensor(name).float().numpy()


def finish(writer: Any) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
