"""OpenVINO GenAI: `VLMPipeline` on optimum-intel's export, its tokenizer converted by openvino-tokenizers.

Precisions are those of `openvino_export.py`. Activations are rounded to 8 bits in groups of 32 as they are multiplied,
and the KV cache, in pages of its own scheduler, holds 8 bits: OpenVINO's own defaults on CPUs.

    prepare --checkpoint DIR --out DIR --precision P    one JSON line: time, memory, size
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision P    all measures, one JSON line

It prepares images itself, from pixels, and renders and tokenises prompts: its times hold that. For a SigLIP tower its
processor file must be given a `shortest_edge` and a `crop_size` (`squared`), with which it cuts the image's sides off
where transformers squeezes them: as many pixels and image tokens as elsewhere, but others, so its speed can be
compared, its answers cannot. Nothing is remembered from one request to another, but for the second turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bursts import Served, bursts
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
    line: dict[str, Any] = {"system": f"openvino-genai-{args.precision}"}
    if args.verb == "prepare":
        line |= prepare(args.checkpoint, args.out, args.precision)
    else:
        line |= measure(args.model, args.workload, args.threads, not args.no_bursts)
    print(json.dumps(line))


def versions() -> dict[str, str]:
    """Of what computes."""
    from importlib.metadata import version

    names = ("openvino-genai", "openvino", "openvino-tokenizers", "optimum-intel", "nncf")
    return {name: version(name) for name in names}


def prepare(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Export, compress and convert the tokenizer, imports included."""
    begun = time.perf_counter()
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    export(checkpoint, out, precision)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(out)
    for name, graph in zip(
        ("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True), strict=True
    ):
        openvino.save_model(graph, out / f"openvino_{name}.xml")
    told = out / "preprocessor_config.json"
    told.write_text(json.dumps(squared(json.loads((checkpoint / told.name).read_text())), indent=2) + "\n")
    return {
        "export_s": time.perf_counter() - begun,
        "export_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bundle_mb": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20,
        "versions": versions(),
    }


def squared(processor: dict[str, Any]) -> dict[str, Any]:
    """A processor's fields, and those that OpenVINO GenAI asks for where only height and width are named."""
    size = processor["size"]
    if "shortest_edge" in size:
        return processor
    return processor | {
        "size": {"shortest_edge": size["height"]},
        "crop_size": {"height": size["height"], "width": size["width"]},
    }


def measure(folder: Path, workload: Path, threads: int, at_once: bool) -> dict[str, Any]:
    """One pass over all measures; three pipelines one after another, of which the first is the one that is loaded."""
    work = json.loads((workload / "workload.json").read_text())
    load_s, parts = timed(lambda: Parts(folder, workload, work, threads))
    first_s, _ = timed(lambda: parts.answer(work["question"], "image", 1, raw=False))
    found: dict[str, Any] = {
        "versions": versions(),
        "load_s": load_s,
        "first_token_s": load_s + first_s,
        "missing": {},
    }
    parts.answer(work["prompt"] + parts.words(512 - STEPS), "image", STEPS)
    found |= memory_mb()
    parts.answer(work["question"], "other_image", 8, raw=False)  # warms up
    found |= parts.first_token()
    for context in (100, 2000):
        found[f"decode_{context}"] = 1 / statistics.median(parts.steps(context))
    del parts.pipeline
    found["second_turn_s"] = second_turn(folder, workload, work, threads)
    many = Many(folder, workload, work, threads)
    found["batch8"] = 8 / statistics.median(many.steps([parts.words(100, row) for row in range(8)]))
    if not at_once:
        return found
    many.serve([work["other_image"]])  # warms up
    return found | bursts(many.serve, work["burst_images"], found["missing"])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


def scheduler(*, remembers: bool = False) -> Any:
    """Its own defaults, but for what is remembered from one request to another."""
    import openvino_genai

    config = openvino_genai.SchedulerConfig()
    config.enable_prefix_caching = remembers
    return config


def options(tokens: int, *, raw: bool = True) -> Any:
    """Greedy answers of so many tokens; `raw`: the prompt is rendered already."""
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
    config.apply_chat_template = not raw
    return config


def opened(path: Path) -> Any:
    """An image as a tensor, uint8 [1, height, width, 3]."""
    import numpy as np
    import openvino
    from PIL import Image

    return openvino.Tensor(np.asarray(Image.open(path).convert("RGB"))[None])


class Parts:
    """What is measured of one pipeline that answers one request at a time."""

    def __init__(
        self, folder: Path, workload: Path, work: dict[str, Any], threads: int, *, remembers: bool = False
    ) -> None:
        import openvino_genai

        self.workload, self.work = workload, work
        self.pipeline = openvino_genai.VLMPipeline(
            folder,
            "CPU",
            scheduler_config=scheduler(remembers=remembers),
            INFERENCE_NUM_THREADS=threads,
            PERFORMANCE_HINT="LATENCY",
        )
        self.tokenizer = self.pipeline.get_tokenizer()

    def answer(self, prompt: str, image: str | None, tokens: int, *, raw: bool = True) -> Any:
        """What the pipeline says and tells about its times."""
        images = [opened(self.workload / self.work[image])] if image else []
        return self.pipeline.generate(
            prompt, images=images, generation_config=options(tokens, raw=raw)
        ).perf_metrics

    def words(self, count: int, first: int = 0) -> str:
        """A text of so many tokens."""
        ids = self.work["text_ids"][first : first + count]
        text: str = self.tokenizer.decode(ids)
        if list(self.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]) != ids:
            raise SystemExit("OpenVINO's tokenizer reads the text's tokens as others")
        return text

    def first_token(self) -> dict[str, Any]:
        """Image and question: the whole, by the clock; of it the encoder's part, by the pipeline's own."""
        work = self.work
        ttft_s, told = timed(lambda: self.answer(work["question"], "image", 1, raw=False))
        tokens = told.get_num_input_tokens()
        if abs(tokens - len(work["input_ids"])) > 1:
            raise SystemExit(
                f"OpenVINO GenAI read a prompt of {tokens} tokens, expected {len(work['input_ids'])}"
            )
        encode_s = told.get_prepare_embeddings_duration().mean / 1e3
        return {
            "ttft_s": ttft_s,
            "encode_s": encode_s,
            "prefill_s": ttft_s - encode_s,
            "prefill_tokens": tokens,
        }

    def steps(self, context: int) -> list[float]:
        """Seconds of single steps, of which there is one less than tokens."""
        told = self.answer(self.words(context), None, STEPS + 1).raw_metrics
        return [microseconds / 1e6 for microseconds in told.m_durations]


