"""Which ONNX Runtime a graph's operators need.

Enters: the operators that a graph holds. Leaves: the lowest version that computes it, for `requires.onnxruntime` when a
bundle is written, and for a look at bundles that promised too much.

Operators of ONNX itself came with their opset (21: ONNX Runtime 1.18), so that the lowest version tried holds for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LOWEST = "1.23.0"
"""That the runtime is tested with (`make test-oldest`, `make test-onnxruntime`): nothing promises less."""

_CONTRIBUTED = "com.microsoft"
_TRIED = frozenset(
    {
        "FastGelu",
        "FusedMatMul",
        "GatherBlockQuantized",
        "Gelu",
        "GroupQueryAttention",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipSimplifiedLayerNormalization",
    }
)
"""ONNX Runtime's own operators that `LOWEST` computes as the newest does."""

_WEIGHT_ZERO_POINT = {"MatMulIntegerToFloat": 5, "MatMulInteger": 3, "DynamicQuantizeMatMul": 4}
"""Products of signed weights, and which input their zero point is. x86 without VNNI cuts such products off at 16 bits,
so that sessions there ask for unsigned weights; making them, versions before `_UNSIGNED` write to that input without
looking whether there is one, and abort the process."""
_UNSIGNED = "1.30.0"

_BY_ATTRIBUTE = {
    ("GroupQueryAttention", "local_window_size"): "1.24.0",
    ("GroupQueryAttention", "k_quant_type"): "1.28.0",
}
"""Attributes of which older versions make something else. A window had one token more (microsoft/onnxruntime#25927);
keys and values in 8 bits fail before 1.27, and in 1.27 rows of a batch but the first are wrong."""


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A kind of node: `inputs` are those that it is given, up to the last one; of `attributes` the names."""

    domain: str
    name: str
    inputs: int
    attributes: frozenset[str] = frozenset()


def lowest_version(operators: Iterable[Operator], *, makes_unsigned: bool, untried: str = LOWEST) -> str:
    """The lowest ONNX Runtime that opens a graph of these operators, and computes what the newest does.

    `makes_unsigned` says that sessions are to make signed weights unsigned; a bundle is written for machines that do.
    `untried` is taken for operators that no row tells of.
    """
    needed = LOWEST
    for operator in operators:
        if operator.domain == _CONTRIBUTED and operator.name not in _TRIED:
            needed = max(needed, untried, key=version_numbers)
        if makes_unsigned and operator.inputs <= _WEIGHT_ZERO_POINT.get(operator.name, -1):
            needed = max(needed, _UNSIGNED, key=version_numbers)
        for attribute in operator.attributes:
            needed = max(needed, _BY_ATTRIBUTE.get((operator.name, attribute), LOWEST), key=version_numbers)
    return needed


def version_numbers(version: str) -> tuple[int, ...]:
    """`1.30.0` → (1, 30): what comes after changes no operator."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
