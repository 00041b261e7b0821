"""A checkpoint becomes a bundle: the main road through this package.

open_checkpoint → read_config → check_names → trace or find ×3 → write weights and graphs → companions → manifest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
import torch

from pumice.errors import CheckpointError, UsageError
from pumice.export.adapters.folder import Adapter, OpenedAdapter, open_adapters
from pumice.export.adapters.merged import merge_adapters
from pumice.export.bundle.destination import check_destination, keep_apart, resolved
from pumice.export.bundle.layout import GraphFiles, graph_files
from pumice.export.bundle.writing import file_entries, write_card, write_manifest, writing_bundle
from pumice.export.calibration.embeds import calibration_embeds, calibration_pixels
from pumice.export.calibration.moments import Calibration
from pumice.export.calibration.tokens import random_tokens, read_text, text_tokens
from pumice.export.checkpoint.card import base_model_of, license_in
from pumice.export.checkpoint.folder import Checkpoint, open_checkpoint
from pumice.export.checkpoint.support import adapter_hint
from pumice.export.clients.writing import write_clients
from pumice.export.config.llava import limit_context, limit_tiles, model_types, read_config
from pumice.export.config.tying import as_stored
from pumice.export.graphs import (
    Graph,
    LayerInputs,
    decoder_graph,
    embedding_graph,
    lowest_onnxruntime,
    prefill_graph,
    vision_encoder_graph,
    write_graph,
)
from pumice.export.processor import describe as companions
from pumice.export.processor.load import load_processor
from pumice.export.processor.videos import with_known_videos
from pumice.export.progress import Progress, showing
from pumice.export.recipes.browsers import warn_of_sizes
from pumice.export.recipes.recipe import (
    PRECISIONS,
    RECIPE_OF,
    KvCache,
    PrecisionName,
    Recipe,
    Search,
    load_recipe,
)
from pumice.export.recipes.storage import WeightStorage, precision_of, storage_of, weight_bytes
from pumice.export.weights.balance import ChannelBalance
from pumice.export.weights.heads import pad_heads
from pumice.export.weights.kept_integers import (
    keep_integers,
    leaving_integers_alone,
    warn_of_second_rounding,
)
from pumice.export.weights.multipliers import warn_of_words_alone
from pumice.export.weights.norms import fold_norms
from pumice.export.weights.plain import make_plain
from pumice.export.weights.rotation import rotatable, rotate
from pumice.export.weights.stream import ALIGNMENT
from pumice.manifest import (
    DecoderShape,
    Graphs,
    GraphSpec,
    Manifest,
    Requires,
    Source,
    version_for,
)
from pumice.models.config import LlavaConfig
from pumice.models.tensor_names import check_names
from pumice.models.weights import Read

IR_VERSION = 10
MANIFEST_BYTES = 1 << 20
"""Room for graphs' structure, manifest and parity beside weights and companions."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known of an export before the first byte is written."""

    checkpoint: Checkpoint
    config: LlavaConfig
    read: Read
    recipe: Recipe
    form: WeightStorage
    inputs: LayerInputs | None = None
    adapters: tuple[OpenedAdapter, ...] = ()
    clients: bool = True
    graph_cache: bool = True


