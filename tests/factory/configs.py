"""`config.json` and `generation_config.json`, with the keys that releases of old or of today have."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from tests.factory.parts import Dtype, Llava, Text, Vision

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
ARCHITECTURES |= {"granite": "GraniteForCausalLM", "ministral3": "Ministral3ForCausalLM"}
MODEL_TYPES = {
    "Llava": "llava",
    "VipLlava": "vipllava",
    "LlavaNext": "llava_next",
    "LlavaNextVideo": "llava_next_video",
    "LlavaOnevision": "llava_onevision",
    "Mistral3": "mistral3",
}
VISION_TYPES = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "pixtral": "pixtral"}


def model_config(model: Llava, tokenizer: Tokenizer, old: bool, dtype: Dtype) -> dict[str, Any]:
    """`config.json`; `old` says in which place and by which names."""
    words, layer = model.vocabulary, model.feature_layer
    given = list(layer) if isinstance(layer, tuple) else layer
    config: dict[str, Any] = {
        "architectures": [f"{_architecture(model, old)}ForConditionalGeneration"],
        "model_type": MODEL_TYPES[_class(model)],
        "image_token_index" if old else "image_token_id": tokenizer.token_to_id(words.image),
        "image_seq_length": model.tokens_per_image,
        "pad_token_id": tokenizer.token_to_id(words.pad),
        "projector_hidden_act": model.projector_act,
        "tie_word_embeddings": model.text.tied,
        "torch_dtype" if old else "dtype": dtype,
        "text_config": _text(model.text, tokenizer, words.bos, words.eos, old)
        | {"torch_dtype" if old else "dtype": dtype},
        "vision_config": _vision(model.vision, old),
    }
    if model.vip:
        layers = {"vision_feature_layers" if old else "vision_feature_layer": given}
        return config | layers | {"projector_layernorm_eps": 1e-5}
    if model.merge is not None:
        del config["image_seq_length"]
        merging = {"spatial_merge_size": model.merge, "multimodal_projector_bias": model.projector_bias}
        return config | merging | {"vision_feature_layer": given}
    if model.pinpoints is not None:
        config |= {"image_grid_pinpoints": [list(pair) for pair in model.pinpoints]}
        config |= {"use_image_newline_parameter": True} if old else {}
    if model.anyres_max is not None:
        del config["image_seq_length"]
        config |= {"vision_aspect_ratio": f"anyres_max_{model.anyres_max}", "video_token_index": 5}
    if model.video_pool is not None:
        config |= {"spatial_pool_mode": model.video_pool, "spatial_pool_stride": 2, "video_seq_length": 288}
    if words.video is not None:
        config["video_token_index" if old else "video_token_id"] = tokenizer.token_to_id(words.video)
        config.pop("video_token_id" if old else "video_token_index", None)
    return config | {
        "vision_feature_layer": given,
        "vision_feature_select_strategy": model.strategy,
        "multimodal_projector_bias": model.projector_bias,
    }


def _class(model: Llava) -> str:
    if model.merge is not None:
        return "Mistral3"
    if model.pinpoints is None:
        return "VipLlava" if model.vip else "Llava"
    if model.video_pool is not None:
        return "LlavaNextVideo"
    return "LlavaNext" if model.anyres_max is None else "LlavaOnevision"


def _architecture(model: Llava, old: bool) -> str:
    """What the first releases of LLaVA-OneVision say is another class."""
    return "LlavaNext" if old and model.anyres_max is not None else _class(model)


def generation_config(model: Llava, tokenizer: Tokenizer) -> dict[str, Any]:
    """`generation_config.json`: a list of ends where there are several."""
    words = model.vocabulary
    ends = [tokenizer.token_to_id(token) for token in (words.eos, *words.ends)]
    config: dict[str, Any] = {
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": tokenizer.token_to_id(words.pad),
    }
    return config | ({"bos_token_id": tokenizer.token_to_id(words.bos)} if words.bos else {})


def _text(t: Text, tokenizer: Tokenizer, bos: str | None, eos: str, old: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[t.kind]],
        "model_type": t.kind,
        "hidden_size": t.width,
        "num_hidden_layers": t.layers,
        "intermediate_size": t.mlp,
        "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads,
        "vocab_size": t.vocab_size,
        "max_position_embeddings": t.context,
        "rms_norm_eps": t.eps,
        "hidden_act": t.act,
        "bos_token_id": tokenizer.token_to_id(bos) if bos else None,
        "eos_token_id": tokenizer.token_to_id(eos),
        "tie_word_embeddings": t.tied,
    }
    if t.head_dim is not None or not (old or t.kind == "qwen2"):
        config["head_dim"] = t.head_size
    return config | _rope(t, old) | _window(t) | _biases(t) | (t.multipliers or {})


def _rope(t: Text, old: bool) -> dict[str, Any]:
    if not old:
        kind = {"rope_type": "default"} if t.rope_scaling is None else dict(t.rope_scaling)
        return {"rope_parameters": kind | {"rope_theta": t.rope_theta}}
    return {"rope_theta": t.rope_theta} | ({"rope_scaling": t.rope_scaling} if t.rope_scaling else {})


def _window(t: Text) -> dict[str, Any]:
    if t.kind in ("mistral", "ministral3"):
        return {"sliding_window": t.sliding_window}
    if t.kind == "qwen2":  # releases have a window as long as the context, and do not use it
        return {
            "sliding_window": t.sliding_window or t.context,
            "use_sliding_window": t.sliding_window is not None,
            "max_window_layers": t.full_layers if t.sliding_window else t.layers,
        }
    return {}


def _biases(t: Text) -> dict[str, Any]:
    biases = {"attention_bias": t.attention_bias, "mlp_bias": t.mlp_bias}
    return biases if t.kind in ("llama", "granite") else {}


def _vision(v: Vision, old: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": VISION_TYPES[v.tower],
        "hidden_size": v.width,
        "num_hidden_layers": v.layers,
        "intermediate_size": v.mlp,
        "num_attention_heads": v.heads,
        "image_size": v.image_size,
        "patch_size": v.patch_size,
        "hidden_act": v.act,
    }
    if v.tower == "clip":
        return config | {"layer_norm_eps": v.eps, "projection_dim": v.width}
    if v.tower == "siglip":
        return config | {"layer_norm_eps": v.eps} | ({} if v.pooled else {"vision_use_head": False})
    config |= {"head_dim": v.width // v.heads}
    if old:
        return config | {"rope_theta": v.rope_theta, "is_composition": True, "tie_word_embeddings": False}
    return config | {"rope_parameters": {"rope_type": "axial", "rope_theta": v.rope_theta}}
