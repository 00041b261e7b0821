"""Recipes: how each matrix of a bundle is stored, as data.

Enters: the name of one of pumice's own (`export/recipes/*.toml`) or a file; docs/recipes.md describes every key.
Leaves: a frozen `Recipe`, and what it says of each matrix of a model (`assign`). Cheap to import.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from pumice.errors import UsageError
from pumice.manifest.regular_file import named, read_regular

PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "int4"]

PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)

RECIPE_OF: dict[PrecisionName, str] = {
    "fp32": "portable-fp32",
    "fp16": "cuda-fp16",
    "bf16": "cuda-bf16",
    "int8": "cpu-int8",
    "int4": "cpu-int4",
}
"""The recipe that a precision without further words means."""

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
"""pumice's own recipes."""

FloatType = Literal["fp32", "fp16", "bf16"]
Weights = Literal["float", "int8", "int4"]
Activations = Literal["float", "int8"]
Search = Literal["none", "k-quant", "activations"]
SEARCHES: tuple[Search, ...] = ("none", "k-quant", "activations")
KvCache = Literal["float", "int8"]
KV_CACHES: tuple[KvCache, ...] = get_args(KvCache)

_MOST_BYTES = 1 << 20
"""Of a recipe's file."""
BLOCK_SIZES = (16, 32, 64, 128, 256)
ACCURACY_LEVELS = range(5)
_BITS: dict[Weights, int] = {"int8": 8, "int4": 4}
_LAYER = re.compile(r"(?<=\blayers\.)-?\d+(?=\.)")


