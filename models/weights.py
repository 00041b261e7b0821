"""The one table from a checkpoint's tensor names to our parameters.

Enters: a `LlavaConfig`. Leaves: per graph, each parameter's `Weight`: which tensors it is made of, and how.
Both the released layout (`language_model.model.layers.0…`) and the newer one (`model.language_model.layers.0…`) are
read through `canonical_name`; what is left over on either side raises with the list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pumice.errors import CheckpointError
from pumice.models.config import LlavaConfig, TextConfig, VisionConfig

Layout = Literal["as_is", "transposed", "reshaped"]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """How one parameter is made from tensors of the checkpoint.

    `sources` are canonical names with their shapes, joined along the first axis; `layout` then says whether the result
    is taken as it is, transposed (matrices are [out, in] in checkpoints, [in, out] here), or reshaped to `shape`.
    """

    sources: tuple[tuple[str, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    layout: Layout = "as_is"


def vision_encoder_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `VisionEncoder`."""
    vision = config.vision
    table: dict[str, Weight] = {}
    size, positions = vision.hidden_size, vision.num_patches + 1
    patch = (size, vision.num_channels, vision.patch_size, vision.patch_size)
    table["tower.embeddings.patch_embedding"] = _plain(
        "vision_tower.embeddings.patch_embedding.weight", *patch
    )
    table["tower.embeddings.class_embedding"] = _reshaped(
        "vision_tower.embeddings.class_embedding", (size,), (1, 1, size)
    )
    table["tower.embeddings.position_embedding"] = _reshaped(
        "vision_tower.embeddings.position_embedding.weight", (positions, size), (1, positions, size)
    )
    table |= _norm("tower.pre_layrnorm", "vision_tower.pre_layrnorm", size)
    for index in range(config.vision_feature_layer):
        table |= _vision_block(f"tower.layers.{index}", f"vision_tower.encoder.layers.{index}", vision)
    width, bias = config.text.hidden_size, config.multimodal_projector_bias
    table |= _linear("projector.linear_1", "multi_modal_projector.linear_1", size, width, bias)
    table |= _linear("projector.linear_2", "multi_modal_projector.linear_2", width, width, bias)
    return table


def embedding_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `EmbeddingMerge`."""
    return {"weight": _plain(EMBEDDING_TABLE, config.text.vocab_size, config.text.hidden_size)}


def decoder_weights(config: LlavaConfig) -> dict[str, Weight]:
    """Parameters of `Decoder`, without its rotary caches, which are computed."""
    text = config.text
    table: dict[str, Weight] = {}
    for index in range(text.num_hidden_layers):
        table |= _text_block(f"layers.{index}", f"language_model.layers.{index}", text)
    table["norm.weight"] = _plain("language_model.norm.weight", text.hidden_size)
    head = EMBEDDING_TABLE if config.tie_word_embeddings else "lm_head.weight"
    table["lm_head.weight"] = _plain(head, text.vocab_size, text.hidden_size)
    return table


EMBEDDING_TABLE = "language_model.embed_tokens.weight"

_RENAMES = (
    (r"^model\.(?=language_model\.|vision_tower\.|multi_modal_projector\.)", ""),
    (r"^language_model\.model\.", "language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
_NEVER_READ = re.compile(r"(position_ids|rotary_emb\.inv_freq)$|^vision_tower\.(post_layernorm|head)\.")
_TOWER_LAYER = re.compile(r"^vision_tower\.encoder\.layers\.(\d+)\.")


def canonical_name(name: str) -> str:
    """A tensor's name in the one layout that this table uses, whatever the checkpoint's."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def check_names(config: LlavaConfig, tensors: dict[str, tuple[int, ...]]) -> None:
    """Compare the table with a checkpoint's canonical names and shapes.

    Raises:
        CheckpointError: tensors missing, left over, or of another shape; the message lists them.
    """
    wanted = {
        name: shape
        for table in (vision_encoder_weights, embedding_weights, decoder_weights)
        for weight in table(config).values()
        for name, shape in weight.sources
    }
    missing = sorted(set(wanted) - set(tensors))
    surplus = sorted(name for name in set(tensors) - set(wanted) if not _is_never_read(name, config))
    if missing or surplus:
        said = [f"missing {_some(missing)}"] * bool(missing) + [f"not understood: {_some(surplus)}"] * bool(
            surplus
        )
        raise CheckpointError(f"the checkpoint's tensors do not fit its config: {'; '.join(said)}")
    for name, shape in wanted.items():
        if tensors[name] != shape:
            raise CheckpointError(
                f"tensor {name} has shape {list(tensors[name])}, but config.json makes it {list(shape)}"
            )


