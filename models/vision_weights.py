"""The table from a checkpoint's tensor names to the parameters of `VisionEncoder`."""

from __future__ import annotations

from pumice.models.config import LlavaConfig, VisionConfig
from pumice.models.weights import Weight, linear, norm, plain, reshaped, stacked


def vision_encoder_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `VisionEncoder`."""
    vision = config.vision
    table: dict[str, Weight] = {}
    size, positions = vision.hidden_size, vision.num_patches + 1
    patch = (size, vision.num_channels, vision.patch_size, vision.patch_size)
    table["tower.embeddings.patch_embedding"] = plain(
        "vision_tower.embeddings.patch_embedding.weight", *patch
    )
    table["tower.embeddings.class_embedding"] = reshaped(
        "vision_tower.embeddings.class_embedding", (size,), (1, 1, size)
    )
    table["tower.embeddings.position_embedding"] = reshaped(
        "vision_tower.embeddings.position_embedding.weight", (positions, size), (1, positions, size)
    )
    table |= norm("tower.pre_layrnorm", "vision_tower.pre_layrnorm", size)
    for index in range(config.vision_layers):
        table |= _vision_block(f"tower.layers.{index}", f"vision_tower.encoder.layers.{index}", vision)
    width, bias = config.text.hidden_size, config.multimodal_projector_bias
    table |= linear("projector.linear_1", "multi_modal_projector.linear_1", size, width, bias)
    table |= linear("projector.linear_2", "multi_modal_projector.linear_2", width, width, bias)
    return table


def _vision_block(ours: str, theirs: str, vision: VisionConfig) -> dict[str, Weight]:
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
