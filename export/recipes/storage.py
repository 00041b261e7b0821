"""What a recipe makes of one model: how each of its matrices is stored, and how many bytes that takes.

Enters: a `Recipe` and a `LlavaConfig`. Leaves: a `WeightStorage`, by which the graphs are made, and its
`Precision` in the manifest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import torch

from pumice.export.checkpoint.integer_matrix import IntegerMatrix
from pumice.export.recipes.recipe import FLOAT, FloatType, KvCache, Recipe, Storage, assign
from pumice.manifest import Precision
from pumice.models.config import LlavaConfig
from pumice.models.float_types import cache_type
from pumice.models.text_weights import HEAD_ROTATION, decoder_weights, embedding_weights, prefill_weights
from pumice.models.vision_weights import vision_encoder_weights
from pumice.models.weights import Weight

RESIDUAL = "lm_head.residual"
"""The lower half's name among the decoder's parameters."""


def residual_bytes(rows: int, columns: int, storage: Storage) -> int:
    """Bytes of the lower half."""
    return rows * -(-columns // storage.block_size) * storage.block_size // 2


DTYPES: dict[FloatType, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
HEAD, TABLE = "decoder/lm_head.weight", "embedding/weight"
"""One and the same in a tied model."""
RESIDUAL_HEAD = f"decoder/{RESIDUAL}"
"""The lower half of the head's bits, if the recipe says so; a tied table then has both halves."""


@dataclass(frozen=True, kw_only=True)
class WeightStorage:
    """How a model's weights are stored: `dtype` of what stays float, and what is quantised, by `graph/parameter`.

    With `prefill` the decoder's layers are stored a second time, for reading prompts; with `greedy_token` it has that
    output; with `own_table` a tied table is stored apart from the head. `kv_cache` is of keys and values. Matrices that
    are `kept` are made of the checkpoint's own `integers`, by canonical name.
    """

    dtype: torch.dtype
    quantized: Mapping[str, Storage]
    prefill: bool = False
    greedy_token: bool = False
    own_table: bool = False
    kv_cache: KvCache = "float"
    kept: frozenset[str] = frozenset()
    integers: Mapping[str, IntegerMatrix] = field(default_factory=dict)

    @property
    def angle_dtype(self) -> torch.dtype:
        """Of the rotary tables, and of keys and values before they are rounded."""
        return cache_type(self.dtype)

    def of(self, graph: str) -> dict[str, Storage]:
        """What is quantised in one graph, by parameter."""
        prefix = f"{graph}/"
        return {n.removeprefix(prefix): s for n, s in self.quantized.items() if n.startswith(prefix)}


def storage_of(recipe: Recipe, config: LlavaConfig) -> WeightStorage:
    """Apply a recipe to a model. In a tied one the table is stored as the head is, so that both are stored once.

    But where the recipe wants it apart.

    Raises:
        UsageError: an override that matches nothing.
    """
    prefill = recipe.prefill is not None
    matrices = [
        f"{graph}/{name}"
        for graph, table in weight_tables(config, prefill=prefill).items()
        for name, weight in table.items()
        if len(weight.shape) == 2 and name != HEAD_ROTATION
    ]
    assigned = assign(recipe, matrices)
    for name in (HEAD, TABLE):  # their rows are looked up, so that they have blocks
        assigned[name] = msgspec.structs.replace(assigned[name], activations="float")
    if recipe.refine_head and assigned[HEAD].bits == 4:
        assigned[HEAD] = msgspec.structs.replace(assigned[HEAD], symmetric=True, search="none")
        assigned[RESIDUAL_HEAD] = assigned[HEAD]
    if config.tie_word_embeddings and not recipe.own_table:
        assigned[TABLE] = assigned[HEAD]
    quantized = {name: storage for name, storage in assigned.items() if storage.bits is not None}
    return WeightStorage(
        dtype=DTYPES[recipe.float_type],
        quantized=quantized,
        prefill=prefill,
        greedy_token=recipe.greedy_token,
        own_table=recipe.own_table,
        kv_cache=recipe.kv_cache,
    )