def _is_never_read(name: str, config: LlavaConfig) -> bool:
    """Buffers, the tower behind the feature layer, and a tied head's copy."""
    layer = _TOWER_LAYER.match(name)
    if layer:
        return config.vision_feature_layer <= int(layer[1]) < config.vision.num_hidden_layers
    return bool(_NEVER_READ.search(name)) or (config.tie_word_embeddings and name == "lm_head.weight")


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def assemble(weight: Weight, read: Callable[[str], Tensor]) -> Tensor:
    """One parameter as float32, contiguous; `read` gives a tensor by its canonical name."""
    parts = [read(name).to(torch.float32) for name, _ in weight.sources]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    del parts
    return (joined.T if weight.layout == "transposed" else joined.reshape(weight.shape)).contiguous()


def load_weights(module: torch.nn.Module, table: dict[str, Weight], read: Callable[[str], Tensor]) -> None:
    """Fill an eager module, for running and testing it in torch."""
    for name, value in module.named_parameters():
        value.data = assemble(table[name], read)


def _plain(name: str, *shape: int) -> Weight:
    return Weight(sources=((name, shape),), shape=shape)


def _reshaped(name: str, stored: tuple[int, ...], shape: tuple[int, ...]) -> Weight:
    return Weight(sources=((name, stored),), shape=shape, layout="reshaped")


def _matrix(names: Iterable[str], rows: Iterable[int], columns: int) -> Weight:
    """Matrices [rows, columns] of checkpoints stacked, and transposed to [columns, all rows]."""
    sources = tuple((name, (count, columns)) for name, count in zip(names, rows, strict=True))
    return Weight(
        sources=sources, shape=(columns, sum(shape[0] for _, shape in sources)), layout="transposed"
    )


def _stacked(names: Iterable[str], sizes: Iterable[int]) -> Weight:
    sources = tuple((name, (size,)) for name, size in zip(names, sizes, strict=True))
    return Weight(sources=sources, shape=(sum(shape[0] for _, shape in sources),))


def _linear(ours: str, theirs: str, size_in: int, size_out: int, bias: bool) -> dict[str, Weight]:
    table = {f"{ours}.weight": _matrix([f"{theirs}.weight"], [size_out], size_in)}
    return table | ({f"{ours}.bias": _plain(f"{theirs}.bias", size_out)} if bias else {})


def _norm(ours: str, theirs: str, size: int) -> dict[str, Weight]:
    return {f"{ours}.{part}": _plain(f"{theirs}.{part}", size) for part in ("weight", "bias")}


def _vision_block(ours: str, theirs: str, vision: VisionConfig) -> dict[str, Weight]:
    size, inner = vision.hidden_size, vision.intermediate_size
    table = _norm(f"{ours}.layer_norm1", f"{theirs}.layer_norm1", size)
    for part in "qkv":
        table |= _linear(
            f"{ours}.self_attn.{part}_proj", f"{theirs}.self_attn.{part}_proj", size, size, False
        )
    biases = [f"{theirs}.self_attn.{part}_proj.bias" for part in "qkv"]
    table[f"{ours}.self_attn.qkv_bias"] = _stacked(biases, [size] * 3)
    table |= _linear(f"{ours}.self_attn.out_proj", f"{theirs}.self_attn.out_proj", size, size, True)
    table |= _norm(f"{ours}.layer_norm2", f"{theirs}.layer_norm2", size)
    table |= _linear(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1", size, inner, True)
    return table | _linear(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2", inner, size, True)


def _text_block(ours: str, theirs: str, text: TextConfig) -> dict[str, Weight]:
    size, inner = text.hidden_size, text.intermediate_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    projections = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
    widths = [queries, keys, keys]
    table = {
        f"{ours}.input_layernorm.weight": _plain(f"{theirs}.input_layernorm.weight", size),
        f"{ours}.self_attn.qkv.weight": _matrix([f"{p}.weight" for p in projections], widths, size),
    }
    if text.attention_bias:
        table[f"{ours}.self_attn.qkv.bias"] = _stacked([f"{p}.bias" for p in projections], widths)
    o_proj = f"{theirs}.self_attn.o_proj"
    table |= _linear(f"{ours}.self_attn.o_proj", o_proj, queries, size, text.attention_bias)
    norm = f"{theirs}.post_attention_layernorm.weight"
    table[f"{ours}.post_attention_layernorm.weight"] = _plain(norm, size)
    for part, (size_in, size_out) in _mlp_shapes(size, inner):
        table |= _linear(f"{ours}.mlp.{part}", f"{theirs}.mlp.{part}", size_in, size_out, text.mlp_bias)
    return table


def _mlp_shapes(size: int, inner: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield from (("gate_proj", (size, inner)), ("up_proj", (size, inner)), ("down_proj", (inner, size)))