class Storage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a matrix is stored. All keys but `weights` are of quantised ones.

    `block_size` columns share a scale; `symmetric` blocks have no zero point; `search` is how scales are found;
    `accuracy_level` is MatMulNBits' choice of arithmetic: 0 and 1 as the activations are, 4 int8 activations with one
    scale a block.

    `activations = "int8"` is another arithmetic for int8 weights: integer products of rows and columns that have one
    scale each, whatever the keys above say.
    """

    weights: Weights = "float"
    activations: Activations = "float"
    block_size: int = 32
    symmetric: bool = True
    search: Search = "none"
    accuracy_level: int = 4

    def __post_init__(self) -> None:
        if self.block_size not in BLOCK_SIZES:
            raise UsageError(f"block size is {self.block_size}, expected 16, 32, 64, 128 or 256")
        if self.accuracy_level not in ACCURACY_LEVELS:
            raise UsageError(f"accuracy_level is {self.accuracy_level}, expected 0 to 4")

    @property
    def by_column(self) -> bool:
        """Whether an output column has one scale, rather than one for each of its blocks."""
        return self.activations == "int8" and self.weights == "int8"

    @property
    def bits(self) -> int | None:
        """Of a stored integer; None where weights stay float."""
        return _BITS.get(self.weights)


FLOAT = Storage()


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keys of `Storage` for the matrices whose `graph/parameter` the glob `match` fits; None leaves a key as it is."""

    match: str
    weights: Weights | None = None
    activations: Activations | None = None
    block_size: int | None = None
    symmetric: bool | None = None
    search: Search | None = None
    accuracy_level: int | None = None

    def changes(self) -> dict[str, Any]:
        """The keys that are given."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key != "match"}

    def __post_init__(self) -> None:
        msgspec.structs.replace(FLOAT, **self.changes())  # what is out of range should say so here


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to export.

    `float_type` is of activations and of all weights that stay float; `rotate` turns the residual stream at export,
    `balance` evens out the input channels of the decoder's matrices. With `prefill` the bundle has the decoder's layers
    a second time, stored like this, for prompts. With `refine_head` a 4-bit head has four more bits beside it, from
    which the best logits are computed again. With `own_table` a tied model's table is stored by itself, as `embedding`
    says, beside the head: where a browser finds it. With `greedy_token` the decoder also gives the greedy token, so
    that logits can stay on the device that computed them. `kv_cache` is how keys and values are kept: in the float type
    of attention, or in 8 bits.
    """

    name: str
    description: str = ""
    float_type: FloatType = "fp32"
    rotate: bool = False
    balance: bool = False
    refine_head: bool = False
    own_table: bool = False
    greedy_token: bool = False
    kv_cache: KvCache = "float"
    vision_encoder: Storage = FLOAT
    embedding: Storage = FLOAT
    decoder: Storage = FLOAT
    prefill: Storage | None = None
    override: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        parts: list[Storage | Override] = [*_graphs(self).values(), *self.override]
        if self.float_type != "fp32" and any(part.activations == "int8" for part in parts):
            raise UsageError(
                f"activations are int8 in a recipe with float_type {self.float_type}, expected fp32"
            )
        if self.float_type != "fp32" and self.kv_cache != "float":
            raise UsageError(
                f"kv_cache is {self.kv_cache} in a recipe with float_type {self.float_type}, expected fp32: attention "
                "over such a cache was measured on CPUs alone"
            )

    @property
    def calibrated(self) -> bool:
        """Whether activations decide how weights are stored."""
        parts: list[Storage | Override] = [self.decoder, *self.override]
        return self.balance or any(part.search == "activations" for part in parts)

    @property
    def precision(self) -> PrecisionName:
        """The precision in one word: that of the smallest weights."""
        stored = {storage.weights for storage in _graphs(self).values()}
        stored |= {part.weights for part in self.override if part.weights is not None}
        return "int4" if "int4" in stored else "int8" if "int8" in stored else self.float_type

    def with_kv_cache(self, kv_cache: KvCache | None) -> Recipe:
        """The recipe with keys and values kept otherwise; None leaves them as they are.

        Raises:
            UsageError: there is no such cache, or not for the recipe's float type.
        """
        if kv_cache is None:
            return self
        if kv_cache not in KV_CACHES:
            raise UsageError(f"kv_cache is {kv_cache!r}, expected one of {', '.join(KV_CACHES)}")
        return msgspec.structs.replace(self, kv_cache=kv_cache)

    def with_storage(self, **changes: Any) -> Recipe:
        """The recipe with other keys for all that it quantises; keys that are None stay.

        Raises:
            UsageError: a value out of range, or a recipe that quantises nothing.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        if not given:
            return self
        if self.precision == self.float_type:
            key = next(iter(given)).replace("_", " ")
            raise UsageError(f"{key} is for int4 and int8: the recipe {self.name} quantises nothing")
        graphs = {
            name: msgspec.structs.replace(storage, **given)
            for name, storage in _graphs(self).items()
            if storage.bits is not None
        }
        override = tuple(
            msgspec.structs.replace(
                part, **{key: given[key] for key in given if getattr(part, key) is not None}
            )
            for part in self.override
        )
        return msgspec.structs.replace(self, **graphs, override=override)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """One of pumice's own recipes by name, or a TOML file.

    Raises:
        UsageError: no such recipe, not TOML, or a key or value that is not understood; the message names both.
    """
    text = str(name_or_path)
    path = FOLDER / f"{text}.toml" if text in NAMES else named(name_or_path)
    if text not in NAMES and path.suffix != ".toml":
        raise UsageError(f"recipe is {text!r}, expected one of {', '.join(NAMES)}, or a .toml file")
    try:
        raw = tomllib.loads(read_regular(path, _MOST_BYTES).decode())
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    try:
        return msgspec.convert({"name": path.stem} | raw, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is not a recipe: {error} (docs/recipes.md lists the keys)") from None


def assign(recipe: Recipe, matrices: Sequence[str]) -> dict[str, Storage]:
    """What the recipe says of each of a model's matrices, by `graph/parameter`; later overrides win.

    `layers.-1` in a pattern is the graph's last layer, `layers.-2` the one before, …

    Raises:
        UsageError: a pattern that matches none of them.
    """
    graphs, layers = _graphs(recipe), _layers(matrices)
    assigned = {name: graphs[name.partition("/")[0]] for name in matrices}
    for override in recipe.override:
        matched = [name for name in matrices if _matches(override.match, name, layers)]
        if not matched:
            raise UsageError(
                f"recipe {recipe.name}: the override {override.match!r} matches no matrix of this model; "
                f"it has {_examples(matrices)}"
            )
        for name in matched:
            assigned[name] = msgspec.structs.replace(assigned[name], **override.changes())
    return assigned


def _graphs(recipe: Recipe) -> dict[str, Storage]:
    graphs = {name: getattr(recipe, name) for name in ("vision_encoder", "embedding", "decoder", "prefill")}
    return {name: storage for name, storage in graphs.items() if storage is not None}


def _layers(matrices: Iterable[str]) -> dict[str, int]:
    """How many layers each graph has."""
    counts: dict[str, int] = {}
    for name in matrices:
        graph = name.partition("/")[0]
        for layer in _LAYER.findall(name):
            counts[graph] = max(counts.get(graph, 0), int(layer) + 1)
    return counts


def _matches(pattern: str, name: str, layers: Mapping[str, int]) -> bool:
    count = layers.get(name.partition("/")[0], 0)

    def from_the_front(match: re.Match[str]) -> str:
        return str(int(match[0]) + count) if match[0].startswith("-") else match[0]

    return fnmatchcase(name, _LAYER.sub(from_the_front, pattern))


def _examples(matrices: Sequence[str]) -> str:
    """The names without repetition of layers."""
    kinds: Mapping[str, None] = dict.fromkeys(_LAYER.sub("*", name) for name in matrices)
    return ", ".join(kinds)