def second_turn(folder: Path, workload: Path, work: dict[str, Any], threads: int) -> float:
    """Seconds to the second answer's first token, in a pipeline that remembers what it has read."""
    parts = Parts(folder, workload, work, threads, remembers=True)
    parts.pipeline.start_chat()
    parts.answer(work["question"], "image", work["new_tokens"], raw=False)
    second_s, _ = timed(lambda: parts.answer(work["second_question"], None, 1, raw=False))
    return second_s


class Many:
    """A `ContinuousBatchingPipeline`: requests come in one thread, and are computed in another."""

    def __init__(self, folder: Path, workload: Path, work: dict[str, Any], threads: int) -> None:
        import openvino_genai

        self.work, self.workload, self.taken = work, workload, 0
        given = {"INFERENCE_NUM_THREADS": threads}
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            folder, scheduler(), "CPU", given, {}, given
        )

    def add(self, prompt: str, images: list[Any], tokens: int) -> Any:
        """A request's handle."""
        self.taken += 1
        return self.pipeline.add_request(self.taken, prompt, images, options(tokens))

    def steps(self, texts: list[str]) -> list[float]:
        """Seconds of the last steps, in which all texts are continued."""
        handles = [self.add(text, [], STEPS + len(texts) + 1) for text in texts]
        found = []
        while self.pipeline.has_non_finished_requests():
            found.append(timed(self.pipeline.step)[0])
        assert all(handle.can_read() for handle in handles)
        return found[-STEPS - 2 : -2]

    def serve(self, names: Sequence[str]) -> Served:
        """A request for each image, all at once."""
        images = [opened(self.workload / name) for name in names]
        handles: list[Any] = []
        firsts: dict[int, float] = {}
        begun = time.perf_counter()

        def arrive() -> None:
            for image in images:
                handles.append(self.add(self.work["prompt"], [image], self.work["burst_tokens"]))

        door = threading.Thread(target=arrive)
        door.start()
        while door.is_alive() or self.pipeline.has_non_finished_requests():
            if not self.pipeline.has_non_finished_requests():
                time.sleep(0.001)
                continue
            self.pipeline.step()
            now = time.perf_counter() - begun
            for number, handle in enumerate(handles):
                if handle.can_read():
                    firsts.setdefault(number, now)
        seconds = time.perf_counter() - begun
        tokens = sum(len(answer.generated_ids) for handle in handles for answer in handle.read_all())
        return Served(firsts=list(firsts.values()), seconds=seconds, tokens=tokens)


if __name__ == "__main__":
    main()
