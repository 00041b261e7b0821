"""Which matrices keep the integers that the checkpoint has, and what a recipe may then still do.

Enters: a recipe, what it makes of a model, and the checkpoint. Leaves: the same with those matrices' blocks as the file
has them, and a recipe that leaves their values alone; or a refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from pumice.errors import CheckpointError, UsageError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.checkpoint.integer_matrix import IntegerMatrix
from pumice.export.recipes.recipe import BLOCK_SIZES, Recipe, Storage
from pumice.export.recipes.storage import WeightStorage, storage_of, weight_tables
from pumice.export.weights.heads import pad_heads
from pumice.export.weights.plain import make_plain
from pumice.models.config import LlavaConfig, Multipliers
from pumice.models.tensor_names import canonical_name
from pumice.models.text_weights import stored_name

_WIDEST = 128
"""Block of a row that has one scale."""


def keep_integers(
    form: WeightStorage, config: LlavaConfig, matrices: Mapping[str, IntegerMatrix]
) -> WeightStorage:
    """`form` with the file's blocks where the decoder's layers are to be in 4-bit blocks anyway."""
    kept: dict[str, Storage] = {}
    for name, weight in weight_tables(config, prefill=False)["decoder"].items():
        storage = form.quantized.get(f"decoder/{name}")
        if not name.startswith("layers.") or storage is None or storage.bits != 4:
            continue
        sources = [matrices.get(stored_name(config.text, source)) for source, _ in weight.sources]
        own = {_storage(storage, matrix) for matrix in sources}
        found = own.pop() if len(own) == 1 else None
        if found is not None:
            kept[f"decoder/{name}"] = found
    return replace(form, quantized={**form.quantized, **kept}, kept=frozenset(kept), integers=matrices)


def _storage(storage: Storage, matrix: IntegerMatrix | None) -> Storage | None:
    """How its blocks are stored; None where they cannot be."""
    if matrix is None:
        return None
    group, columns = matrix.group, matrix.info.shape[1]
    sizes = [size for size in BLOCK_SIZES if group % size == 0]
    if group not in BLOCK_SIZES and group == columns:
        size = _WIDEST
    elif sizes:
        size = max(sizes)
    else:
        return None
    return msgspec.structs.replace(storage, block_size=size, symmetric=matrix.symmetric, search="none")


def leaving_integers_alone(
    recipe: Recipe, config: LlavaConfig, checkpoint: Checkpoint, options: Mapping[str, object]
) -> tuple[Recipe, bool]:
    """A recipe that changes no matrix whose integers it would store, and whether there are any; else as it came.

    `options` are what the user says of rounding, None where nothing.

    Raises:
        UsageError: an option about matrices that are not rounded.
        CheckpointError: a model whose own arithmetic changes them.
    """
    if not keep_integers(storage_of(recipe, config), config, checkpoint.integers).kept:
        return recipe, False
    for name, given in options.items():
        if given is not None:
            raise UsageError(
                f"{name} is {given}, but the checkpoint's layers are in 4-bit integers already, which are kept: "
                "leave it out"
            )
    changed, _ = pad_heads(*make_plain(config, checkpoint.read_canonical))
    # norms and tables may change, matrices not
    matrices = tuple(pair for pair in config.text.renamed if pair[0].startswith(("self_attn.", "mlp.")))
    beside = replace(config.text, norm_offset=0.0, multipliers=Multipliers(), renamed=matrices)
    if changed.text != beside or config.text.multipliers.residual != 1:
        raise CheckpointError(
            f"{checkpoint.path} has 4-bit integers, and the weights of this model are changed at export (heads padded "
            "or sorted, matrices renamed or split, or Granite's multipliers): expected --precision fp32, fp16, bf16 "
            "or int8"
        )
    return _changing_nothing(recipe), True


def _changing_nothing(recipe: Recipe) -> Recipe:
    """Without what would change matrices before they are stored, or look for scales by what goes into them."""
    changes = {"rotate": False, "balance": False}
    graphs = {
        name: msgspec.structs.replace(part, search="k-quant")
        for name in ("vision_encoder", "embedding", "decoder", "prefill")
        if (part := getattr(recipe, name)) is not None and part.search == "activations"
    }
    override = tuple(
        msgspec.structs.replace(part, search="k-quant") if part.search == "activations" else part
        for part in recipe.override
    )
    return msgspec.structs.replace(recipe, **changes, **graphs, override=override)


def warn_of_second_rounding(form: WeightStorage, config: LlavaConfig, checkpoint: Checkpoint) -> None:
    """Say which of the checkpoint's integers, and entries of tables, are rounded once more."""
    rounded = {
        canonical_name(name): matrix.kind
        for name, matrix in checkpoint.quantised.items()
        if not matrix.kind.startswith("float")
    }
    twice = [
        (name, rounded[source])
        for graph, table in weight_tables(config, prefill=form.prefill).items()
        for name, weight in ((f"{graph}/{key}", weight) for key, weight in table.items())
        for source in (stored_name(config.text, source) for source, _ in weight.sources)
        if source in rounded and name in form.quantized and name not in form.kept
    ]
    if twice:
        logging.getLogger("pumice").warning(
            "%s: %d matrices are %s already and are quantised a second time, which costs accuracy (%s, …)",
            checkpoint.name,
            len({name for name, _ in twice}),
            ", ".join(sorted({kind for _, kind in twice})),
            twice[0][0],
        )
