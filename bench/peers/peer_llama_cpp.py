"""llama.cpp through llama-cpp-python, compiled for this machine, with the vision tower and projector by its mtmd.

`q4_0`: blocks of 32 weights in 4 bits with a float16 scale, the (tied) head in Q6_K or Q8_0 as llama-quantize chooses;
`q8_0`: 8 bits likewise. Activations are rounded to 8 bits in blocks of 32 as they are multiplied. The vision part is in
float16, as its converter writes it by default; KV cache in float16.

    prepare --checkpoint DIR --out DIR --precision P    write GGUF files and quantise; one JSON line
    measure --model DIR --checkpoint DIR --workload DIR --threads N --precision P    all measures, one JSON line
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bursts import bursts
from gguf_files import write_text, write_vision
from llama_sequences import Sequences, read_image
from own_memory import memory_mb

STEPS = 32
CONTEXT = 2304
"""Positions that room is made for: those of the longest measure."""
ROOM = 32
"""Positions of a sequence more than it needs."""
FTYPES = {"q4_0": 2, "q8_0": 7}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True, choices=list(FTYPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bursts", action="store_true", help="no requests at once")
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"llama-cpp-{args.precision}"}
    if args.verb == "prepare":
        line |= prepare(args.checkpoint, args.out, args.precision)
    else:
        line |= measure(args.model, args.workload, args.threads, not args.no_bursts)
    print(json.dumps(line))


def versions() -> dict[str, str]:
    """Of what computes."""
    from importlib.metadata import version

    return {"llama-cpp-python": version("llama-cpp-python")}


def prepare(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Convert and quantise, imports included."""
    begun = time.perf_counter()
    import llama_cpp

    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((checkpoint / "config.json").read_text())
    whole, text = out / "text-f16.gguf", out / "text.gguf"
    write_text(config, checkpoint, whole)
    write_vision(config, checkpoint, out / "mmproj.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[precision]
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(text).encode(), ctypes.byref(params)):
        raise SystemExit("llama.cpp could not quantise the model")
    whole.unlink()
    size = sum(path.stat().st_size for path in out.iterdir())
    return {
        "export_s": time.perf_counter() - begun,
        "export_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bundle_mb": size / 2**20,
        "versions": versions(),
    }


def measure(folder: Path, workload: Path, threads: int, at_once: bool) -> dict[str, Any]:
    """One pass over all measures."""
    work = json.loads((workload / "workload.json").read_text())
    load_s, parts = timed(lambda: Parts(folder, workload, work, threads))
    first_s, _ = timed(lambda: parts.first())
    found: dict[str, Any] = {
        "versions": versions(),
        "load_s": load_s,
        "first_token_s": load_s + first_s,
        "missing": {},
    }
    parts.read(work["text_ids"][: 512 - STEPS])
    parts.steps(STEPS)
    found |= memory_mb()
    parts.first(other=True)  # warms up
    found |= parts.first()
    found |= parts.second()
    for context in (100, 2000):
        parts.clear()
        parts.read(work["text_ids"][:context])
        found[f"decode_{context}"] = 1 / statistics.median(parts.steps(STEPS))
    found["batch8"] = Sequences(parts, 8, 512).rows_per_second(8, 100)
    if not at_once:
        return found
    many = Sequences(parts, 8, len(work["input_ids"]) + work["burst_tokens"] + ROOM)
    return found | bursts(many.serve, work["burst_images"], found["missing"])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


