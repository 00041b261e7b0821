"""A checkpoint becomes a bundle: the main road through this package.

open_checkpoint → read_config → check_names → trace ×3 → write weights and graphs → companions → manifest
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from pumice.errors import CheckpointError, UsageError
from pumice.export import companions
from pumice.export.bundle import file_entries, write_manifest, writing_bundle
from pumice.export.checkpoint import Checkpoint, open_checkpoint
from pumice.export.config import read_config
from pumice.export.graphs import Graph, decoder_graph, embedding_graph, vision_encoder_graph, write_graph
from pumice.export.padding import pad_heads
from pumice.export.precision import PRECISIONS, PrecisionName
from pumice.export.progress import Progress, showing
from pumice.export.quantization import Int4
from pumice.export.tracing import OPSET
from pumice.export.tying import as_stored
from pumice.export.weight_stream import Read
from pumice.manifest import (
    DecoderShape,
    Graphs,
    GraphSpec,
    Manifest,
    Precision,
    Requires,
    Source,
    version_for,
)
from pumice.models.config import LlavaConfig
from pumice.models.tensor_names import canonical_name, check_names
from pumice.models.text_weights import decoder_weights, embedding_weights
from pumice.models.vision_weights import vision_encoder_weights

MINIMUM_ONNXRUNTIME = "1.23.0"
IR_VERSION = 10
MANIFEST_BYTES = 1 << 20
"""Room for graphs' structure, manifest and parity beside weights and companions."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known of an export before the first byte is written."""

    checkpoint: Checkpoint
    config: LlavaConfig
    read: Read
    precision: PrecisionName
    scheme: Int4 | None


def export_bundle(
    checkpoint: str | Path,
    bundle: Path,
    *,
    precision: PrecisionName = "fp32",
    block_size: int | None = None,
    overwrite: bool = False,
    verify: bool = False,
    quiet: bool = True,
) -> Manifest:
    """Export a LLaVA checkpoint (a folder, or a hub id) to the folder `bundle`.

    Args:
        checkpoint: folder in Hugging Face layout with safetensors, or `org/name` on the hub.
        bundle: where the bundle goes; it appears there whole, or not at all.
        precision: `fp32`, or `int4` for 4-bit weights of the decoder and the embedding table.
        block_size: columns that share a scale in `int4`: 16, 32 (the default), 64, 128 or 256.
        overwrite: replace a bundle that is there already.
        verify: compare with transformers before the bundle is moved into place (`pumice.export.verify`).
        quiet: show no progress on stderr.

    Returns:
        The manifest as written.

    Raises:
        CheckpointError: the checkpoint cannot be read or is not supported.
        ExportError: the destination exists, the disk is full, or a graph could not be made.
        UsageError: an unknown precision or block size, or a block size without `int4`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    scheme = _scheme(precision, block_size)
    with showing(quiet=quiet) as progress:
        opened = open_checkpoint(checkpoint, progress=progress)
        config = as_stored(read_config(opened.config), opened)
        _check_tensors(opened, config)
        config, read = pad_heads(config, _reader(opened))
        plan = Plan(checkpoint=opened, config=config, read=read, precision=precision, scheme=scheme)
        return _export(plan, bundle, overwrite, verify, progress)


def _scheme(precision: PrecisionName, block_size: int | None) -> Int4 | None:
    if precision == "int4":
        return Int4() if block_size is None else Int4(block_size=block_size)
    if block_size is not None:
        raise UsageError(f"a block size is for int4: the precision is {precision}")
    return None


def _export(plan: Plan, bundle: Path, overwrite: bool, verify: bool, progress: Progress) -> Manifest:
    needed = _needed_bytes(plan)
    with torch.no_grad(), writing_bundle(bundle, overwrite=overwrite, needed_bytes=needed) as folder:
        described = companions.describe(plan.checkpoint, plan.config)
        decoder, embedding, vision = _trace(plan, progress)
        specs = _write(decoder, embedding, vision, folder, progress)
        companions.copy(plan.checkpoint, folder)
        progress.stage("checksums")
        manifest = Manifest(
            schema_version=version_for(described["image"]),
            created_with={
                name: version(name) for name in ("pumice", "torch", "onnx", "onnxscript", "onnxsim")
            },
            requires=Requires(onnxruntime=MINIMUM_ONNXRUNTIME, opset=OPSET, ir_version=IR_VERSION),
            source=_source(plan),
            precision=_precision(plan, (decoder, embedding)),
            graphs=specs,
            decoder=_decoder_shape(plan.config),
            files=file_entries(folder),
            **described,
        )
        write_manifest(folder, manifest)
        if verify:
            from pumice.export.verify import verify_bundle  # loads transformers' models

            manifest = verify_bundle(folder, plan.checkpoint.path, progress=progress).manifest
    return manifest


def _trace(plan: Plan, progress: Progress) -> tuple[Graph, Graph, Graph]:
    graphs = []
    progress.stage("tracing decoder, embedding, vision_encoder", steps=3)
    for make in (decoder_graph, embedding_graph, vision_encoder_graph):
        graph = make(plan.config, plan.read, plan.scheme)
        counts = graph.counts
        progress.note(
            f"{graph.name}: {counts.traced} nodes traced, {counts.optimized} after onnxscript, "
            f"{counts.simplified} after onnxsim"
        )
        progress.advance()
        graphs.append(graph)
    return graphs[0], graphs[1], graphs[2]


def _write(decoder: Graph, embedding: Graph, vision: Graph, folder: Path, progress: Progress) -> Graphs:
    """The decoder goes first: a tied embedding table points into its weights."""
    specs: dict[str, GraphSpec] = {}
    for graph in (decoder, embedding, vision):
        progress.stage(f"{graph.name}: weights", total_bytes=graph.nbytes)
        specs[graph.name] = write_graph(graph, folder, decoder, progress.advance)
    return Graphs(**specs)


def _reader(checkpoint: Checkpoint) -> Read:
    names = {canonical_name(name): name for name in checkpoint.tensors}
    return lambda name, start, stop: checkpoint.read_rows(names[name], start, stop)


def _check_tensors(checkpoint: Checkpoint, config: LlavaConfig) -> None:
    """Every tensor is there, once, in the shape that the config makes it; raises CheckpointError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, info in checkpoint.tensors.items():
        canonical = canonical_name(name)
        if canonical in shapes:
            raise CheckpointError(
                f"the checkpoint has the tensor {canonical} twice, under different prefixes"
            )
        shapes[canonical] = tuple(info.shape)
    check_names(config, shapes)


