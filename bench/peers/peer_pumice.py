"""pumice, measured as its peers are. Precisions are names of recipes.

`cpu-int4`: the decoder's matrices in 4 bits, blocks of 64 with a float32 scale and a zero point; the head in 4 bits,
its 256 best logits computed in 8; activations in float32 that are rounded to 8 bits where they are multiplied; the
vision tower in 8 bits. `cpu-int8`: 8 bits throughout, in blocks of 32. `cpu-w8a8`: the same by rows, products of
integers. `cpu-fast`: 4 bits where tokens are decoded, 8 bits by rows for prompts. `portable-fp32`: float32.

    prepare --checkpoint DIR --out DIR --precision RECIPE [--optimized] [--bundle DIR]   one JSON line: time, memory,
            size; with --bundle nothing is exported: it is the bundle that the optimised copy is of
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision RECIPE [--optimized]   all measures

Nothing is drafted (prompt lookup is off) and no image or prompt is remembered, but for the second turn, which
continues in the first one's cache as `model.chat` does. Times of answers are those of `pumice.Model` and of its
scheduler, rendering, tokenising and choosing tokens included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from own_memory import memory_mb

DECODED = 32
"""Steps of which the median is taken."""

PADDED = 512
"""Tokens behind image and question when memory is read."""

COPIES = "optimized-copies"
"""A folder in the bundle's for what `pumice optimize` writes, so that the bench drops it from the file cache too."""

OPTIONS: dict[str, Any] = {"eos_token_id": [], "do_sample": False, "prompt_lookup_num_tokens": 0}
"""Greedy answers without an end, and without drafts."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload", "bundle"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bursts", action="store_true", help="no requests at once")
    parser.add_argument("--optimized", action="store_true", help="use the copy that `pumice optimize` makes")
    parser.add_argument("--export", default="", help="more arguments of `pumice export`")
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"pumice-{args.precision}" + ("+optimized" if args.optimized else "")}
    os.environ["PUMICE_CACHE_DIR"] = str((args.out or args.model) / COPIES)
    if args.verb == "prepare":
        more = args.export.split()
        line |= linked(args.bundle, args.out) if args.bundle else prepare(args, more)
        if args.optimized:
            begun = time.perf_counter()
            _pumice("optimize", str(args.out))
            line["optimize_s"] = time.perf_counter() - begun
    else:
        optimized = None if args.optimized else False
        line |= measure(args.model, args.workload, args.threads, optimized, not args.no_bursts)
    print(json.dumps(line))


def prepare(args: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """Export as a user would: with the command line, in a process whose memory is read."""
    begun = time.perf_counter()
    given = ["--recipe", args.precision, "--overwrite", "--no-graph-cache", *more]
    _pumice("export", str(args.checkpoint), str(args.out), *given)
    return {
        "export_s": time.perf_counter() - begun,
        "export_peak_mb": _children_mb(),
        "bundle_mb": sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file()) / 2**20,
        "versions": versions(),
    }


def linked(bundle: Path, out: Path) -> dict[str, Any]:
    """The files of a bundle that was exported already, under another name."""
    shutil.copytree(bundle, out, copy_function=os.link, ignore=shutil.ignore_patterns(COPIES))
    return {}


def _pumice(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pumice", *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"pumice {arguments[0]} failed with exit code {done.returncode}")


def _children_mb() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def versions() -> dict[str, str]:
    """Of pumice and what it runs on."""
    import numpy
    import onnxruntime

    import pumice

    return {
        "pumice": pumice.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


class Workload:
    """What is asked: fields of `workload.json`, paths made whole."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "workload.json").read_text())
        self.image, self.other = str(folder / told["image"]), str(folder / told["other_image"])
        self.question: str = told["question"]
        self.ids: list[int] = told["input_ids"]
        self.second_ids: list[int] = told["second_turn_ids"]
        self.text_ids: list[int] = told["text_ids"]
        self.new_tokens: int = told["new_tokens"]


def measure(
    bundle: Path, folder: Path, threads: int, optimized: bool | None, at_once: bool
) -> dict[str, Any]:
    """One pass over all measures, in an order in which none changes a later one: memory before larger caches."""
    begun = time.perf_counter()
    from pumice import load  # all that loading imports, which `import pumice` puts off

    imported = time.perf_counter()
    work = Workload(folder)
    loading = time.perf_counter()
    model = load(
        bundle,
        device="cpu",
        threads=threads,
        optimized=optimized,
        prefix_cache_bytes=0,
        feature_cache_bytes=0,
    )
    load_s = time.perf_counter() - loading
    first_s, _ = timed(lambda: model.generate(work.question, [work.image], max_new_tokens=1, **OPTIONS))
    found: dict[str, Any] = {
        "versions": versions(),
        "import_s": imported - begun,
        "load_s": load_s,
        "first_token_s": load_s + first_s,
        "missing": {},
    }
    parts = Parts(model, work)
    found |= parts.memory()
    model.generate(work.question, [work.other], max_new_tokens=8, **OPTIONS)  # warms up
    found |= parts.first_token()
    found["second_turn_s"] = parts.second_turn()
    for context in (100, 2000):
        found |= attempt(f"decode_{context}", found["missing"], partial(parts.decoding, [context]))
    found |= attempt("batch8", found["missing"], partial(parts.decoding, [100] * 8))
    if not at_once:
        return found
    from pumice_bursts import engine_bursts  # beside this file, where Python looks first

    from pumice import Engine

    return found | engine_bursts(partial(Engine, model), folder, OPTIONS, found["missing"])


