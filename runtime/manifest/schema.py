"""The bundle's manifest: one JSON file that says everything the runtime needs to know.

Enters: `manifest.json` (written by `pumice.export`). Leaves: a frozen, checked `Manifest`.
The runtime sniffs nothing: file names, tensor names, shapes, preprocessing, special tokens and limits are here.
docs/bundle-format.md describes every field for readers of other languages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from pumice.manifest.defaults import GenerationDefaults

SCHEMA_VERSION = 2
"""The newest that this pumice reads; bundles are written with the oldest that fits them (`version_for`)."""
MANIFEST_NAME = "manifest.json"

Positive = Annotated[int, msgspec.Meta(gt=0)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
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
    def all(self) -> tuple[GraphSpec, ...]:
        """Those that there are."""
        graphs = (self.vision_encoder, self.embedding, self.decoder, self.prefill)
        return tuple(graph for graph in graphs if graph is not None)


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """What the KV cache and the logits look like.

    `past_key_values.{i}.key` is [batch_size, kv_heads, past, head_dim] of dtype `kv_dtype`; `context_length` counts
    tokens.
    """

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    hidden_size: Positive
    vocab_size: Positive
    context_length: Positive
    kv_dtype: Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class ImageProcessing:
    """How an image becomes `pixel_values`: the steps in transformers' order, each skipped where it is null.

    `resize_shortest_edge` scales the shorter side to that many pixels; `resize_to` scales to (height, width) whatever
    the aspect; `resize_longest_edge` scales down what is longer, and then each side up to a multiple of `multiple_of`.
    `crop_to` is a centre crop to (height, width), padded with zeros where the image is smaller.
    `resample` is PIL's filter number. `mean` and `std` are per channel, on values already multiplied by
    `rescale_factor`.
    """

    convert_rgb: bool
    resize_shortest_edge: Positive | None
    resize_to: tuple[Positive, Positive] | None
    resize_longest_edge: Positive | None = None
    multiple_of: Positive | None = None
    resample: Annotated[int, msgspec.Meta(ge=0, le=5)]
    crop_to: tuple[Positive, Positive] | None
    rescale_factor: float | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    size: tuple[Positive, Positive] | None
    """(height, width) of the `pixel_values` that the vision encoder takes; null where each image has its own."""


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """How images appear in a prompt: `token` stands for one image.

    It becomes `per_image` × `token_id`; or, where images vary in size, one `token_id` for each `patch_size` ×
    `patch_size` pixels, row by row, with `break_token` behind every row and `end_token` behind the last.
    """

    token: str
    token_id: NonNegative
    per_image: Positive | None
    patch_size: Positive | None = None
    break_token: str | None = None
    break_token_id: NonNegative | None = None
    end_token: str | None = None
    end_token_id: NonNegative | None = None


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
class Source:
    """What was exported: names and versions, for people; nothing here changes behaviour."""

    checkpoint: str
    model_type: str
    vision_model_type: str
    text_model_type: str
    dtype: str
    config_sha256: Sha256


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
    tokens: Tokens
    chat: Chat
    generation: GenerationDefaults
    files: dict[str, FileEntry]
    parity: dict[str, Any] | None = field(default=None)
    """Summary of `parity.json`, where `pumice verify` has been run."""


def version_for(image: ImageProcessing) -> int:
    """The oldest schema version whose readers get images prepared like this right."""
    return 1 if image.size is not None else 2
