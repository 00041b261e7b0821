"""What the modules need to know of a checkpoint: one frozen config a part, checked by `pumice.export.config`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A CLIP vision tower. `image_size` and `patch_size` are in pixels, for both sides."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def num_patches(self) -> int:
        """Patches of one picture, without the class token."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A Llama decoder. `max_position_embeddings` is the context length in tokens.

    `rotary_dim` is the checkpoint's own head width; `head_dim` is the width that is computed with, which
    `pumice.export.padding` may have rounded up.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    vocab_size: int
    max_position_embeddings: int
    hidden_act: str
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool
    mlp_bias: bool


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """The whole. `vision_feature_layer` counts the tower's layers that are run; `default` drops the class token."""

    vision: VisionConfig
    text: TextConfig
    vision_feature_layer: int
    vision_feature_select_strategy: Literal["default", "full"]
    projector_hidden_act: str
    multimodal_projector_bias: bool
    image_token_id: int
    tie_word_embeddings: bool

    @property
    def tokens_per_image(self) -> int:
        """Rows of `image_features` that one picture gives."""
        class_token = 0 if self.vision_feature_select_strategy == "default" else 1
        return self.vision.num_patches + class_token
