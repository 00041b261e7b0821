"""How large each part of a bundle is in memory on the CPU, by the shapes that its manifest has.

Enters: a manifest. Leaves: bytes. What the manifest does not have (the widths of the vision tower and of the MLPs) is
estimated; docs/memory.md says from what, and compares all of it with measurements.
"""

from __future__ import annotations

import math
from typing import Literal

from pumice.manifest import DecoderShape, GraphSpec, Manifest

Part = Literal["vision_encoder", "embedding", "decoder"]

PROCESS = 80 * 2**20
"""Python, NumPy, Pillow and ONNX Runtime with three small graphs."""
STEP = 64
"""A KV cache's capacity is a multiple of so many positions, or the whole context."""
CHUNK = 128
"""Tokens of a prompt that go through the decoder at once."""
ENCODED_AT_ONCE = 2
"""Images of one size, or tiles of an image, that go through the vision encoder at once."""

HEAD = "decoder/lm_head.weight"
RESIDUAL_HEAD = "decoder/lm_head.residual"
"""The lower half of a head's bits, of which single rows are looked up."""
REFINED_HEAD = "decoder/lm_head.refined"
"""In bundles of earlier versions: the head a second time, of which single rows are looked up."""

_TOKENIZER = 20  # bytes in memory for each byte of tokenizer.json
_SCALE = 4  # bytes of a block's scale; as many again are made when it is packed
_VISION_FLOATS = 17  # values for each patch and unit of width that one image leaves in ONNX Runtime's arena
_DECODER_FLOATS = 32  # values for each token and unit of width of a chunk, MLP included
_FLOAT_COPIES = (
    5  # of a layer's int8 keys and values: two multiplied out, two beside the new ones, one on its way
)
_LOGIT_ROWS = 4  # the graph's, and what processors make of them


def position_bytes(shape: DecoderShape) -> int:
    """Bytes of one position's keys and values in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.kv_size


def rounded_up(shape: DecoderShape, positions: int) -> int:
    """The capacity of a cache that has room for so many positions."""
    return min(shape.context_length, -(-positions // STEP) * STEP)


def rounded_down(shape: DecoderShape, positions: int) -> int:
    """The largest capacity that is not above so many positions; may be 0."""
    return shape.context_length if positions >= shape.context_length else max(0, positions // STEP * STEP)


def image_tokens(manifest: Manifest) -> int:
    """Image tokens of an image; of the largest one where they vary."""
    return manifest.layout.most_tokens


def tokenizer_bytes(manifest: Manifest) -> int:
    """The tokenizer's tables."""
    return _TOKENIZER * manifest.files[manifest.chat.tokenizer_file].size


def weight_bytes(manifest: Manifest, *, low_memory: bool, optimized: bool = False) -> tuple[int, int]:
    """Weights that are held, and those that stay in their files.

    Matrices that are multiplied are copied into another order: floats as they are, quantised blocks with a sum beside
    each scale; with an optimised copy they are in files in that order. Tables of embeddings are only looked up in, and
    stay. Narrow floats all become float32, the table too.
    """
    graphs = manifest.graphs
    looked_up = _looked_up_bytes(manifest)
    vision, decoder = (
        stored_bytes(manifest, graphs.vision_encoder),
        stored_bytes(manifest, graphs.decoder) - looked_up,
    )
    if graphs.prefill is not None:
        files = {graphs.prefill.file, *graphs.prefill.external_data} - set(graphs.decoder.external_data)
        decoder += sum(manifest.files[name].size for name in files)
    own = set(graphs.embedding.external_data) - set(graphs.decoder.external_data)
    table = sum(manifest.files[name].size for name in own) + looked_up
    narrow = float_size(manifest) == 2
    if low_memory and not narrow:
        return 0, vision + decoder + table
    held = round(vision * _packed(manifest, "vision_encoder") + decoder * _packed(manifest, "decoder"))
    if narrow and graph_bits(manifest, "embedding") is None:  # the embedding is of the bundle
        own_table = 4 * head_values(manifest)
        return (own_table, held) if optimized else (held + own_table, 0)
    return (0, held + table) if optimized else (held, table)


def packing_bytes(manifest: Manifest, *, low_memory: bool) -> int:
    """What the largest matrix, taken to be the head, takes a second time while it is copied into another order."""
    if low_memory and float_size(manifest) == 4:
        return 0
    return head_values(manifest) * (matrix_bits(manifest, HEAD) or 32) // 8


def unpacked_bytes(manifest: Manifest, *, low_memory: bool) -> int:
    """What the head, if it is quantised and not packed, takes as float32 whenever it is multiplied."""
    return 4 * head_values(manifest) if low_memory and matrix_bits(manifest, HEAD) is not None else 0


