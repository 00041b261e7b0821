"""How the passes have shrunk a graph, for whoever watches. Cheap to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NodeCounts:
    """How many nodes a graph had as traced, after onnxscript, and after onnxsim."""

    traced: int
    optimized: int
    simplified: int
