"""A graph without weights, found in the user's cache, or traced and kept there.

Enters: what is wanted. Leaves: its structure. torch's exporter, onnxscript and onnxsim take seconds to import: they are
imported where something has to be traced. What was traced goes through the bytes that are kept, so that it is the same
structure that is used now and found later.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx import ModelProto

from pumice.export.passes.counts import NodeCounts
from pumice.export.structure.kept import Entry, find, keep
from pumice.export.structure.wanted import Wanted, key_of

if TYPE_CHECKING:
    from pumice.export.trace.tracing import Traced


@dataclass(frozen=True, kw_only=True)
class Structure:
    """`inputs` are the caller's, all other inputs of the graph are parameters; `found`: nothing was traced."""

    model: ir.Model
    inputs: tuple[str, ...]
    counts: NodeCounts
    found: bool


def structure_of(wanted: Wanted, *, cached: bool = True) -> Structure:
    """The structure; without `cached` it is traced whatever there is, and nothing is kept."""
    key = key_of(wanted) if cached else None
    entry = None if key is None else find(key)
    if entry is not None:
        return _structure(entry, found=True)
    made = _made(wanted, key or "")
    if key is not None:
        keep(made)
    return _structure(made, found=False)


def _made(wanted: Wanted, key: str) -> Entry:
    from pumice.export.passes.simplify import simplify

    traced = _traced(wanted)
    model, counts = simplify(traced)
    return Entry(
        key=key,
        model=ir.to_proto(model).SerializeToString(deterministic=True),
        inputs=traced.inputs,
        counts=astuple(counts),
    )


def _traced(wanted: Wanted) -> Traced:
    from pumice.export.trace.decoder import trace_decoder, trace_prefill
    from pumice.export.trace.embedding import trace_embedding
    from pumice.export.trace.vision_encoder import trace_vision_encoder

    config, dtype = wanted.config, wanted.dtype
    match wanted.graph:
        case "vision_encoder":
            return trace_vision_encoder(config, dtype)
        case "embedding":
            return trace_embedding(config, dtype)
        case "decoder":
            return trace_decoder(config, dtype, greedy=wanted.greedy)
        case "prefill":
            return trace_prefill(config, dtype)


def _structure(entry: Entry, *, found: bool) -> Structure:
    proto = ModelProto()
    proto.ParseFromString(entry.model)
    traced, optimized, simplified = entry.counts
    counts = NodeCounts(traced=traced, optimized=optimized, simplified=simplified)
    return Structure(model=ir.from_proto(proto), inputs=entry.inputs, counts=counts, found=found)