def vision_activation_bytes(manifest: Manifest) -> int:
    """What an image takes in the vision encoder; the tower's width is estimated from the number of its weights."""
    bits = graph_bits(manifest, "vision_encoder")
    stored = stored_bytes(manifest, manifest.graphs.vision_encoder)
    values = stored / (float_size(manifest) if bits is None else bits / 8 + _SCALE / _block(manifest))
    width = math.cbrt(3.6 * values)  # 12·width² a layer, and about width / 43 layers
    together = min(ENCODED_AT_ONCE, manifest.layout.most_arrays)
    return int(4 * _VISION_FLOATS * together * manifest.layout.most_rows * width) + _tiles_bytes(manifest)


def _tiles_bytes(manifest: Manifest) -> int:
    """Pixels of all tiles of the largest image; and its features: those of all tiles with what they are joined to, or
    this alone, for one prompt, and embedded in it."""
    layout, hidden = manifest.layout, manifest.decoder.hidden_size
    if layout.most_arrays == 1 or not manifest.image.size:
        return 0
    pixels = layout.most_arrays * 3 * math.prod(manifest.image.size)
    rows = layout.most_tokens + max(layout.most_arrays * layout.most_rows, 2 * layout.most_tokens)
    return 4 * (pixels + rows * hidden)


def clip_bytes(manifest: Manifest, frames: int) -> int:
    """Pixels of a video's frames, and the features that are kept of them. Raises as `Manifest.clip`."""
    clip = manifest.clip(frames)
    return 4 * frames * (3 * math.prod(clip.size) + 2 * (clip.per_frame + 1) * manifest.decoder.hidden_size)


def decoder_activation_bytes(shape: DecoderShape) -> int:
    """What a chunk of a prompt takes in the decoder, however much is behind it already: see `score_bytes`."""
    return 4 * _DECODER_FLOATS * CHUNK * shape.hidden_size


def score_bytes(shape: DecoderShape) -> int:
    """What a chunk of a prompt takes for each position that it attends to; on the CPU attention in float16 keeps all
    scores of a layer, in float32 it does not, and of int8 it makes floats, a layer at a time
    (docs/decisions/kv-cache-type.md)."""
    heads = shape.hidden_size // shape.head_dim
    if shape.kv_dtype == "int8":
        return 4 * _FLOAT_COPIES * shape.kv_heads * shape.head_dim
    return 4 * CHUNK * heads if shape.kv_dtype == "float16" else 0


def logits_bytes(shape: DecoderShape, batch: int) -> int:
    """Rows of logits of so many sequences."""
    return 4 * _LOGIT_ROWS * batch * shape.vocab_size


def _looked_up_bytes(manifest: Manifest) -> int:
    """What of the decoder's file is not multiplied, and not copied into another order."""
    if (bits := matrix_bits(manifest, RESIDUAL_HEAD)) is not None:
        return head_values(manifest) * bits // 8
    bits = matrix_bits(manifest, REFINED_HEAD)
    return 0 if bits is None else head_values(manifest) * (bits * 32 // 8 + _SCALE) // 32


def head_values(manifest: Manifest) -> int:
    """Numbers in the matrix that makes logits."""
    return manifest.decoder.vocab_size * manifest.decoder.hidden_size


def stored_bytes(manifest: Manifest, graph: GraphSpec) -> int:
    """A graph's files, with those that it shares with another."""
    return sum(manifest.files[name].size for name in (graph.file, *graph.external_data))


def _packed(manifest: Manifest, part: Part) -> float:
    """Bytes in memory for each byte of a graph's file."""
    bits = graph_bits(manifest, part)
    if bits is None:
        return 4 / float_size(manifest)
    block = bits * _block(manifest) // 8
    return (block + 2 * _SCALE) / (block + _SCALE)


def graph_bits(manifest: Manifest, part: Part) -> int | None:
    """Of most of a graph's quantised matrices; None where there are none."""
    found = [
        matrix_bits(manifest, name) for name in manifest.precision.quantized if name.startswith(f"{part}/")
    ]
    return max(set(found), key=found.count) if found else None


def matrix_bits(manifest: Manifest, name: str) -> int | None:
    """Of a matrix; None where it is not quantised."""
    precision = manifest.precision
    return precision.other_bits.get(name, precision.bits) if name in precision.quantized else None


def _block(manifest: Manifest) -> int:
    return manifest.precision.block_size or 32


def float_size(manifest: Manifest) -> int:
    """Bytes of a number that is not quantised."""
    narrow = (manifest.precision.float_type or manifest.precision.name) in ("fp16", "bf16")
    return 2 if narrow else 4