def export_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    precision: PrecisionName | None = None,
    block_size: int | None = None,
    symmetric: bool | None = None,
    search: Search | None = None,
    calibrate: str | Path | None = None,
    kv_cache: KvCache | None = None,
    context_length: int | None = None,
    max_tiles: int | None = None,
    adapters: Sequence[str | Path | Adapter] = (),
    clients: bool = True,
    graph_cache: bool = True,
    overwrite: bool = False,
    verify: bool = False,
    quiet: bool = True,
) -> Manifest:
    """Export a LLaVA checkpoint (a folder, or a hub id) to the folder `bundle`.

    Args:
        checkpoint: folder in Hugging Face layout with safetensors, or `org/name` on the hub.
        bundle: where the bundle goes; it appears there whole, or not at all.
        recipe: how weights are stored: the name of one of pumice's own recipes, a TOML file, or a `Recipe`
            (docs/recipes.md); `portable-fp32` where neither this nor a precision is given.
        precision: instead of a recipe: `fp32`, `fp16`, `bf16`, `int8` or `int4`, for the usual one of each.
        block_size: columns that share a scale, 16, 32, 64, 128 or 256, in place of the recipe's own.
        symmetric: quantised blocks without zero points, or with, in place of the recipe's own.
        search: how scales are found, `none`, `k-quant` or `activations`, in place of the recipe's own.
        calibrate: a text file, or `text` for pumice's own: the decoder's activations are measured on it instead of on
            random tokens, and rounding errors are fed back (GPTQ). For recipes that go by activations.
        kv_cache: how keys and values are kept, `float` or `int8`, in place of the recipe's own
            (docs/decisions/kv-cache-type.md).
        context_length: most tokens of a sequence; by default the checkpoint's context, up to 131,072.
        max_tiles: of a model that cuts images into tiles (LLaVA-NeXT, LLaVA-OneVision), most of them: grids of more
            are left out. Fewer tiles are fewer tokens and less detail.
        adapters: LoRA adapters of PEFT's, folders or hub ids, merged in this order while weights are read
            (docs/adapters.md); an `Adapter` has a scale, too.
        clients: also write what Transformers.js and onnxruntime-genai need beside the graphs (docs/clients.md).
        graph_cache: take the structure of graphs from the user's cache where an equal model was exported before, and
            keep it there; without, all are traced (docs/decisions/graph-cache.md). The bundle is the same.
        overwrite: replace a bundle that is there already, if nobody has put anything else into its folder.
        verify: compare with transformers before the bundle is moved into place (`pumice.export.verify.comparison`).
        quiet: show no progress on stderr.

    Returns:
        The manifest as written.

    Raises:
        CheckpointError: the checkpoint or an adapter cannot be read or is not supported.
        ExportError: the destination exists, the disk is full, or a graph could not be made.
        UsageError: an unknown recipe, precision or block size, a block size for a recipe that quantises nothing, a
            text for a recipe that does not calibrate, a context that the checkpoint does not have, or tiles likewise.
    """
    chosen = _recipe(recipe, precision).with_kv_cache(kv_cache)
    chosen = chosen.with_storage(block_size=block_size, symmetric=symmetric, search=search)
    if calibrate is not None and not chosen.calibrated and chosen.kv_cache == "float":
        raise UsageError(
            f"there is a text to calibrate by, and the recipe {chosen.name} goes by no activations: "
            'expected balance = true, search = "activations" or kv_cache = "int8" (docs/recipes.md)'
        )
    text = None if calibrate is None else read_text(calibrate)
    destination = resolved(bundle)
    check_destination(destination, overwrite)  # before hours of work; once more when it is moved into place
    with showing(quiet=quiet) as progress:
        opened = open_checkpoint(checkpoint, progress=progress)
        merged = open_adapters(adapters, progress)
        for path in (opened.path, *(adapter.path for adapter in merged)):
            keep_apart(destination, path)
        config = as_stored(read_config(opened.config), opened)
        _check_tensors(config, opened)
        opened = merge_adapters(opened, merged, tied=config.tie_word_embeddings)
        config = with_known_videos(opened, limit_tiles(limit_context(config, context_length), max_tiles))
        options = {
            "block size": block_size,
            "symmetric": symmetric,
            "search": search,
            "calibration": calibrate,
        }
        chosen, keeping = leaving_integers_alone(chosen, config, opened, options)
        plan = _planned(opened, config, chosen, text, keeping=keeping)
        plan = replace(plan, adapters=merged, clients=clients, graph_cache=graph_cache)
        return _export(plan, destination, overwrite, verify, progress)


def _planned(
    checkpoint: Checkpoint, config: LlavaConfig, recipe: Recipe, text: str | None, *, keeping: bool
) -> Plan:
    """How each matrix is stored, and the reader of its rows; with `keeping`, integers of the checkpoint stay."""
    warn_of_words_alone(config)
    plain, read = pad_heads(*make_plain(config, checkpoint.read_canonical))
    turned, read = rotate(plain, read) if recipe.rotate and rotatable(plain) else (plain, read)
    form = storage_of(recipe, turned)
    form = keep_integers(form, turned, checkpoint.integers) if keeping else form
    warn_of_second_rounding(form, config, checkpoint)
    warn_of_sizes(recipe, form, turned)
    read, inputs = _calibrated(recipe, turned, read, checkpoint, text)
    folded, read = fold_norms(turned, read) if form.of("vision_encoder") else (turned, read)
    return Plan(checkpoint=checkpoint, config=folded, read=read, recipe=recipe, form=form, inputs=inputs)


def _check_tensors(config: LlavaConfig, checkpoint: Checkpoint) -> None:
    try:
        check_names(config, checkpoint.shapes())
    except CheckpointError as error:
        raise CheckpointError(f"{error}{adapter_hint(checkpoint.path)}") from None


def _recipe(recipe: str | Path | Recipe | None, precision: PrecisionName | None) -> Recipe:
    if recipe is not None and precision is not None:
        raise UsageError(f"a recipe and the precision {precision!r} were given: expected one of them")
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return load_recipe(recipe)
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    return load_recipe(RECIPE_OF[precision or "fp32"])


def _calibrated(
    recipe: Recipe, config: LlavaConfig, read: Read, checkpoint: Checkpoint, text: str | None
) -> tuple[Read, LayerInputs | None]:
    """The reader of what is stored, and what is known of its inputs, where the recipe goes by activations."""
    if not recipe.calibrated and recipe.kv_cache == "float":
        return read, None
    processor = load_processor(checkpoint.path, config)
    tokenizer = processor.tokenizer
    tokens = (
        random_tokens(tokenizer, config.text) if text is None else text_tokens(tokenizer, config.text, text)
    )
    pixels = calibration_pixels(processor, len(tokens))
    embeds = partial(calibration_embeds, config, read, tokens, pixels)
    calibration = Calibration(config, read, embeds, full=text is not None and recipe.calibrated)
    if not recipe.balance:
        return read, calibration
    balance = ChannelBalance(config, read, calibration)
    return balance.read, balance


