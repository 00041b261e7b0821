"""Which operators give a row the same bits whatever is computed with it: each alone, on random numbers.

Enters: nothing but the machine. Leaves: for each operator, whether a row computed alone, and rows computed several at a
time, are the same as in a run over all. ONNX Runtime has kernels of its own for single rows, and which ones depends on
the processor's instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INNER, OUTER, ROWS = 576, 384, 96
HEADS, KV_HEADS, HEAD_DIM, POSITIONS = 9, 3, 64, 192
ALONE = (1,)
EVEN = (2, 4, 12, 32)
ODD = (3, 5, 17)

Array = NDArray[Any]
Run = Callable[[int], Array]
"""The operator's output, cut into runs of so many rows."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Whether rows keep their bits where they are computed alone, an even number at a time, an odd number at a time."""

    operator: str
    alone: bool
    even: bool
    odd: bool


def measure() -> list[Rows]:
    """All operators of the decoder."""
    return [
        Rows(operator=name, alone=_same(run, ALONE), even=_same(run, EVEN), odd=_same(run, ODD))
        for name, run in _operators()
    ]


def table(rows: list[Rows]) -> str:
    """Markdown: a line an operator."""
    lines = ["| operator | one row alone | 2, 4, 12, 32 rows at a time | 3, 5, 17 |", "|---|---|---|---|"]
    for row in rows:
        cells = ("same bits" if same else "**differs**" for same in (row.alone, row.even, row.odd))
        lines.append(f"| {row.operator} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _same(run: Run, sizes: tuple[int, ...]) -> bool:
    """The measure is a run over all rows, of which there is an even number."""
    whole = run(ROWS)
    return all(np.array_equal(found, whole[: len(found)]) for found in map(run, sizes))


def _operators() -> Iterator[tuple[str, Run]]:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((INNER, OUTER)) * 0.05).astype(np.float32)
    yield "`MatMul`, float32", _by_rows(_node("MatMul", ["x", "w"]), {"w": weight})
    yield (
        "`FusedMatMul` with the head's table, float32",
        _by_rows(_node("FusedMatMul", ["x", "w"], transB=1), {"w": weight.T.copy()}),
    )
    integers: dict[str, Array] = {
        "w": rng.integers(-127, 128, (INNER, OUTER), dtype=np.int8),
        "one": np.array(1, np.float32),
        "s": rng.random(OUTER, dtype=np.float32),
        "zero": np.array(128, np.uint8),
    }
    node = _node("MatMulIntegerToFloat", ["x", "w", "one", "s", "zero"])
    yield "`MatMulIntegerToFloat`, 8 bits", _by_rows(node, integers, np.uint8)
    for bits, block, level in (
        (8, 32, 4),
        (8, 64, 4),
        (8, 128, 4),
        (4, 32, 4),
        (4, 64, 4),
        (4, 128, 4),
        (4, 32, 0),
    ):
        packed = rng.integers(0, 256, (OUTER, -(-INNER // block), block * bits // 8), dtype=np.uint8)
        scales = rng.random(packed.shape[:2], dtype=np.float32) * 0.01
        node = _node(
            "MatMulNBits",
            ["x", "w", "s"],
            K=INNER,
            N=OUTER,
            bits=bits,
            block_size=block,
            accuracy_level=level,
        )
        rounded = "rounded to 8 bits" if level == 4 else "in float"
        name = f"`MatMulNBits`, {bits} bits in blocks of {block}, activations {rounded}"
        yield name, _by_rows(node, {"w": packed, "s": scales})
    norm = {"w": rng.random(INNER, dtype=np.float32)}
    yield (
        "`SimplifiedLayerNormalization`",
        _by_rows(_node("SimplifiedLayerNormalization", ["x", "w"], domain="", axis=-1, epsilon=1e-5), norm),
    )
    yield "`QuickGelu` (SiLU)", _by_rows(_node("QuickGelu", ["x"], alpha=1.0), {})
    yield "`GroupQueryAttention`, float32, over its past", _attention()


def _node(operator: str, inputs: list[str], domain: str | None = None, **attributes: Any) -> Any:
    domain = ("" if operator == "MatMul" else "com.microsoft") if domain is None else domain
    return helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)


def _session(
    node: Any, inputs: dict[str, tuple[type, list[str | int]]], constants: dict[str, Array]
) -> onnxruntime.InferenceSession:
    """A session of one operator, whose outputs are float32."""
    graph = helper.make_graph(
        [node],
        "operator",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _by_rows(node: Any, constants: dict[str, Array], dtype: type = np.float32) -> Run:
    rng = np.random.default_rng(1)
    session = _session(node, {"x": (dtype, ["M", INNER])}, constants)
    x: Array = rng.standard_normal((ROWS, INNER)).astype(np.float32)
    if dtype is np.uint8:
        x = rng.integers(0, 256, (ROWS, INNER), dtype=np.uint8)

    def run(size: int) -> Array:
        parts = [session.run(None, {"x": x[at : at + size]})[0] for at in range(0, ROWS // size * size, size)]
        return np.concatenate(parts)

    return run


def _attention() -> Run:
    rng = np.random.default_rng(1)
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    angles = np.arange(POSITIONS)[:, None] / 10_000 ** (np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    tables: dict[str, Array] = {
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    node = helper.make_node(
        "GroupQueryAttention",
        ["qkv", "", "", "past_key", "past_value", "seqlens_k", "total", "cos", "sin"],
        ["y", "key", "value"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=KV_HEADS,
        do_rotary=1,
    )
    cache: list[str | int] = [1, KV_HEADS, POSITIONS, HEAD_DIM]
    inputs: dict[str, tuple[type, list[str | int]]] = {
        "qkv": (np.float32, [1, "T", width]),
        "past_key": (np.float32, cache),
        "past_value": (np.float32, cache),
        "seqlens_k": (np.int32, [1]),
        "total": (np.int32, []),
    }
    session = _session(node, inputs, tables)
    qkv = rng.standard_normal((1, ROWS, width)).astype(np.float32)

    def run(size: int) -> Array:
        key, value = (np.zeros((1, KV_HEADS, POSITIONS, HEAD_DIM), np.float32) for _ in range(2))
        parts = []
        for at in range(0, ROWS // size * size, size):
            binding = session.io_binding()
            binding.bind_cpu_input("qkv", qkv[:, at : at + size])
            binding.bind_cpu_input("seqlens_k", np.array([at + size - 1], np.int32))
            binding.bind_cpu_input("total", np.array(at + size, np.int32))
            for name, array in (
                ("key", key),
                ("value", value),
            ):  # past and present are one buffer, as in a cache
                place = ("cpu", 0, np.float32, array.shape, array.ctypes.data)
                binding.bind_input(f"past_{name}", *place)
                binding.bind_output(name, *place)
            binding.bind_output("y", "cpu")
            session.run_with_iobinding(binding)
            parts.append(binding.get_outputs()[-1].numpy()[0])
        return np.concatenate(parts)

    return run
