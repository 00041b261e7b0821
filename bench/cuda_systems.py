"""One system on the GPU, measured in a process of its own: a system's memory is another's to have.

    python -m bench.cuda_systems pumice --model BUNDLE --workload DIR [--cuda-graph]
    python -m bench.cuda_systems transformers --model CHECKPOINT --workload DIR --attention eager|sdpa
    python -m bench.cuda_systems bandwidth

Enters: a bundle or a checkpoint, and a workload (`bench.workload`). Leaves: one JSON line, times in seconds, decoding
in tokens a second at batch 1, bandwidth in bytes a second. Greedy, no end token, no drafts, nothing remembered.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DECODED = 128
"""Tokens of an answer; the first is the prompt's."""
REPEATS = 5
_COPIED = 1 << 30


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("system", choices=["pumice", "transformers", "bandwidth"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    parser.add_argument("--cuda-graph", action="store_true")
    args = parser.parse_args()
    if args.system == "pumice":
        line = pumice(args.model, args.workload, args.cuda_graph)
    elif args.system == "transformers":
        line = transformers(args.model, args.workload, args.attention)
    else:
        line = bandwidth()
    print(json.dumps(line))


def pumice(bundle: Path, workload: Path, cuda_graph: bool, device: str = "cuda") -> dict[str, Any]:
    """pumice as its users call it; reading the image file and rendering the prompt included."""
    import onnxruntime

    from pumice import load

    model = load(bundle, device=device, cuda_graph=cuda_graph, prefix_cache_bytes=0, feature_cache_bytes=0)
    told = json.loads((workload / "workload.json").read_text())
    options: dict[str, Any] = {"eos_token_id": [], "do_sample": False, "prompt_lookup_num_tokens": 0}

    def answer(image: str | None, tokens: int) -> Any:
        images = [] if image is None else [str(workload / told[image])]
        question = told["question"] if image else " ".join([told["question"]] * 4)
        return model.generate(question, images=images, max_new_tokens=tokens, **options)

    def first_token(image: str) -> float:
        begun = time.perf_counter()
        answer(image, 1)
        return time.perf_counter() - begun

    answer("other_image", 4)
    answer(None, 4)
    found = {"ttft_s": [first_token(name) for name in ("image", "other_image") * REPEATS]}
    # tokens are counted from the first, so that the prompt's time is not in them
    for name, image in (("decode_text", None), ("decode_image", "image")):
        found[name] = [answer(image, DECODED).timings.tokens_per_second for _ in range(REPEATS)]
    weights = model.manifest.graphs.decoder.external_data
    stored = sum(model.manifest.files[name].size for name in weights)
    return {**_medians(found), "weight_bytes": stored, "versions": {"onnxruntime": onnxruntime.__version__}}


def transformers(
    checkpoint: Path, workload: Path, attention: str, device: str = "cuda", dtype: str = "float16"
) -> dict[str, Any]:
    """`LlavaForConditionalGeneration.generate`; reading the image file and tokenising included."""
    import torch
    import transformers as library
    from PIL import Image

    processor = library.AutoProcessor.from_pretrained(checkpoint)
    model = library.LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), attn_implementation=attention
    ).to(device)
    told = json.loads((workload / "workload.json").read_text())

    def seconds(prepared: str | None, tokens: int) -> float:
        begun = time.perf_counter()
        if prepared is None:
            text = " ".join([told["question"]] * 4)
            inputs = processor(text=text, return_tensors="pt").to(device)
        else:
            image = Image.open(workload / told[prepared]).convert("RGB")
            inputs = processor(images=image, text=told["prompt"], return_tensors="pt").to(device, model.dtype)
        model.generate(
            **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=None
        )
        return time.perf_counter() - begun  # generate has looked at each token, so that nothing is under way

    seconds("other_image", 4)
    seconds(None, 4)
    found = {"ttft_s": [seconds(name, 1) for name in ("image", "other_image") * REPEATS]}
    for name, prepared in (("decode_text", None), ("decode_image", "image")):
        first = statistics.median(seconds(prepared, 1) for _ in range(REPEATS))
        found[name] = [(DECODED - 1) / (seconds(prepared, DECODED) - first) for _ in range(REPEATS)]
    versions = {"torch": torch.__version__, "transformers": library.__version__}
    return {**_medians(found), "versions": versions}


def bandwidth(device: str = "cuda") -> dict[str, Any]:
    """What the memory can do: bytes read and written by copies within it."""
    import torch

    source = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copies(count: int) -> None:
        for _ in range(count):
            target.copy_(source)

    speeds = [2 * 20 * _COPIED / _timed(lambda: copies(20), device) for _ in range(REPEATS)]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"bandwidth": max(speeds), "gpu": name, "versions": {"torch": torch.__version__}}


def _timed(call: Callable[[], None], device: str) -> float:
    import torch

    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun


def _medians(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