def weight_tables(config: LlavaConfig, *, prefill: bool) -> dict[str, dict[str, Weight]]:
    """Every graph's parameters."""
    tables = {
        "vision_encoder": vision_encoder_weights(config),
        "embedding": embedding_weights(config),
        "decoder": decoder_weights(config),
    }
    return tables | ({"prefill": prefill_weights(config)} if prefill else {})


def weight_bytes(form: WeightStorage, config: LlavaConfig) -> list[int]:
    """Bytes of every parameter that the bundle is going to hold; a tied table is the head's."""
    sizes = [_bytes(form, f"{graph}/{name}", weight) for graph, name, weight in _all(config, form)]
    if RESIDUAL_HEAD in form.quantized:
        sizes.append(_residual_bytes(form, config))
    return [*sizes, _angle_bytes(form, config), _step_bytes(form, config)]


def graph_bytes(form: WeightStorage, config: LlavaConfig) -> dict[str, int]:
    """The same by graph."""
    sizes: dict[str, int] = {}
    for graph, name, weight in _all(config, form):
        sizes[graph] = sizes.get(graph, 0) + _bytes(form, f"{graph}/{name}", weight)
    if RESIDUAL_HEAD in form.quantized:
        sizes["decoder"] += _residual_bytes(form, config)
    sizes["decoder"] += _angle_bytes(form, config) + _step_bytes(form, config)
    return sizes


def _angle_bytes(form: WeightStorage, config: LlavaConfig) -> int:
    """Of the rotary tables."""
    return config.text.max_position_embeddings * config.text.head_dim * form.angle_dtype.itemsize


def _step_bytes(form: WeightStorage, config: LlavaConfig) -> int:
    """Of the steps of keys and values in 8 bits, float32 for each of their channels."""
    text = config.text
    channels = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    return 0 if form.kv_cache == "float" else 4 * channels


def _residual_bytes(form: WeightStorage, config: LlavaConfig) -> int:
    """Of the lower half of the head's bits, which has no scales of its own."""
    head = decoder_weights(config)["lm_head.weight"]
    return residual_bytes(head.shape[0], head.shape[1], form.quantized[RESIDUAL_HEAD])


def _all(config: LlavaConfig, form: WeightStorage) -> list[tuple[str, str, Weight]]:
    return [
        (graph, name, weight)
        for graph, table in weight_tables(config, prefill=form.prefill).items()
        for name, weight in table.items()
        if graph != "embedding" or form.own_table or not config.tie_word_embeddings
    ]


def _bytes(form: WeightStorage, name: str, weight: Weight) -> int:
    storage = form.quantized.get(name, FLOAT)
    if storage.bits is None:
        wide = len(weight.shape) == 4  # patch convolutions stay float32
        return math.prod(weight.shape) * (4 if wide else form.dtype.itemsize)
    columns = weight.sources[0][1][1]
    return bytes_of(math.prod(weight.shape) // columns, columns, storage, form.dtype.itemsize)


def bytes_of(rows: int, columns: int, storage: Storage, scale_bytes: int) -> int:
    """Bytes of a quantised matrix."""
    assert storage.bits is not None
    if storage.by_column:
        return rows * (columns + scale_bytes)
    blocks = -(-columns // storage.block_size)
    zero_points = 0 if storage.symmetric else -(-blocks * storage.bits // 8)
    return rows * (blocks * (storage.block_size * storage.bits // 8 + scale_bytes) + zero_points)


def precision_of(recipe: Recipe, form: WeightStorage, *, rotated: bool) -> Precision:
    """As the manifest has it: what most of the smallest weights have in common, and which others have more bits."""
    quantized = form.quantized
    plain = Precision(
        name=recipe.float_type,
        recipe=recipe.name,
        float_type=recipe.float_type,
        rotated=rotated,
    )
    if not quantized:
        return plain
    fewest = min(storage.bits or 0 for storage in quantized.values())
    most = Counter(s for s in quantized.values() if s.bits == fewest).most_common(1)[0][0]
    return replace(
        plain,
        name=most.weights,
        bits=most.bits,
        block_size=most.block_size,
        symmetric=most.symmetric,
        accuracy_level=most.accuracy_level,
        quantized=tuple(quantized),
        other_bits={
            name: s.bits for name, s in quantized.items() if s.bits is not None and s.bits != most.bits
        },
    )