def _export(plan: Plan, bundle: Path, overwrite: bool, verify: bool, progress: Progress) -> Manifest:
    needed = _needed_bytes(plan)
    with torch.no_grad(), writing_bundle(bundle, overwrite=overwrite, needed_bytes=needed) as folder:
        described = companions.describe(plan.checkpoint, plan.config)
        precision = precision_of(plan.recipe, plan.form, rotated=plan.config.rotated)
        graphs = _trace(plan, progress)
        specs = _write(graphs, folder, graph_files(precision.name, plan.recipe.float_type), progress)
        companions.copy(plan.checkpoint, folder)
        manifest = Manifest(
            schema_version=version_for(described["image"]),
            created_with={
                name: version(name) for name in ("pumice", "torch", "onnx", "onnxscript", "onnxsim")
            },
            requires=Requires(
                onnxruntime=lowest_onnxruntime(graphs),
                opset=max(graph.model.opset_imports[""] for graph in graphs),
                ir_version=IR_VERSION,
            ),
            source=_source(plan, progress),
            precision=precision,
            graphs=specs,
            decoder=_decoder_shape(plan),
            files={},
            **described,
        )
        if plan.clients:
            write_clients(folder, manifest, plan.config)
        progress.stage("checksums")
        manifest = replace(manifest, files=file_entries(folder))
        write_manifest(folder, manifest)
        write_card(folder, manifest)
        if verify:
            from pumice.export.verify.comparison import verify_bundle  # loads transformers' models

            used = [Adapter(path=adapter.path, scale=adapter.scale) for adapter in plan.adapters]
            manifest = verify_bundle(folder, plan.checkpoint.path, adapters=used, progress=progress).manifest
    return manifest


def _trace(plan: Plan, progress: Progress) -> list[Graph]:
    """The decoder goes first: others point into its weights."""
    makers: dict[str, Callable[..., Graph]] = {
        "decoder": partial(decoder_graph, inputs=plan.inputs),
        "embedding": embedding_graph,
        "vision_encoder": vision_encoder_graph,
    }
    if plan.form.prefill:
        makers["prefill"] = prefill_graph
    progress.stage(f"tracing {', '.join(makers)}", steps=len(makers))
    graphs = []
    for make in makers.values():
        graph = make(plan.config, plan.read, plan.form, cached=plan.graph_cache)
        counts = graph.counts
        progress.note(
            f"{graph.name}: {counts.traced} nodes traced, {counts.optimized} after onnxscript, "
            f"{counts.simplified} after onnxsim{', found in the cache' if graph.found else ''}"
        )
        progress.advance()
        graphs.append(graph)
    return graphs


def _write(graphs: list[Graph], folder: Path, files: GraphFiles, progress: Progress) -> Graphs:
    specs: dict[str, GraphSpec] = {}
    for graph in graphs:
        progress.stage(f"{graph.name}: weights", total_bytes=graph.nbytes)
        specs[graph.name] = write_graph(graph, folder, files, graphs[0], progress.advance)
    return Graphs(**specs)


def _needed_bytes(plan: Plan) -> int:
    """Bytes of the bundle's weights, and a little over."""
    sizes = weight_bytes(plan.form, plan.config)
    return sum(sizes) + 3 * ALIGNMENT * len(sizes) + MANIFEST_BYTES + companions.nbytes(plan.checkpoint)


def _source(plan: Plan, progress: Progress) -> Source:
    whole, vision, text = model_types(plan.checkpoint.config)
    licence = license_in(plan.checkpoint.path)
    if licence is None:
        progress.note(f"{plan.checkpoint.name} has no card that names its licence: README.md leaves it out")
    return Source(
        checkpoint=plan.checkpoint.name,
        model_type=whole,
        vision_model_type=vision,
        text_model_type=text,
        dtype=plan.checkpoint.dtype,
        config_sha256=plan.checkpoint.config_sha256,
        adapters=tuple(adapter.applied() for adapter in plan.adapters) or msgspec.UNSET,
        base_model=base_model_of(plan.checkpoint.path) or msgspec.UNSET,
        license=licence or msgspec.UNSET,
    )


def _decoder_shape(plan: Plan) -> DecoderShape:
    text = plan.config.text
    return DecoderShape(
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        kv_dtype=_kv_dtype(plan.form),
    )


def _kv_dtype(form: WeightStorage) -> Literal["float32", "float16", "int8"]:
    if form.kv_cache == "int8":
        return "int8"
    return "float32" if form.angle_dtype == torch.float32 else "float16"
