"""transformers on torch, as `LlavaForConditionalGeneration` users run it: sdpa attention, its own KV cache.

`fp32`: weights and arithmetic in float32. `bf16`: both in bfloat16, which processors with AVX512-BF16 or AMX multiply
natively and others emulate.

    prepare --checkpoint DIR --out DIR --precision P    nothing to convert: the checkpoint is what it loads
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision P    all measures, one JSON line
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from own_memory import memory_mb

STEPS = 32


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True, choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bursts", action="store_true", help="no requests at once")
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"transformers-{args.precision}"}
    if args.verb == "prepare":
        size = sum(path.stat().st_size for path in args.checkpoint.rglob("*") if path.is_file())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        line |= {"export_s": None, "export_peak_mb": None, "bundle_mb": size / 2**20, "versions": versions()}
        print(f"nothing to convert, {peak:.0f} MiB", file=sys.stderr)
    else:
        line |= measure(args.checkpoint, args.workload, args.threads, args.precision)
    print(json.dumps(line))


def versions() -> dict[str, str]:
    """Of what computes."""
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def measure(checkpoint: Path, folder: Path, threads: int, precision: str) -> dict[str, Any]:
    """One pass over all measures."""
    import numpy as np
    import torch
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(threads)
    work = json.loads((folder / "workload.json").read_text())
    pixels, other = (np.load(folder / work[name]) for name in ("pixel_values", "other_pixel_values"))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    with torch.inference_mode():
        load_s, model = timed(
            lambda: AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).eval()
        )
        parts = Parts(model, work, torch.from_numpy(pixels).to(dtype))
        first_s, _ = timed(lambda: parts.answered(work["input_ids"], parts.pixels))
        found: dict[str, Any] = {
            "versions": versions(),
            "load_s": load_s,
            "first_token_s": load_s + first_s,
            "missing": {},
        }
        found |= parts.memory()
        parts.answered(work["input_ids"], torch.from_numpy(other).to(dtype))  # warms up
        found |= parts.first_token()
        for context in (100, 2000):
            found[f"decode_{context}"] = parts.decoding(context, 1)
        found["batch8"] = parts.decoding(100, 8)
        found["missing"]["throughput"] = "generate answers one prompt, or one batch that begins together"
    return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


class Parts:
    """What is measured, of one model."""

    def __init__(self, model: Any, work: dict[str, Any], pixels: Any) -> None:
        self.model, self.work, self.pixels = model, work, pixels

    def answered(self, ids: list[int], pixels: Any, cache: Any = None) -> Any:
        """The first token after a prompt, and the cache."""
        import torch

        past = 0 if cache is None else cache.get_seq_length()
        total = past + len(ids)
        out = self.model(
            input_ids=torch.tensor([ids]),
            pixel_values=pixels,
            attention_mask=torch.ones(1, total, dtype=torch.int64),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return int(out.logits[0, -1].argmax()), out.past_key_values

    def steps(self, tokens: Any, cache: Any, count: int) -> list[float]:
        """Seconds of single steps of every row."""
        import torch

        found = []
        for _ in range(count):
            begun = time.perf_counter()
            total = cache.get_seq_length() + 1
            mask = torch.ones(len(tokens), total, dtype=torch.int64)
            out = self.model(
                input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            tokens = out.logits[:, -1].argmax(-1, keepdim=True)
            tokens[tokens == self.work["image_token_id"]] = 5
            found.append(time.perf_counter() - begun)
        return found

    def first_token(self) -> dict[str, Any]:
        """Image and question: the whole, the encoder alone, and the rest; then the second turn over the same cache."""
        import torch

        work = self.work
        self.model.get_image_features(pixel_values=self.pixels)  # warms up
        encode_s, _ = timed(lambda: self.model.get_image_features(pixel_values=self.pixels))
        ttft_s, (_, cache) = timed(lambda: self.answered(work["input_ids"], self.pixels))
        answer = work["second_turn_ids"][len(work["input_ids"]) :][: work["new_tokens"]]
        for token in answer:
            _, cache = self.answered([token], None, cache)
        rest = work["second_turn_ids"][cache.get_seq_length() :]
        second_s, _ = timed(lambda: self.answered(rest, None, cache))
        assert torch.is_tensor(self.pixels)
        return {
            "ttft_s": ttft_s,
            "encode_s": encode_s,
            "prefill_s": ttft_s - encode_s,
            "prefill_tokens": len(work["input_ids"]),
            "second_turn_s": second_s,
        }

    def decoding(self, context: int, rows: int) -> float:
        """Tokens a second of all rows together, by the median step."""
        import torch

        ids = torch.tensor([self.work["text_ids"][row : row + context] for row in range(rows)])
        out = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens[tokens == self.work["image_token_id"]] = 5
        return rows / statistics.median(self.steps(tokens, out.past_key_values, STEPS))

    def memory(self) -> dict[str, float]:
        """MiB, while image, question and 512 more tokens are in the cache, of which 32 were decoded."""
        import torch

        ids = [*self.work["input_ids"], *self.work["text_ids"][: 512 - STEPS]]
        token, cache = self.answered(ids, self.pixels)
        self.steps(torch.tensor([[token]]), copy.copy(cache), STEPS)
        return memory_mb()


if __name__ == "__main__":
    main()
