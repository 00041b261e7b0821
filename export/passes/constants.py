"""Small tensors that a pass needs in its graph.

Enters: an array. Leaves: an initializer of the graph, a value to read.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register an initializer; its name must be new."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


class Constants:
    """Initializers of a graph, each made once; `prefix` begins their names."""

    def __init__(self, graph: ir.Graph, prefix: str = "") -> None:
        self._graph, self._prefix = graph, prefix
        self._values: dict[str, ir.Value] = {}

    def get(self, name: str, array: np.ndarray) -> ir.Value:
        """The initializer of that name, made of the array if nobody has asked for it yet."""
        if name not in self._values:
            self._values[name] = add_constant(self._graph, f"{self._prefix}{name}", array)
        return self._values[name]
