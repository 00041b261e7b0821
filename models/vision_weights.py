"""The table from a checkpoint's tensor names to the parameters of `VisionEncoder`."""

from __future__ import annotations

from collections.abc import Callable

from pumice.models.config import LlavaConfig, VisionConfig
from pumice.models.weights import Weight, linear, norm, plain, reshaped, stacked

Table = dict[str, Weight]


def vision_encoder_weights(config: LlavaConfig) -> Table:
    """Parameters of `VisionEncoder`."""
    table = _TOWERS[config.vision.tower](config.vision, config.vision_layers) | _projector(config)
    if config.image_grid_pinpoints is not None:
        table["image_newline"] = plain("image_newline", config.text.hidden_size)
    return table


def _clip(vision: VisionConfig, layers: int) -> Table:
    size, positions = vision.hidden_size, vision.num_patches + 1
    at = "vision_tower.embeddings"
    table = {
        "tower.embeddings.patch_embedding": _patches(f"{at}.patch_embedding.weight", vision),
        "tower.embeddings.class_embedding": reshaped(f"{at}.class_embedding", (size,), (1, 1, size)),
        "tower.embeddings.position_embedding": reshaped(
            f"{at}.position_embedding.weight", (positions, size), (1, positions, size)
        ),
    }
    table |= norm("tower.pre_layrnorm", "vision_tower.pre_layrnorm", size)
    for index in range(layers):
        table |= _vit_block(f"tower.layers.{index}", f"vision_tower.encoder.layers.{index}", vision)
    return table


def _siglip(vision: VisionConfig, layers: int) -> Table:
    size, positions = vision.hidden_size, vision.num_patches
    at = "vision_tower.embeddings"
    table = {
        "tower.embeddings.patch_embedding": _patches(f"{at}.patch_embedding.weight", vision),
        "tower.embeddings.patch_bias": plain(f"{at}.patch_embedding.bias", size),
        "tower.embeddings.position_embedding": reshaped(
            f"{at}.position_embedding.weight", (positions, size), (1, positions, size)
        ),
    }
    for index in range(layers):
        table |= _vit_block(f"tower.layers.{index}", f"vision_tower.encoder.layers.{index}", vision)
    return table


def _pixtral(vision: VisionConfig, layers: int) -> Table:
    table = {
        "tower.patch_conv": _patches("vision_tower.patch_conv.weight", vision),
        "tower.ln_pre.weight": plain("vision_tower.ln_pre.weight", vision.hidden_size),
    }
    for index in range(layers):
        at = f"vision_tower.transformer.layers.{index}"
        table |= _pixtral_block(f"tower.layers.{index}", at, vision)
    return table


_TOWERS: dict[str, Callable[[VisionConfig, int], Table]] = {
    "clip": _clip,
    "siglip": _siglip,
    "pixtral": _pixtral,
}


def _patches(name: str, vision: VisionConfig) -> Weight:
    return plain(name, vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)


def _vit_block(ours: str, theirs: str, vision: VisionConfig) -> Table:
    size, inner = vision.hidden_size, vision.intermediate_size
    table = norm(f"{ours}.layer_norm1", f"{theirs}.layer_norm1", size)
    for part in "qkv":
        table |= linear(f"{ours}.self_attn.{part}_proj", f"{theirs}.self_attn.{part}_proj", size, size, False)
    biases = [f"{theirs}.self_attn.{part}_proj.bias" for part in "qkv"]
    table[f"{ours}.self_attn.qkv_bias"] = stacked(biases, [size] * 3)
    table |= linear(f"{ours}.self_attn.out_proj", f"{theirs}.self_attn.out_proj", size, size, True)
    table |= norm(f"{ours}.layer_norm2", f"{theirs}.layer_norm2", size)
    table |= linear(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1", size, inner, True)
    return table | linear(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2", inner, size, True)


def _pixtral_block(ours: str, theirs: str, vision: VisionConfig) -> Table:
    size, inner = vision.hidden_size, vision.intermediate_size
    table: Table = {}
    for part in ("attention_norm", "ffn_norm"):
        table[f"{ours}.{part}.weight"] = plain(f"{theirs}.{part}.weight", size)
    for part in "qkvo":
        name = f"attention.{part}_proj"
        table |= linear(f"{ours}.{name}", f"{theirs}.{name}", size, size, False)
    for name, size_in, size_out in (("gate", size, inner), ("up", size, inner), ("down", inner, size)):
        at = f"feed_forward.{name}_proj"
        table |= linear(f"{ours}.{at}", f"{theirs}.{at}", size_in, size_out, False)
    return table


def _projector(config: LlavaConfig) -> Table:
    at, features, width = "multi_modal_projector", config.feature_width, config.text.hidden_size
    bias = config.multimodal_projector_bias
    table: Table = {}
    if config.projector_layer_norm_eps is not None:
        table |= norm("projector.norm", f"{at}.projector_layernorm", features)
    if config.merge is not None:
        table["merger.norm_weight"] = plain(f"{at}.norm.weight", features)
        merging = f"{at}.patch_merger.merging_layer"
        table |= linear("merger.merging_layer", merging, features * config.merge**2, features, False)
    table |= linear("projector.linear_1", f"{at}.linear_1", features, width, bias)
    return table | linear("projector.linear_2", f"{at}.linear_2", width, width, bias)