def attempt(name: str, missing: dict[str, str], take: Callable[[], float]) -> dict[str, float | None]:
    """A measure, or why it is missing."""
    try:
        return {name: take()}
    except Exception as error:
        missing[name] = f"{type(error).__name__}: {error}"
        return {name: None}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


class Parts:
    """Measures that take the model's parts: prompts given as token ids, and tokens timed one by one."""

    def __init__(self, model: Any, work: Workload) -> None:
        self.model, self.work, self.pipeline = model, work, model.pipeline

    def first_token(self) -> dict[str, Any]:
        """Image and question: the encoder alone, the prompt alone, and the whole."""
        model, work = self.model, self.work
        ids = model.prepare(work.question, [work.image]).input_ids[0].tolist()
        if ids != work.ids:
            raise SystemExit(
                f"the prompt has other ids than transformers': {len(ids)} instead of {len(work.ids)}"
            )
        ttft_s, whole = timed(
            lambda: model.generate(work.question, [work.image], max_new_tokens=1, **OPTIONS)
        )
        features = model.encode_image(work.image)
        read = model.generate(work.question, [features], max_new_tokens=1, **OPTIONS)
        return {
            "ttft_s": ttft_s,
            "encode_s": whole.timings.vision,
            "prefill_s": read.timings.prefill,
            "prefill_tokens": read.usage.prompt_tokens,
        }

    def memory(self) -> dict[str, float]:
        """MiB, while image, question and 512 more tokens are in the cache, of which 32 were decoded."""
        work = self.work
        request = self.request([*work.ids, *work.text_ids[: PADDED - DECODED]], [work.image], DECODED)
        scheduler = self.scheduler([request])
        while not request.done:
            scheduler.step()
        request.results()
        return memory_mb()

    def second_turn(self) -> float:
        """Seconds to the first token of the second turn's answer; the first turn and its answer are in the cache."""

        work = self.work
        first = self.request(work.ids, [work.image], 1)
        cache = self.pipeline.decoder.new_cache(len(work.second_ids) + DECODED)
        scheduler = self.scheduler([first], cache)
        while not first.done:
            scheduler.step()
        step = self.pipeline.decoder.new_step(cache, 0, 1)
        answer = work.second_ids[len(work.ids) : len(work.ids) + work.new_tokens]
        for token in answer:
            step([token])
        begun = time.perf_counter()
        second = self.request(work.second_ids, first.features.images, 1)
        scheduler.add(second)
        while not second.done:
            scheduler.step()
        second.results()
        from pumice.scheduler.chunks import resumed

        assert second.cached_tokens == resumed(len(work.ids) + len(answer), len(work.second_ids))
        first_s: float = second.clock.first - begun
        return first_s

    def decoding(self, contexts: list[int]) -> float:
        """Tokens a second of all rows together, by the median step, after so many tokens of context each."""
        texts = [self.work.text_ids[row : row + length] for row, length in enumerate(contexts)]
        meanwhile = sum(contexts[1:]) // 16  # those read first decode while others are read
        requests = [self.request(text, [], DECODED + 3 + meanwhile) for text in texts]
        scheduler = self.scheduler(requests)
        while any(request.state != "decode" for request in requests):
            scheduler.step()
        scheduler.step()  # buffers are bound
        steps = [timed(scheduler.step)[0] for _ in range(DECODED)]
        assert all(request.state == "decode" and request.error is None for request in requests)
        return len(contexts) / statistics.median(steps)

    def request(self, ids: list[int], images: list[Any], tokens: int) -> Any:
        """A request for a prompt of given ids."""
        import numpy as np

        from pumice.decoder.prefix_keys import prompt_keys
        from pumice.scheduler.request import Clock, Request
        from pumice.vision.features import PromptFeatures

        pipeline, options = self.pipeline, self.model.options(max_new_tokens=tokens, **OPTIONS)
        prepared = list(pipeline.builder.images(images))
        return Request(
            ids,
            prompt_keys(ids, pipeline.manifest.image_tokens.token_id, prepared),
            PromptFeatures(prepared, pipeline.encoder),
            pipeline.strategies(np.array(ids, np.int64), options),
            Clock(started=time.perf_counter()),
            max_new_tokens=tokens,
        )

    def scheduler(self, requests: list[Any], cache: Any = None) -> Any:
        """A scheduler with a slot for each request, as `Model.generate` has it."""
        from pumice.scheduler.scheduler import Scheduler

        decoder = self.pipeline.decoder
        if cache is None:
            cache = decoder.new_cache(max(request.capacity for request in requests), len(requests))
        scheduler = Scheduler(decoder, cache, None)
        for request in requests:
            scheduler.add(request)
        return scheduler


if __name__ == "__main__":
    main()