def _needed_bytes(plan: Plan) -> int:
    """Bytes of the bundle's weights, and a little over."""
    tables = (
        vision_encoder_weights(plan.config),
        embedding_weights(plan.config),
        decoder_weights(plan.config),
    )
    total = MANIFEST_BYTES + companions.nbytes(plan.checkpoint)
    for table in tables:
        for weight in table.values():
            matrix = plan.scheme and len(weight.shape) == 2 and table is not tables[0]
            bits = 4 + 32 / plan.scheme.block_size if matrix and plan.scheme else 32
            total += int(math.prod(weight.shape) * bits / 8)
    return total


def _source(plan: Plan) -> Source:
    raw = plan.checkpoint.config
    return Source(
        checkpoint=plan.checkpoint.name,
        model_type=raw.get("model_type", "llava"),
        vision_model_type=raw.get("vision_config", {}).get("model_type", "clip_vision_model"),
        text_model_type=raw.get("text_config", {}).get("model_type", "llama"),
        dtype=plan.checkpoint.dtype,
        config_sha256=plan.checkpoint.config_sha256,
    )


def _precision(plan: Plan, graphs: tuple[Graph, ...]) -> Precision:
    if plan.scheme is None:
        return Precision(name=plan.precision)
    return Precision(
        name=plan.precision,
        bits=4,
        block_size=plan.scheme.block_size,
        symmetric=True,
        accuracy_level=plan.scheme.accuracy_level,
        quantized=tuple(f"{graph.name}/{name}" for graph in graphs for name in graph.quantized),
    )


def _decoder_shape(config: LlavaConfig) -> DecoderShape:
    text = config.text
    return DecoderShape(
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        kv_dtype="float32",
    )
