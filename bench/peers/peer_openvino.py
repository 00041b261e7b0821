"""OpenVINO through optimum-intel: `OVModelForVisualCausalLM`, exported as `optimum-cli export openvino` does.

Precisions are those of `openvino_export.py`. Activations are rounded to 8 bits in groups of 32 as they are multiplied
(dynamic quantisation), and the KV cache holds 8 bits: OpenVINO's own defaults on CPUs.

    prepare --checkpoint DIR --out DIR --precision P    one JSON line: time, memory, size
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision P    all measures, one JSON line
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openvino_export import PRECISIONS, export
from own_memory import memory_mb

STEPS = 32


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True, choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bursts", action="store_true", help="no requests at once")
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"openvino-{args.precision}"}
    if args.verb == "prepare":
        line |= prepare(args.checkpoint, args.out, args.precision)
    else:
        line |= measure(args.model, args.workload, args.threads)
    print(json.dumps(line))


def versions() -> dict[str, str]:
    """Of what computes."""
    from importlib.metadata import version

    return {name: version(name) for name in ("openvino", "optimum-intel", "nncf", "transformers")}


def prepare(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Export and compress, imports included."""
    begun = time.perf_counter()
    export(checkpoint, out, precision)
    took = time.perf_counter() - begun
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"export_s": took, "export_peak_mb": peak, "bundle_mb": size / 2**20, "versions": versions()}


def measure(folder: Path, workload: Path, threads: int) -> dict[str, Any]:
    """One pass over all measures."""
    import numpy as np
    import torch
    from optimum.intel.openvino import OVModelForVisualCausalLM

    work = json.loads((workload / "workload.json").read_text())
    pixels, other = (
        torch.from_numpy(np.load(workload / work[n])) for n in ("pixel_values", "other_pixel_values")
    )
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    load_s, model = timed(
        lambda: OVModelForVisualCausalLM.from_pretrained(folder, ov_config=config, device="CPU", compile=True)
    )
    parts = Parts(model, work, pixels)
    first_s, _ = timed(lambda: parts.answered(work["input_ids"], pixels))
    found: dict[str, Any] = {
        "versions": versions(),
        "load_s": load_s,
        "first_token_s": load_s + first_s,
        "missing": {},
    }
    found |= parts.memory()
    parts.answered(work["input_ids"], other)  # warms up
    found |= parts.first_token()
    for context in (100, 2000):
        found[f"decode_{context}"] = parts.decoding(context, 1)
    try:
        found["batch8"] = parts.decoding(100, 8)
    except Exception as error:
        found |= {"batch8": None, "missing": {"batch8": f"{type(error).__name__}: {str(error)[:200]}"}}
    found["missing"]["throughput"] = "one model, one request at a time: what serves several is OpenVINO GenAI"
    return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


class Parts:
    """What is measured, of one model. The KV cache is inside OpenVINO; `past` is how much it holds."""

    def __init__(self, model: Any, work: dict[str, Any], pixels: Any) -> None:
        self.model, self.work, self.pixels = model, work, pixels
        self.past = 0

    def answered(self, ids: Any, pixels: Any = None, *, fresh: bool = True) -> Any:
        """Logits behind the ids' last, [rows, vocabulary]; `fresh` forgets what is in the cache."""
        import torch

        rows = torch.tensor(ids if isinstance(ids[0], list) else [ids])
        self.past = 0 if fresh else self.past
        total = self.past + rows.shape[1]
        out = self.model(
            input_ids=rows,
            pixel_values=pixels,
            attention_mask=torch.ones(len(rows), total, dtype=torch.int64),
            position_ids=torch.arange(self.past, total)[None].expand(len(rows), -1),
            past_key_values=None if fresh else ((),),
        )
        self.past = total
        return out.logits[:, -1]

    def steps(self, logits: Any, count: int) -> list[float]:
        """Seconds of single steps of every row."""
        found = []
        for _ in range(count):
            tokens = logits.argmax(-1, keepdim=True)
            tokens[tokens == self.work["image_token_id"]] = 5
            begun = time.perf_counter()
            logits = self.answered(tokens.tolist(), fresh=False)
            found.append(time.perf_counter() - begun)
        return found

    def first_token(self) -> dict[str, Any]:
        """Image and question: the whole, the encoder alone, and the rest; then the second turn over the same cache."""
        work = self.work
        encode_s, _ = timed(lambda: self.model.get_vision_embeddings(self.pixels))
        ttft_s, _ = timed(lambda: self.answered(work["input_ids"], self.pixels))
        for token in work["second_turn_ids"][len(work["input_ids"]) :][: work["new_tokens"]]:
            self.answered([token], fresh=False)
        rest = work["second_turn_ids"][self.past :]
        second_s, _ = timed(lambda: self.answered(rest, fresh=False))
        return {
            "ttft_s": ttft_s,
            "encode_s": encode_s,
            "prefill_s": ttft_s - encode_s,
            "prefill_tokens": len(work["input_ids"]),
            "second_turn_s": second_s,
        }

    def decoding(self, context: int, rows: int) -> float:
        """Tokens a second of all rows together, by the median step."""
        logits = self.answered([self.work["text_ids"][row : row + context] for row in range(rows)])
        return rows / statistics.median(self.steps(logits, STEPS))

    def memory(self) -> dict[str, float]:
        """MiB, while image, question and 512 more tokens are in the cache, of which 32 were decoded."""
        ids = [*self.work["input_ids"], *self.work["text_ids"][: 512 - STEPS]]
        self.steps(self.answered(ids, self.pixels), STEPS)
        return memory_mb()


if __name__ == "__main__":
    main()
