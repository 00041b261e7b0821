"""Tracing, the slow part of an export, done once for all checkpoints that lead to the same graph.

Nothing else of an export is changed: every graph still gets its own weights and is written as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch

from pumice.export import graphs
from pumice.export.passes.simplify import NodeCounts
from pumice.export.trace.tracing import Traced
from pumice.models.config import LlavaConfig

Tracer = Callable[..., Traced]
"""Called with a config, a type, and options by name that the graph depends on."""
Key = tuple[str, Hashable]

_NO_TEXT = {"num_hidden_layers": 0, "vocab_size": 0, "inv_freq": (), "sliding_windows": ()}

READ_BY: dict[str, Callable[[LlavaConfig], Hashable]] = {
    "trace_decoder": lambda c: (replace(c.text, inv_freq=(), rotary_scale=1.0), c.tie_word_embeddings, c.rotated),
    "trace_embedding": lambda c: (c.text.hidden_size, c.text.vocab_size, c.image_token_id, c.rotated),
    "trace_vision_encoder": lambda c: replace(
        c,
        text=replace(c.text, **_NO_TEXT, max_position_embeddings=0, rms_norm_eps=0.0, rotary_scale=1.0),  # type: ignore[arg-type]
        image_token_id=0,
        tie_word_embeddings=False,
    ),
}  # fmt: skip
"""What each tracer reads of a config."""


class Retracing:
    """Remembers simplified graphs by what was read to make them."""

    def __init__(self) -> None:
        self.traces = 0
        self._done: dict[Key, tuple[bytes, Traced, NodeCounts]] = {}
        self._under_way: dict[int, tuple[Key, Traced]] = {}
        self._copies: dict[int, tuple[Traced, NodeCounts]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand in for the tracers and for the passes behind them."""
        for name, reads in READ_BY.items():
            monkeypatch.setattr(graphs, name, self._tracer(name, getattr(graphs, name), reads))
        original = graphs.simplify

        def simplify(traced: Traced) -> tuple[ir.Model, NodeCounts]:
            if id(traced) in self._copies:
                return traced.model, self._copies.pop(id(traced))[1]
            key, _ = self._under_way.pop(id(traced))
            model, counts = original(traced)
            self._done[key] = ir.to_proto(model).SerializeToString(), traced, counts
            return model, counts

        monkeypatch.setattr(graphs, "simplify", simplify)

    def _tracer(self, name: str, original: Tracer, reads: Callable[[LlavaConfig], Hashable]) -> Tracer:
        def trace(config: LlavaConfig, dtype: torch.dtype, **options: Any) -> Traced:
            key = name, (reads(config), dtype, *sorted(options.items()))
            if key not in self._done:
                self.traces += 1
                traced = original(config, dtype, **options)
                self._under_way[id(traced)] = key, traced
                return traced
            graph, made, counts = self._done[key]
            copy = replace(made, model=ir.from_proto(_parsed(graph)))
            self._copies[id(copy)] = copy, counts
            return copy

        return trace


def _parsed(graph: bytes) -> object:
    from onnx import ModelProto

    model = ModelProto()
    model.ParseFromString(graph)
    return model
