"""What a checkpoint is made of: sizes and variants of its tower, its text model, and the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.factory.templates import CHAT_TEMPLATE
from tests.factory.vocabulary import Vocabulary

Layout = Literal["released", "new", "saved"]
Dtype = Literal["float32", "float16", "bfloat16", "float64"]
Tower = Literal["clip", "siglip", "pixtral"]
Kind = Literal["llama", "mistral", "ministral3", "qwen2", "granite"]


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A vision tower; sizes in pixels and channels. A Pixtral's `image_size` is the longest side, its eps is fixed.

    `pooled`: a SigLIP with its pooling head, which a LLaVA never reads.
    """

    tower: Tower = "clip"
    width: int = 48
    layers: int = 3
    heads: int = 3
    mlp: int = 96
    image_size: int = 56
    patch_size: int = 14
    act: str = "quick_gelu"
    eps: float = 1e-5
    rope_theta: float = 10000.0
    pooled: bool = False

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text model; `head_dim` None is width / heads.

    `multipliers` are a Granite's, by their keys. `attention_bias` and `mlp_bias` are a Llama's or a Granite's;
    a Qwen2 always has biases on query, key and value.
    `rope_scaling` is what configs of old have under that key. `full_layers` of a Qwen2 come before those with a window.
    `spare_rows` of the embedding table have no token.
    """

    kind: Kind = "llama"
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    mlp: int = 112
    act: str = "silu"
    vocab_size: int = 384
    spare_rows: int = 0
    context: int = 512
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    sliding_window: int | None = None
    full_layers: int = 0
    eps: float = 1e-5
    tied: bool = False
    multipliers: dict[str, float] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def qkv_bias(self) -> bool:
        return self.kind == "qwen2" or self.attention_bias


BILLION = Text(width=2048, layers=19, heads=16, kv_heads=8, mlp=5632, vocab_size=32064, context=4096)
"""1.03 billion parameters."""


@dataclass(frozen=True, kw_only=True)
class Llava:
    """The whole: what `config.json` says beside its two parts. `vip`: a ViP-LLaVA, with a norm in its projector.

    `pinpoints`: a LLaVA-NeXT, which fits images into one of these (height, width) and cuts them into tiles; with
    `anyres_max`, a LLaVA-OneVision; with `video_pool`, a LLaVA-NeXT-Video. `merge`: a Mistral 3, which makes one
    feature of so many patches each way.
    """

    vision: Vision = Vision()
    text: Text = Text()
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    template: str = CHAT_TEMPLATE
    vip: bool = False
    pinpoints: tuple[tuple[int, int], ...] | None = None
    anyres_max: int | None = None
    merge: int | None = None
    video_pool: Literal["average", "max"] | None = None
    feature_layer: int | tuple[int, ...] = -2
    strategy: Literal["default", "full"] = "default"
    projector_act: str = "gelu"
    projector_bias: bool = True

    @property
    def features(self) -> int:
        layers = self.feature_layer if isinstance(self.feature_layer, tuple) else (self.feature_layer,)
        return self.vision.width * len(layers)

    @property
    def class_tokens(self) -> int:
        return 1 if self.vision.tower == "clip" else 0

    @property
    def tokens_per_image(self) -> int:
        if self.vision.tower == "pixtral":
            return 1  # as its released config has it: images vary
        return self.vision.patches + self.class_tokens - (1 if self.strategy == "default" else 0)
