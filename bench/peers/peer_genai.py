"""onnxruntime-genai: the language model alone, as its builder makes it with `-p int4 -e cpu`. It has no LLaVA.

`int4`: MatMulNBits with blocks of 32 and accuracy level 4 (its defaults), the head included; KV cache in float32.

    prepare --checkpoint DIR --out DIR --precision P    one JSON line: time, memory, size
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision P    all measures, one JSON line

The prompt is as long as that of image and question, in words; what needs an image is missing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bursts import Served, bursts
from own_memory import memory_mb

STEPS = 32
IMAGED = ("first_token_s", "encode_s", "ttft_s", "second_turn_s")
"""Measures that need an image."""
PREFIXES = ("language_model.", "model.language_model.")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True, choices=["int4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bursts", action="store_true", help="no requests at once")
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"genai-{args.precision}"}
    if args.verb == "prepare":
        line |= prepare(args.checkpoint, args.out, args.precision)
    else:
        line |= measure(args.model, args.workload, args.threads, not args.no_bursts)
    print(json.dumps(line))


def versions() -> dict[str, str]:
    """Of what computes."""
    from importlib.metadata import version

    return {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}


def prepare(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Write the language model as a checkpoint of its own, which is not counted, and run the builder."""
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        text = Path(temporary)
        split(checkpoint, text)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        builder += ["-i", str(text), "-o", str(out), "-p", precision, "-e", "cpu", "-c", str(text / "cache")]
        begun = time.perf_counter()
        done = subprocess.run(builder, stdout=sys.stderr, check=False)
        took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"onnxruntime-genai's builder failed with exit code {done.returncode}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "export_s": took,
        "export_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "bundle_mb": size / 2**20,
        "versions": versions(),
    }


def split(checkpoint: Path, text: Path) -> None:
    """The language model of a LLaVA checkpoint, as a checkpoint of its own."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = json.loads((checkpoint / "config.json").read_text())
    kinds = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    inner = config["text_config"]
    inner["architectures"] = [kinds[inner.get("model_type", "llama")]]
    inner.setdefault("tie_word_embeddings", config.get("tie_word_embeddings", False))
    inner = {key: value for key, value in inner.items() if value is not None}
    (text / "config.json").write_text(json.dumps(inner))
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ):
        if (checkpoint / name).is_file():
            (text / name).write_bytes((checkpoint / name).read_bytes())
    tensors = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                for prefix in PREFIXES:
                    if name.startswith(prefix):
                        rest = name.removeprefix(prefix)
                        ours = rest if rest.startswith(("model.", "lm_head.")) else f"model.{rest}"
                        tensors[ours] = opened.get_tensor(name)
                        break
    save_file(tensors, text / "model.safetensors", {"format": "pt"})


def measure(folder: Path, workload: Path, threads: int, at_once: bool) -> dict[str, Any]:
    """One pass over all measures."""
    import onnxruntime_genai as og

    work = json.loads((workload / "workload.json").read_text())
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config))
    ids = work["text_ids"][: len(work["input_ids"])]
    load_s, model = timed(lambda: og.Model(str(folder)))
    parts = Parts(og, model, work)
    first_s, _ = timed(lambda: parts.read([ids]))
    found: dict[str, Any] = {
        "versions": versions(),
        "load_s": load_s,
        "missing": dict.fromkeys(IMAGED, "onnxruntime-genai has no LLaVA: text only"),
        "first_token_s": None,
        "encode_s": None,
        "ttft_s": None,
        "second_turn_s": None,
    }
    print(f"first token of text {load_s + first_s:.2f} s", file=sys.stderr)
    generator = parts.read([[*ids, *work["text_ids"][: 512 - STEPS]]])
    parts.steps(generator, STEPS)
    found |= memory_mb()
    del generator
    found["prefill_s"], _ = timed(lambda: parts.read([ids]))
    found["prefill_tokens"] = len(ids)
    for context in (100, 2000):
        generator = parts.read([work["text_ids"][:context]])
        found[f"decode_{context}"] = 1 / statistics.median(parts.steps(generator, STEPS))
        del generator
    generator = parts.read([work["text_ids"][row : row + 100] for row in range(8)])
    found["batch8"] = 8 / statistics.median(parts.steps(generator, STEPS))
    del generator
    if not at_once:
        return found
    found["missing"]["throughput"] = (
        "onnxruntime-genai has no LLaVA: requests at once are of as many words instead"
    )
    return found | {
        f"text_{name}": value
        for name, value in bursts(parts.serve, work["burst_images"], found["missing"]).items()
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


class Parts:
    """What is measured, of one model."""

    def __init__(self, og: Any, model: Any, work: dict[str, Any]) -> None:
        self.og, self.model, self.work = og, model, work

    def read(self, rows: list[list[int]], tokens: int = STEPS) -> Any:
        """A generator that has read its prompts, and chosen a token behind each."""
        import numpy as np

        params = self.og.GeneratorParams(self.model)
        params.set_search_options(
            do_sample=False,
            batch_size=len(rows),
            max_length=len(rows[0]) + tokens + 16,
            min_length=len(rows[0]) + tokens + 8,
        )
        generator = self.og.Generator(self.model, params)
        generator.append_tokens(np.array(rows, np.int32))
        generator.generate_next_token()
        return generator

    def serve(self, images: Sequence[str]) -> Served:
        """As many prompts at once, of as many words as image and question have tokens, in one batch."""
        work, count = self.work, len(images)
        length = len(work["input_ids"])
        rows = [work["text_ids"][row : row + length] for row in range(count)]
        begun = time.perf_counter()
        generator = self.read(rows, work["burst_tokens"])
        first = time.perf_counter() - begun
        for _ in range(work["burst_tokens"] - 1):
            generator.generate_next_token()
        seconds = time.perf_counter() - begun
        return Served(firsts=[first] * count, seconds=seconds, tokens=count * work["burst_tokens"])

    def steps(self, generator: Any, count: int) -> list[float]:
        """Seconds of single steps of every row."""
        return [timed(generator.generate_next_token)[0] for _ in range(count)]


if __name__ == "__main__":
    main()
