"""What the KV cache's type costs on the CPU: `python -m bench.kv_cache_type`. One JSON line a type, shape and place.

A graph of one GroupQueryAttention, with the Casts that a float32 decoder needs around it, runs over a cache filled
with noise, past and present in one buffer as in `runtime/decoder/kv_cache.py`. Types take turns; `us` is the median of
a run in microseconds, `error` the largest difference to float32 by the largest value of float32, `bytes` of keys and
values a position. The int8 cache is filled by the operator itself, with a scale of four deviations. On Linux,
`scratch_mib` is what a first chunk of 512 over 4,000 positions adds to the process at its peak, its output of 2 or 8
MiB included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray
from onnx import parser

SHAPES = {"14/2x64": (14, 2, 64), "32/32x128": (32, 32, 128)}
CONTEXT = 4608
TYPES: dict[str, tuple[str, int, Any]] = {  # the rotary caches' type, its number in ONNX, the KV cache's
    "float32": ("float", 1, np.float32),
    "float16": ("float16", 10, np.float16),
    "int8": ("float", 1, np.int8),
}
GRAPH = """<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
attention (float[B, T, W] qkv, {cache}[B, H, C, K] past_key, {cache}[B, H, C, K] past_value, int32[B] seqlens,
           int32 total, {angle}[C, R] cos, {angle}[C, R] sin, float[1, H, 1, K] scale)
    => (float[B, T, D] attention, {cache}[B, H, C, K] present_key, {cache}[B, H, C, K] present_value) {{
    cast = Cast <to = {number}> (qkv)
    narrow, present_key, present_value = com.microsoft.GroupQueryAttention
        <num_heads = {heads}, kv_num_heads = {kv_heads}, do_rotary = 1 {attributes}>
        (cast, , , past_key, past_value, seqlens, total, cos, sin {scales})
    attention = Cast <to = 1> (narrow)
}}"""
QUANTIZED = ', k_quant_type = "PER_CHANNEL", v_quant_type = "PER_CHANNEL", kv_cache_bit_width = 8'


class Attention:
    """One attention node and its cache."""

    def __init__(self, name: str, heads: int, kv_heads: int, size: int, threads: int) -> None:
        angle, number, dtype = TYPES[name]
        wide, quantized = np.float16 if angle == "float16" else np.float32, dtype is np.int8
        text = GRAPH.format(
            cache={"float32": "float"}.get(name, name),
            angle=angle,
            number=number,
            heads=heads,
            kv_heads=kv_heads,
            attributes=QUANTIZED if quantized else "",
            scales=", , , , scale, scale" if quantized else "",
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level, options.enable_mem_pattern = (
            threads,
            3,
            False,
        )
        model = parser.parse_model(text).SerializeToString()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        angles = np.outer(np.arange(CONTEXT), 10_000 ** (-np.arange(size // 2) / (size / 2)))
        self.constants = {"cos": np.cos(angles).astype(wide), "sin": np.sin(angles).astype(wide)}
        if quantized:
            self.constants["scale"] = np.full((1, kv_heads, 1, size), 4 / 127, np.float32)
        self.arrays = [np.ones((1, kv_heads, CONTEXT, size), dtype) for _ in range(2)]
        self.cache = [onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0) for array in self.arrays]

    def run(self, qkv: NDArray[np.float32], past: int) -> tuple[NDArray[np.float32], float]:
        """The attention of `qkv` [1, T, W] over `past` positions, and the microseconds that it took."""
        total = past + qkv.shape[1]
        counts = {"seqlens": np.array([total - 1], np.int32), "total": np.array(total, np.int32)}
        binding = self.session.io_binding()
        for name, value in ({"qkv": qkv} | counts | self.constants).items():
            binding.bind_cpu_input(name, value)
        binding.bind_output("attention", "cpu")
        for kind, buffer in zip(("key", "value"), self.cache, strict=True):
            binding.bind_ortvalue_input(f"past_{kind}", buffer)
            binding.bind_ortvalue_output(f"present_{kind}", buffer)
        begun = time.perf_counter()
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy(), (time.perf_counter() - begun) * 1e6

    def scratch(self, qkv: NDArray[np.float32]) -> float | None:
        """MiB that a first run over 4,000 positions takes at its peak."""
        reset, before = Path("/proc/self/clear_refs"), float(psutil.Process().memory_info().rss)
        if not reset.exists():
            return None
        reset.write_text("5")  # the peak is counted anew
        self.run(qkv, 4000)
        (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024 - before / 2**20, 1)


def compare(label: str, runs: int, threads: int) -> None:
    """Decode over 100, 1,000 and 4,000 positions, and prefill chunks of 512 at the start and over 2,048."""
    heads, kv_heads, size = SHAPES[label]
    rng = np.random.default_rng(0)

    def noise(tokens: int) -> NDArray[np.float32]:
        wide = rng.standard_normal((1, tokens, (heads + 2 * kv_heads) * size), np.float32)
        return wide.clip(-4, 4)

    systems = {name: Attention(name, heads, kv_heads, size, threads) for name in TYPES}
    scratch = {name: system.scratch(noise(512)) for name, system in systems.items()}
    for start in range(0, CONTEXT, 512):
        chunk = noise(512)
        for system in systems.values():
            system.run(chunk, start)
    for past, tokens in ((100, 1), (1000, 1), (4000, 1), (0, 512), (2048, 512)):
        qkv = noise(tokens)
        repeats = range(runs if tokens == 1 else max(5, runs // 20))
        found = [{name: system.run(qkv, past) for name, system in systems.items()} for _ in repeats]
        exact = found[0]["float32"][0]
        for name, system in systems.items():
            line = {
                "shape": label,
                "past": past,
                "tokens": tokens,
                "type": name,
                "us": round(statistics.median(taken[name][1] for taken in found), 1),
                "error": float(f"{np.abs(found[0][name][0] - exact).max() / np.abs(exact).max():.2g}"),
                "bytes": sum(array.nbytes for array in system.arrays) // CONTEXT,
                "scratch_mib": scratch[name],
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="The KV cache's type: time, error and size.")
    arguments.add_argument("--runs", type=int, default=200)
    arguments.add_argument("--threads", type=int, default=1)
    args = arguments.parse_args()
    for shape in SHAPES:
        compare(shape, args.runs, args.threads)