class Parts:
    """Model, context and projector, and what is measured of them."""

    def __init__(self, folder: Path, workload: Path, work: dict[str, Any], threads: int) -> None:
        import llama_cpp
        from llama_cpp import mtmd_cpp

        self.llama, self.mtmd, self.work, self.threads = llama_cpp, mtmd_cpp, work, threads
        self.workload = workload
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        self._quiet = quiet
        llama_cpp.llama_log_set(quiet, None)
        mtmd_cpp.mtmd_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(folder / "text.gguf").encode(), llama_cpp.llama_model_default_params()
        )
        self.context = self.new_context(1, CONTEXT)
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.print_timings, params.warmup = False, threads, False, False
        self.vision = mtmd_cpp.mtmd_init_from_file(str(folder / "mmproj.gguf").encode(), self.model, params)
        if not self.model or not self.context or not self.vision:
            raise SystemExit("llama.cpp could not load the model")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def new_context(self, sequences: int, length: int) -> Any:
        """A context, everything else by llama.cpp's defaults."""
        params = self.llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = length, 2048, sequences
        params.n_threads = params.n_threads_batch = self.threads
        return self.llama.llama_init_from_model(self.model, params)

    def clear(self) -> None:
        """Forget what is in the KV cache."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        self.past = 0

    def read(self, ids: list[int]) -> None:
        """Read token ids behind what was read; logits of the last."""
        array = (self.llama.llama_token * len(ids))(*ids)
        if self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(array, len(ids))):
            raise SystemExit("llama.cpp could not decode")
        self.past += len(ids)

    def best(self, row: int = -1, context: Any = None) -> int:
        """The most likely next token."""
        import numpy as np

        logits = self.llama.llama_get_logits_ith(context or self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.size,)).argmax())

    def steps(self, count: int) -> list[float]:
        """Seconds of single steps."""
        return [timed(lambda: self.read([self.best()]))[0] for _ in range(count)]

    def encoded(self, name: str) -> tuple[Any, Any]:
        """An image's chunk, and where its embeddings are."""
        import numpy as np
        from PIL import Image

        m = self.mtmd
        pixels = np.asarray(Image.open(self.workload / name).convert("RGB"))
        data = (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes())
        bitmap = m.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], data)
        chunks = m.mtmd_input_chunks_init()
        marker = m.mtmd_default_marker()
        text = m.mtmd_input_text(marker, len(marker), False, True)
        bitmaps = (m.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if m.mtmd_tokenize(self.vision, chunks, ctypes.byref(text), bitmaps, 1):
            raise SystemExit("llama.cpp could not read the image")
        count = m.mtmd_input_chunks_size(chunks)
        found = [m.mtmd_input_chunks_get(chunks, i) for i in range(count)]
        chunk = next(c for c in found if m.mtmd_input_chunk_get_type(c) == m.MTMD_INPUT_CHUNK_TYPE_IMAGE)
        if m.mtmd_encode_chunk(self.vision, chunk):
            raise SystemExit("llama.cpp could not encode the image")
        return chunk, m.mtmd_get_output_embd(self.vision)

    def first(self, *, other: bool = False) -> dict[str, Any]:
        """Image and question up to the first token."""
        work = self.work
        self.clear()
        ids, image = work["input_ids"], work["image_token_id"]
        start = ids.index(image)
        stop = len(ids) - ids[::-1].index(image)
        begun = time.perf_counter()
        chunk, embeddings = self.encoded(work["other_image" if other else "image"])
        encode_s = time.perf_counter() - begun
        if start:
            self.read(ids[:start])
        past = self.read_image(self.context, chunk, embeddings, self.past, 0)
        if past - self.past != stop - start:
            raise SystemExit(f"llama.cpp read {past - self.past} image tokens, expected {stop - start}")
        self.past = past
        self.read(ids[stop:])
        self.best()
        ttft_s = time.perf_counter() - begun
        return {
            "ttft_s": ttft_s,
            "encode_s": encode_s,
            "prefill_s": ttft_s - encode_s,
            "prefill_tokens": len(ids),
        }

    def read_image(self, context: Any, chunk: Any, embeddings: Any, past: int, row: int) -> int:
        """An image's embeddings read into a sequence; its length then."""
        return read_image(self.mtmd, self.vision, context, chunk, embeddings, past, row)

    def second(self) -> dict[str, float]:
        """The second turn over the same cache."""
        work = self.work
        for token in work["second_turn_ids"][len(work["input_ids"]) :][: work["new_tokens"]]:
            self.read([token])
        rest = work["second_turn_ids"][self.past :]
        return {"second_turn_s": timed(lambda: (self.read(rest), self.best()))[0]}


if __name__ == "__main__":
    main()
