"""What a token costs at different places in the context: `python -m bench.decode BUNDLE`. One JSON line a position.

The decoder alone is run over a cache filled with noise, through ONNX Runtime's profiler: `total_us` is the whole run,
`attention_us` its GroupQueryAttention nodes, `rest_us` all other nodes; medians over `--runs` tokens. Afterwards 256
tokens are decoded and the growth of resident memory is told in bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil

from pumice.decoder.kv_cache import KVCache
from pumice.manifest import load_manifest


def profile(bundle: Path, positions: list[int], runs: int, threads: int) -> list[dict[str, Any]]:
    """Medians per position, measured in turn so that a change of the machine's speed meets all positions."""
    manifest = load_manifest(bundle)
    shape = manifest.decoder
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "decode")
    session = onnxruntime.InferenceSession(bundle / manifest.graphs.decoder.file, options)
    cache = KVCache(shape, max(positions) + 1, "cpu")
    embeds = np.random.default_rng(0).standard_normal((1, 1, shape.hidden_size)).astype(np.float32)
    walls: dict[int, list[float]] = defaultdict(list)
    for _ in range(runs):
        for position in positions:
            binding = session.io_binding()
            binding.bind_cpu_input("inputs_embeds", embeds)
            binding.bind_cpu_input("attention_mask", np.ones((1, position + 1), np.int64))
            cache.bind(binding, 0, 1)
            binding.bind_output("logits")
            begun = time.perf_counter()
            session.run_with_iobinding(binding)
            walls[position].append((time.perf_counter() - begun) * 1e6)
    attention, rest = _node_times(Path(session.end_profiling()), positions)
    return [
        {
            "position": position,
            "total_us": round(statistics.median(walls[position]), 1),
            "attention_us": round(statistics.median(attention[position]), 1),
            "rest_us": round(statistics.median(rest[position]), 1),
        }
        for position in positions
    ]


def _node_times(trace: Path, positions: list[int]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Microseconds of attention and of all other nodes, per run, from ONNX Runtime's trace."""
    attention: dict[int, list[int]] = defaultdict(list)
    rest: dict[int, list[int]] = defaultdict(list)
    run = [0, 0]
    done = 0
    for event in json.loads(trace.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            run[event["args"]["op_name"] == "GroupQueryAttention"] += event["dur"]
        elif event["name"] == "model_run":
            position = positions[done % len(positions)]
            rest[position].append(run[0])
            attention[position].append(run[1])
            run, done = [0, 0], done + 1
    return attention, rest


def growth(bundle: Path, tokens: int) -> int:
    """Bytes of resident memory that decoding `tokens` tokens adds, after as many to warm up."""
    import pumice

    model = pumice.load(bundle, device="cpu")
    decoder = model.pipeline.decoder
    cache = decoder.new_cache(8 + tokens)
    width = decoder.shape.hidden_size
    ids = [5] * 8
    decoder.forward(ids, ids, np.zeros((0, width), np.float32), cache)
    step = decoder.new_step(cache, 0, 1)
    before = 0
    for attempt in range(2):
        cache.rewind(0, 8)
        before = psutil.Process().memory_info().rss if attempt else 0
        for _ in range(tokens):
            step([7])
    return int(psutil.Process().memory_info().rss - before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Decoding time by position in the context.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--positions", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for line in profile(args.bundle, args.positions, args.runs, args.threads):
        print(json.dumps(line))
    print(json.dumps({"tokens": 256, "resident_growth_bytes": growth(args.bundle, 256)}))
