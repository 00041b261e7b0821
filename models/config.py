"""What the modules need to know of a checkpoint: one frozen config a part, checked by `pumice.export.config.llava`."""

from dataclasses import dataclass
from typing import Literal

NormPlaces = Literal["before", "after", "around", "shared"]
"""Where a layer's norms stand: before each branch, behind it, both, or one before attention and MLP side by side."""
QkNorm = Literal["none", "head", "width"]
"""RMSNorm of queries and keys before they are turned: none, of each head, or of all heads together."""
Tower = Literal["clip", "siglip", "pixtral"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower. `image_size` and `patch_size` are in pixels, for both sides.

    `tower` names the module that is built (`pumice.models.vision`). A Pixtral takes images of any size up to
    `image_size` on the longer side, and is the only one with rotary embedding (`rope_theta`).
    """

    tower: Tower
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_channels: int
    image_size: int
    patch_size: int
    hidden_act: str
    layer_norm_eps: float
    rope_theta: float | None = None

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the class token; of the largest one where images vary."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Of Granite's text model: of all that enters the decoder, and of what branches add to the residual stream.

    `table` is Gemma's, of words alone.
    """

    embedding: float = 1.0
    residual: float = 1.0
    table: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What layers of one model differ in: how many tokens a token sees, and whether its position turns it."""

    window: int | None
    turned: bool


@dataclass(frozen=True, kw_only=True)
class QueryGrowth:
    """Queries at a position are times 1 + `beta` · ln(1 + ⌊position / `every`⌋): Ministral 3's, Llama 4's."""

    beta: float
    every: int


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A decoder of the Llama line. `max_position_embeddings` is the context length in tokens.

    `rotary_dim` is the checkpoint's own head width; `head_dim` is the width that is computed with, which
    `pumice.export.weights.heads` may have rounded up. The rotary embedding turns pair i of a head by `inv_freq[i]`
    radians a position, and multiplies by `rotary_scale`; pairs of frequency 0 are left alone. `sliding_windows` has for
    each layer how many tokens a token sees, itself included, or None for all; `unturned_layers` have no rotary
    embedding. `rms_norm_eps` is of all norms, of either kind. `softcap` bounds scores. `attention_multiplier` is what
    scores are multiplied by, None for 1 / √`rotary_dim`; `query_growth` makes queries longer with their position.

    Some fields say what weights are still to take up, and are set back by the wrapper of the reader that does it
    (`pumice.export.weights.plain`): `norm_offset`, which is added to norms' weights; `multipliers`; `renamed`, pairs of
    a Llama's name and the checkpoint's for a part of a layer; `fused`, what of `qkv` and `gate_up` is stored in one;
    `neighbours`, pairs of a head that lie side by side rather than in its halves, and an `inv_freq` of fewer pairs
    than a head has.
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
    inv_freq: tuple[float, ...]
    rotary_scale: float
    sliding_windows: tuple[int | None, ...]
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    norm_offset: float = 0.0
    multipliers: Multipliers = Multipliers()
    attention_multiplier: float | None = None
    query_growth: QueryGrowth | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_weight: bool = True
    norm_bias: bool = False
    norm_places: NormPlaces = "before"
    qk_norm: QkNorm = "none"
    gated: bool = True
    softcap: float | None = None
    unturned_layers: frozenset[int] = frozenset()
    renamed: tuple[tuple[str, str], ...] = ()
    fused: tuple[str, ...] = ()
    neighbours: bool = False

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """Of every layer."""
        return tuple(
            LayerKind(window=window, turned=index not in self.unturned_layers)
            for index, window in enumerate(self.sliding_windows)
        )

    @property
    def foldable(self) -> bool:
        """Whether all that reads the stream reads it behind an RMSNorm, and all that is added to it comes without."""
        return self.norm == "rms" and self.norm_places == "before"

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by."""
        return self.rotary_dim**-0.5 if self.attention_multiplier is None else self.attention_multiplier


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """A model's videos: the id that stands for their features, and how those of a frame are made fewer.

    `bilinear` is done behind the projector, by whoever joins the frames (LLaVA-OneVision); `average` and `max` of 2 × 2
    before it, in the vision encoder (LLaVA-NeXT-Video).
    """

    token_id: int
    pooling: Literal["bilinear", "average", "max"]


@dataclass(frozen=True, kw_only=True)
class LlavaConfig:
    """The whole.

    `vision_feature_layers` are hidden states of the tower, counted from 0 (its embeddings), in the order in which they
    are concatenated; `default` drops the class token, or whatever comes first. `projector_layer_norm_eps` is of
    ViP-LLaVA's projector, None where there is no norm. `image_grid_pinpoints` are the (height, width) in pixels that
    a LLaVA-NeXT fits images into, None where images are not cut into tiles; those of more than `max_tiles` are left
    out of a bundle. `anyres_max` is a LLaVA-OneVision's: the features of more than so many tiles are shrunk, and images
    of a prompt with several are not cut; None in others. `merge` is a Mistral 3's: before the projector, features are
    normed by an RMSNorm of the text model's epsilon, and those of `merge` × `merge` patches become one; None in others.
    `video` is None where the model takes no videos. `rotated`: the residual stream is turned by
    `pumice.export.weights.rotation`.
    """

    vision: VisionConfig
    text: TextConfig
    vision_feature_layers: tuple[int, ...]
    vision_feature_select_strategy: Literal["default", "full"]
    projector_hidden_act: str
    multimodal_projector_bias: bool
    projector_layer_norm_eps: float | None
    image_token_id: int
    tie_word_embeddings: bool
    image_grid_pinpoints: tuple[tuple[int, int], ...] | None = None
    max_tiles: int | None = None
    anyres_max: int | None = None
    merge: int | None = None
    video: VideoConfig | None = None
    rotated: bool = False

    @property
    def pinpoints(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of what images are fitted into in the bundle, in order; none where they are not cut."""
        most = float("inf") if self.max_tiles is None else self.max_tiles
        given, tile = self.image_grid_pinpoints or (), self.vision.image_size**2
        return tuple(pair for pair in given if pair[0] * pair[1] // tile <= most)

    @property
    def token_side(self) -> int:
        """Pixels each way of what one feature is of, where images vary in size."""
        return self.vision.patch_size * (self.merge or 1)

    @property
    def vision_layers(self) -> int:
        """Layers of the tower that are run: what lies behind the last feature layer is never read."""
        return max(self.vision_feature_layers)

    @property
    def feature_width(self) -> int:
        """Channels that enter the projector."""
        return self.vision.hidden_size * len(self.vision_feature_layers)

    @property
    def tokens_per_image(self) -> int | None:
        """Features of one image, or of one tile; None where images vary in size."""
        if self.vision.tower == "pixtral":
            return None
        dropped = 1 if self.vision_feature_select_strategy == "default" else 0
        class_token = 1 if self.vision.tower == "clip" else 0
        return self.vision.num_patches + class_token - dropped
