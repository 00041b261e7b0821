"""What a pass over several tokens costs, and what drafting them gains: `python -m bench.speculation BUNDLE [TEXT…]`

The decoder alone is run at batch 1 over a cache filled with noise, giving the logits of all new positions, as verifying
drafts needs them. `ms` is the median of `--runs` passes, `passes` its ratio to a pass over one token: k draft tokens
cost the `passes` of k + 1 tokens, and pay where more tokens than that come out of it on average. Counts are measured in
turn, so that a change of the machine's speed meets all of them.

Then, for each text file: as if a model wrote the text from its first third on, `tokens_per_pass` and `speed` (without
drafts it is 1, by the costs just measured) of drafts of a fixed length, and of `Drafter`; with the latest
place where the last two tokens came, and with the first, as transformers has it. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import OrtValue
from tokenizers import Tokenizer

from pumice.benchmark.workload import cache_noise
from pumice.decoder.kv_cache import KVCache
from pumice.generation.prompt_lookup import Drafter, draft
from pumice.manifest import load_manifest

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)

Propose: TypeAlias = Callable[[NDArray[np.int64]], tuple[int, ...]]


def measure(bundle: Path, past: int, runs: int, threads: int) -> dict[int, float]:
    """Median milliseconds of a pass, by the count of its tokens."""
    manifest = load_manifest(bundle)
    shape = manifest.decoder
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(bundle / manifest.graphs.decoder.file, options)
    cache = KVCache(shape, past + max(COUNTS), "cpu")
    rng = np.random.default_rng(0)
    cache.write(0, 0, cache_noise(shape, past))
    keep_all = OrtValue.ortvalue_from_numpy(np.array(0, np.int64))
    passes_ms: dict[int, list[float]] = defaultdict(list)
    for run in range(runs + 3):
        for count in COUNTS:
            binding = session.io_binding()
            embeds = rng.standard_normal((1, count, shape.hidden_size)).astype(np.float32)
            binding.bind_cpu_input("inputs_embeds", embeds)
            binding.bind_cpu_input("attention_mask", np.ones((1, past + count), np.int64))
            if count > 1:
                binding.bind_ortvalue_input("num_logits_to_keep", keep_all)
            cache.bind(binding, 0, 1, count)
            binding.bind_output("logits")
            begun = time.perf_counter()
            session.run_with_iobinding(binding)
            if run >= 3:  # the first ones warm up
                passes_ms[count].append((time.perf_counter() - begun) * 1e3)
    return {count: statistics.median(times) for count, times in passes_ms.items()}


def simulate(ids: NDArray[np.int64], propose: Propose, see: Callable[[int], None]) -> list[int]:
    """The counts of tokens in each pass, if a model wrote `ids` from their first third on."""
    position, passes = len(ids) // 3, []
    while position < len(ids):
        drafted = propose(ids[:position])
        passes.append(1 + len(drafted))
        for token_drafted in (*drafted, None):
            token = int(ids[position])
            see(token)
            position += 1
            if token_drafted != token or position == len(ids):
                break
    return passes


def first_place(ids: NDArray[np.int64], most: int) -> tuple[int, ...]:
    """Drafts as transformers makes them."""
    for n in (2, 1):
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)
        places = np.flatnonzero((windows[:-1] == windows[-1]).all(axis=1))
        if len(places):
            drafted: list[int] = ids[places[0] + n :][:most].tolist()
            return tuple(drafted)
    return ()


def _unseen(count: int) -> None:
    """A rule that learns nothing of how many drafted tokens were right."""


def compare(ids: NDArray[np.int64], costs: dict[int, float]) -> list[dict[str, str | float]]:
    """The rules' tokens per pass and speed."""
    drafter = Drafter()
    rules: dict[str, tuple[Propose, Callable[[int], None]]] = {"adaptive": (drafter.propose, drafter.see)}
    for most in (1, 2, 4, 8):
        rules[f"latest, {most}"] = partial(draft, most=most), _unseen
        rules[f"first, {most}"] = partial(first_place, most=most), _unseen
    results: list[dict[str, str | float]] = []
    for rule, (propose, see) in rules.items():
        passes = simulate(ids, propose, see)
        written = len(ids) - len(ids) // 3
        speed = written / sum(costs[count] for count in passes)
        results.append(
            {"rule": rule, "tokens_per_pass": round(written / len(passes), 2), "speed": round(speed, 2)}
        )
    return results


def main() -> None:
    """Print a line for each count, and for each text and rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--past", type=int, default=700)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    times_ms = measure(arguments.bundle, arguments.past, arguments.runs, arguments.threads)
    for count, ms in times_ms.items():
        print(json.dumps({"tokens": count, "ms": round(ms, 3), "passes": round(ms / times_ms[1], 2)}))
    costs = {count: ms / times_ms[1] for count, ms in times_ms.items()}
    tokenizer = Tokenizer.from_file(str(arguments.bundle / "tokenizer.json"))
    for text in arguments.texts:
        ids = np.array(tokenizer.encode(text.read_text()).ids, np.int64)[:4000]
        for line in compare(ids, costs):
            print(json.dumps({"text": text.name, **line}))


if __name__ == "__main__":
    main()
