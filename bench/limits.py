"""What the machine can do at most: `python -m bench limits --threads N`. One JSON line.

    read_gb_s      memory read, GB/s: N threads over buffers that no cache holds
    int8_gop_s     int8 matrix product, 10⁹ operations a second: ONNX Runtime's MatMulIntegerToFloat
    fp32_gflop_s   float32 matrix product, 10⁹ operations a second: ONNX Runtime's MatMul

Each is the best of many: of several ways to read, of several shapes, of repeats. What was not reached by any of them is
not a limit that a program on this machine meets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Reader: TypeAlias = "Callable[[NDArray[np.float32]], object]"

READERS: tuple[Reader, ...] = (
    lambda part: np.dot(part, part),
    lambda part: part.max(),
    lambda part: part.view(np.int64).max(),
)
"""Reductions that compute less than they read, and let other threads run meanwhile."""

SHAPES = ((768, 2048, 2048), (768, 896, 4864), (1024, 4096, 1024))
"""(M, K, N) of products [M, K] × [K, N]: prompts through matrices of the sizes of real ones."""

_OPSET, _IR = 17, 10


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Units: 10⁹ bytes, and 10⁹ operations (a multiplication and an addition are two), a second."""

    read_gb_s: float
    int8_gop_s: float
    fp32_gflop_s: float


def measure(threads: int, *, buffer_mib: int = 1024, seconds: float = 1.5) -> Limits:
    """All limits with so many threads; `seconds` for each way to read and each shape."""
    return Limits(
        read_gb_s=read_bandwidth(threads, buffer_mib, seconds),
        int8_gop_s=max(product_speed(shape, threads, seconds, int8=True) for shape in SHAPES),
        fp32_gflop_s=max(product_speed(shape, threads, seconds, int8=False) for shape in SHAPES),
    )


def as_line(limits: Limits) -> dict[str, float]:
    """For JSON, rounded."""
    return {name: round(value, 2) for name, value in asdict(limits).items()}


def read_bandwidth(threads: int, buffer_mib: int, seconds: float) -> float:
    """GB/s: every thread reads a part of one buffer, all at once."""
    buffer = np.ones(buffer_mib * 2**18, np.float32)  # written, so that every page is there
    parts = np.array_split(buffer, threads)
    with ThreadPoolExecutor(threads) as pool:
        best = min(_best(partial(_read_all, pool, read, parts), seconds) for read in READERS)
    return buffer.nbytes / best / 1e9


def _read_all(pool: ThreadPoolExecutor, read: Reader, parts: list[NDArray[np.float32]]) -> None:
    list(pool.map(read, parts))


def product_speed(shape: tuple[int, int, int], threads: int, seconds: float, *, int8: bool) -> float:
    """10⁹ operations a second of a product by a constant matrix."""
    m, k, n = shape
    session = _session(k, n, threads, int8=int8)
    rng = np.random.default_rng(0)
    if int8:
        feeds: dict[str, Any] = {"a": rng.integers(0, 256, (m, k), dtype=np.uint8)}
    else:
        feeds = {"a": rng.standard_normal((m, k), dtype=np.float32)}
    return 2 * m * k * n / _best(lambda: session.run(None, feeds), seconds) / 1e9


def _session(k: int, n: int, threads: int, *, int8: bool) -> onnxruntime.InferenceSession:
    """`y = a × b` with a constant b, which ONNX Runtime packs beforehand."""
    rng = np.random.default_rng(1)
    if int8:
        constants = {
            "b": rng.integers(-127, 128, (k, n), dtype=np.int8),
            "a_scale": np.float32(0.01).reshape(()),
            "b_scale": np.full(n, 0.01, np.float32),
            "a_zero": np.array(128, np.uint8),
        }
        node = helper.make_node(
            "MatMulIntegerToFloat", ["a", "b", "a_scale", "b_scale", "a_zero"], ["y"], domain="com.microsoft"
        )
    else:
        constants = {"b": rng.standard_normal((k, n), dtype=np.float32)}
        node = helper.make_node("MatMul", ["a", "b"], ["y"])
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8 if int8 else TensorProto.FLOAT, [None, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, n])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _best(call: Callable[[], object], seconds: float) -> float:
    """The shortest of the times that a call takes, over so many seconds and three calls at least."""
    call()
    best, calls, end = float("inf"), 0, time.perf_counter() + seconds
    while calls < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        best, calls = min(best, time.perf_counter() - begun), calls + 1
    return best
