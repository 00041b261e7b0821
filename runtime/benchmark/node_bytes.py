"""How many bytes of weights each node of a graph reads, found without the onnx package.

Enters: the bytes of an `.onnx` file. Leaves: bytes by the node's name. ONNX Runtime's profile does not tell: weights
that it has packed are no inputs any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pumice.bundle.onnx_file import fields

_GRAPH = 7  # of a Model; all numbers are those of onnx.proto
_NODE, _INITIALIZER = 1, 5  # of a Graph
_INPUT, _NODE_NAME, _OPERATOR = 1, 3, 4  # of a Node
_TENSOR_NAME, _RAW, _EXTERNAL = 8, 9, 13  # of a Tensor
_KEY, _VALUE = 1, 2  # of an entry of external data
_LOOKS_UP = re.compile(r"Gather|GroupQueryAttention|RotaryEmbedding")


def node_weights(model: bytes) -> dict[str, int]:
    """Bytes of the initializers that each node reads whole; tables, of which a few rows are looked up, are not.

    Raises:
        BundleError: it is not a protobuf message.
    """
    (graph,) = _messages(memoryview(model), _GRAPH)
    sizes = dict(_initializer(tensor) for tensor in _messages(graph, _INITIALIZER))
    found: dict[str, int] = {}
    for node in _messages(graph, _NODE):
        if _LOOKS_UP.search(_text(node, _OPERATOR)):
            continue
        inputs = {bytes(name).decode() for name in _messages(node, _INPUT)}
        found[_text(node, _NODE_NAME)] = sum(sizes.get(name, 0) for name in inputs)
    return found


def _initializer(tensor: memoryview) -> tuple[str, int]:
    """Name and bytes, wherever they lie; numbers that are fields of their own are few, and count as none."""
    size = sum(len(raw) for raw in _messages(tensor, _RAW))
    for entry in _messages(tensor, _EXTERNAL):
        if _text(entry, _KEY) == "length":
            size += int(_text(entry, _VALUE))
    return _text(tensor, _TENSOR_NAME), size


def _text(message: memoryview, number: int) -> str:
    return next((bytes(value).decode() for value in _messages(message, number)), "")


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in fields(message):
        if found == number and isinstance(value, memoryview):
            yield value
