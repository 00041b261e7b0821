"""The bundle's manifest: one JSON file that says everything the runtime needs to know.

Enters: `manifest.json` (written by `pumice.export`). Leaves: a frozen, checked `Manifest`.
The runtime sniffs nothing: file names, tensor names, shapes, preprocessing, special tokens and limits are here.
docs/bundle-format.md describes every field for readers of other languages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec

from pumice.errors import BundleError, UsageError
from pumice.manifest.defaults import GenerationDefaults, NonNegative, Positive
from pumice.manifest.images import ImageLayout, ImageProcessing, ImageTokens, Tiles, layout_of
from pumice.manifest.videos import Clip, VideoProcessing, clip_of

SCHEMA_VERSION = 3
"""The newest that this pumice reads; bundles are written with the oldest that fits them (`version_for`)."""
MANIFEST_NAME = "manifest.json"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the bundle: `size` in bytes, `sha256` in lower-case hexadecimal."""

    size: NonNegative
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A graph input or output; a dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """An ONNX graph: its file, the external data files that it reads, what enters and what leaves."""

    file: str
    external_data: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: NonNegative


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The three graphs, in the order in which data pass through them; and the decoder's twin, where there is one.

    `prefill` has the decoder's inputs and its outputs but `logits`: a prompt may be read by it, all but the last token.
    """

    vision_encoder: GraphSpec
    embedding: GraphSpec
    decoder: GraphSpec
    prefill: GraphSpec | None = None

    @property
    def named(self) -> dict[str, GraphSpec]:
        """Those that there are, by name."""
        names = ("vision_encoder", "embedding", "decoder", "prefill")
        graphs = {name: getattr(self, name) for name in names}
        return {name: graph for name, graph in graphs.items() if graph is not None}

    @property
    def all(self) -> tuple[GraphSpec, ...]:
        """Those that there are."""
        return tuple(self.named.values())


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What the KV cache and the logits look like.

    `past_key_values.{i}.key` is [batch_size, kv_heads, past, head_dim] of dtype `kv_dtype`; `context_length` counts
    tokens. Of `int8` keys and values a run of several tokens gives the new ones alone as `present`.
    """

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    hidden_size: Positive
    vocab_size: Positive
    context_length: Positive
    kv_dtype: Literal["float32", "float16", "int8"]

    @property
    def kv_size(self) -> int:
        """Bytes of one number of a key or value."""
        return {"float32": 4, "float16": 2, "int8": 1}[self.kv_dtype]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Special tokens. Texts are as the chat template sees them (`bos_token`, …); `eos_ids` end a generation."""

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None
    eos_ids: tuple[NonNegative, ...]
    pad_id: NonNegative | None


@dataclass(frozen=True, kw_only=True)
class Chat:
    """Files that turn messages into token ids: the tokenizer, and the chat template (null: raw prompts only)."""

    tokenizer_file: str
    template_file: str | None


@dataclass(frozen=True, kw_only=True)
class AppliedAdapter:
    """An adapter that was merged at export: folder name or hub id, what it was scaled by, and which files it was."""

    adapter: str
    scale: float
    config_sha256: Sha256
    weights_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class License:
    """Of a checkpoint, as its card has it: the hub's identifier; for `other`, a name and where its text is."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was exported: names and versions, for people; nothing here changes behaviour."""

    checkpoint: str
    model_type: str
    vision_model_type: str
    text_model_type: str
    dtype: str
    config_sha256: Sha256
    adapters: tuple[AppliedAdapter, ...] | msgspec.UnsetType = msgspec.UNSET
    """Merged into the checkpoint's weights, in this order; absent where there are none."""
    base_model: str | msgspec.UnsetType = msgspec.UNSET
    """The checkpoint's id on the hub; absent where it is not known to be from there."""
    license: License | msgspec.UnsetType = msgspec.UNSET
    """Absent where the checkpoint has no card that names one."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How weights are stored. `bits` is 4 for `int4`, null for float; blocks run along a matrix's input side.

    `recipe` is what it was exported by; `float_type` (`fp32`, `fp16`, `bf16`) is of what is not quantised, and of
    activations; `other_bits` has the quantised matrices whose bits are not `bits`.
    """

    name: str
    recipe: str | None = None
    float_type: str | None = None
    bits: int | None = None
    block_size: int | None = None
    symmetric: bool | None = None
    accuracy_level: int | None = None
    quantized: tuple[str, ...] = ()
    """Which matrices are quantised, by graph path (`decoder/layers.0.self_attn.qkv.weight`); all others stay float."""
    other_bits: dict[str, int] = field(default_factory=dict)
    rotated: bool = False
    """`image_features` and `inputs_embeds` are the checkpoint's, turned by a fixed orthonormal matrix."""


@dataclass(frozen=True, kw_only=True)
class Requires:
    """What a reader must have: `onnxruntime` at least; `opset` and `ir_version` are of the graphs."""

    onnxruntime: str
    opset: Positive
    ir_version: Positive


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a bundle, as `manifest.json` has it."""

    schema_version: Positive
    created_with: dict[str, str]
    requires: Requires
    source: Source
    precision: Precision
    graphs: Graphs
    decoder: DecoderShape
    image: ImageProcessing
    image_tokens: ImageTokens
    video: VideoProcessing | msgspec.UnsetType = msgspec.UNSET
    """Since schema version 3; absent where the model takes no videos."""
    tokens: Tokens
    chat: Chat
    generation: GenerationDefaults
    files: dict[str, FileEntry]
    parity: dict[str, Any] | None = field(default=None)
    """Summary of `parity.json`, where `pumice verify` has been run."""

    @cached_property
    def layout(self) -> ImageLayout:
        """Of images; derived of `image` and `image_tokens`, and not written to JSON. Raises as `layout_of`."""
        return layout_of(self.image, self.image_tokens, MANIFEST_NAME)

    @property
    def videos(self) -> VideoProcessing | None:
        """How videos are prepared; None where the model takes none."""
        return None if self.video is msgspec.UNSET else self.video

    def clip(self, frames: int, where: str = MANIFEST_NAME) -> Clip:
        """The layout of a video of so many frames.

        Raises:
            UsageError: the model takes no videos.
            BundleError: `video` does not go with the rest of the manifest.
        """
        video, layout = self.videos, self.layout
        if video is None:
            raise UsageError(
                f"a video was given, but this bundle of {self.source.checkpoint} takes images alone"
            )
        if not isinstance(layout, Tiles):
            raise BundleError(f"{where} has video without image.tiles: expected both or none")
        return clip_of(video, layout.size, layout.side, frames, where)

    @property
    def feature_token_ids(self) -> tuple[int, ...]:
        """Ids whose positions in a prompt hold features of an image or a video."""
        video = self.videos
        return (
            (self.image_tokens.token_id,) if video is None else (self.image_tokens.token_id, video.token_id)
        )

    @property
    def media_texts(self) -> tuple[str, ...]:
        """The special tokens that images and videos consist of, as texts."""
        video = self.videos
        return self.image_tokens.special_texts + (() if video is None else (video.token,))
