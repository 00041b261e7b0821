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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEPS = 32
CONTEXT = 2304
"""Positions that room is made for: those of the longest measure."""
FTYPES = {"q4_0": 2, "q8_0": 7}
TEXT_PREFIXES = ("language_model.", "model.language_model.")
TOWER = {
    "embeddings.position_embedding": "v.position_embd",
    "embeddings.patch_embedding": "v.patch_embd",
    "pre_layrnorm": "v.pre_ln",
}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["prepare", "measure"])
    for name in ("checkpoint", "out", "model", "workload"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--precision", required=True, choices=list(FTYPES))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    line: dict[str, Any] = {"system": f"llama-cpp-{args.precision}"}
    if args.verb == "prepare":
        line |= prepare(args.checkpoint, args.out, args.precision)
    else:
        line |= measure(args.model, args.workload, args.threads)
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


def tensors(checkpoint: Path, prefixes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Tensors with one of the prefixes, without it, as float32 arrays."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                prefix = next((p for p in prefixes if name.startswith(p)), None)
                if prefix is not None:
                    yield name.removeprefix(prefix), opened.get_tensor(name).float().numpy()


def write_text(config: dict[str, Any], checkpoint: Path, path: Path) -> None:
    """The language model as float16, without a vocabulary: prompts are given as token ids."""
    import gguf
    import numpy as np

    text = config["text_config"]
    kind = "qwen2" if text.get("model_type") == "qwen2" else "llama"
    heads, layers = text["num_attention_heads"], text["num_hidden_layers"]
    kv_heads = text.get("num_key_value_heads", heads)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(layers)
    writer.add_context_length(text.get("max_position_embeddings", 4096))
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    head_dim = text.get("head_dim") or text["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(text.get("rms_norm_eps", 1e-6))
    theta = text.get("rope_theta") or (text.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(text["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    arch = gguf.MODEL_ARCH.QWEN2 if kind == "qwen2" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(arch, layers)
    for name, array in tensors(checkpoint, TEXT_PREFIXES):
        full = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        ours = names.get_name(full, (".weight", ".bias"))
        if kind == "llama" and ".q_proj." in full:
            array = interleaved(array, heads)
        if kind == "llama" and ".k_proj." in full:
            array = interleaved(array, kv_heads)
        writer.add_tensor(ours, array.astype(np.float16) if array.ndim == 2 else array)
    finish(writer)


def interleaved(array: Any, heads: int) -> Any:
    """Rows of a query or key projection, from rotary halves to the pairs that llama.cpp turns."""
    return (
        array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        .swapaxes(1, 2)
        .reshape(array.shape)
    )


def write_vision(config: dict[str, Any], checkpoint: Path, path: Path) -> None:
    """Tower and projector, up to the layer that is tapped."""
    import gguf
    import numpy as np

    vision = config["vision_config"]
    layer = config.get("vision_feature_layer", -2)
    depth = vision["num_hidden_layers"] + 1 + layer if layer < 0 else layer
    processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", vision.get("hidden_act", "quick_gelu") != "quick_gelu")
    for key, value in {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embedding_length": vision["hidden_size"],
        "feed_forward_length": vision["intermediate_size"],
        "block_count": depth,
        "projection_dim": config["text_config"]["hidden_size"],
        "attention.head_count": vision["num_attention_heads"],
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.get("layer_norm_eps", 1e-5))
    writer.add_array("clip.vision.feature_layer", [depth])
    writer.add_array("clip.vision.image_mean", [float(v) for v in processor["image_mean"]])
    writer.add_array("clip.vision.image_std", [float(v) for v in processor["image_std"]])
    prefixes = tuple(
        f"{outer}vision_tower.{inner}" for outer in ("model.", "") for inner in ("vision_model.", "")
    )
    found = dict(tensors(checkpoint, prefixes))
    for name, array in found.items():
        ours = vision_name(name, depth)
        if ours is not None:
            writer.add_tensor(
                ours,
                array.astype(np.float16) if array.ndim > 1 and ours != "v.position_embd.weight" else array,
            )
    for name, array in tensors(checkpoint, ("multi_modal_projector.", "model.multi_modal_projector.")):
        number = {"linear_1": 0, "linear_2": 2}[name.partition(".")[0]]
        writer.add_tensor(
            f"mm.{number}.{name.rpartition('.')[2]}", array.astype(np.float16) if array.ndim > 1 else array
        )
    finish(writer)


def vision_name(name: str, depth: int) -> str | None:
    """What a tensor of the tower is called in GGUF; None for what the tapped layer does not need."""
    stem, _, leaf = name.rpartition(".")
    if name == "embeddings.class_embedding":
        return "v.class_embd"
    if stem in TOWER:
        return f"{TOWER[stem]}.{leaf}"
    if not stem.startswith("encoder.layers."):
        return None
    number, _, part = stem.removeprefix("encoder.layers.").partition(".")
    return f"v.blk.{number}.{LAYER[part]}.{leaf}" if int(number) < depth else None


def finish(writer: Any) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure(folder: Path, workload: Path, threads: int) -> dict[str, Any]:
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
    found["batch8"] = parts.batch(8, 100)
    return found


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
        """The likeliest next token."""
        import numpy as np

        logits = self.llama.llama_get_logits_ith(context or self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.size,)).argmax())

    def steps(self, count: int) -> list[float]:
        """Seconds of single steps."""
        return [timed(lambda: self.read([self.best()]))[0] for _ in range(count)]

    def encoded(self, name: str) -> tuple[Any, Any]:
        """A picture's chunk, and where its embeddings are."""
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
            raise SystemExit("llama.cpp could not read the picture")
        count = m.mtmd_input_chunks_size(chunks)
        found = [m.mtmd_input_chunks_get(chunks, i) for i in range(count)]
        chunk = next(c for c in found if m.mtmd_input_chunk_get_type(c) == m.MTMD_INPUT_CHUNK_TYPE_IMAGE)
        if m.mtmd_encode_chunk(self.vision, chunk):
            raise SystemExit("llama.cpp could not encode the picture")
        return chunk, m.mtmd_get_output_embd(self.vision)

    def first(self, *, other: bool = False) -> dict[str, Any]:
        """Picture and question up to the first token."""
        work = self.work
        self.clear()
        ids, image = work["input_ids"], work["image_token_id"]
        start = ids.index(image)
        stop = len(ids) - ids[::-1].index(image)
        begun = time.perf_counter()
        chunk, embeddings = self.encoded(work["other_picture" if other else "picture"])
        encode_s = time.perf_counter() - begun
        if start:
            self.read(ids[:start])
        past, nothing = self.llama.llama_pos(0), self.mtmd.mtmd_helper_post_decode_callback(0)
        failed = self.mtmd.mtmd_helper_decode_image_chunk(
            self.vision,
            self.context,
            chunk,
            embeddings,
            self.past,
            0,
            2048,
            ctypes.byref(past),
            nothing,
            None,
        )
        if failed or past.value - self.past != stop - start:
            raise SystemExit(f"llama.cpp read {past.value - self.past} image tokens, expected {stop - start}")
        self.past = past.value
        self.read(ids[stop:])
        self.best()
        ttft_s = time.perf_counter() - begun
        return {
            "ttft_s": ttft_s,
            "encode_s": encode_s,
            "prefill_s": ttft_s - encode_s,
            "prefill_tokens": len(ids),
        }

    def second(self) -> dict[str, float]:
        """The second turn over the same cache."""
        work = self.work
        for token in work["second_turn_ids"][len(work["input_ids"]) :][: work["new_tokens"]]:
            self.read([token])
        rest = work["second_turn_ids"][self.past :]
        return {"second_turn_s": timed(lambda: (self.read(rest), self.best()))[0]}

    def batch(self, rows: int, length: int) -> float:
        """Tokens a second of all rows together, by the median step."""
        llama, context = self.llama, self.new_context(rows, 512 * rows)
        texts = [self.work["text_ids"][row : row + length] for row in range(rows)]
        batch = llama.llama_batch_init(rows * length, 0, rows)
        fill(
            batch, [(t, i, row, i == length - 1) for row, ids in enumerate(texts) for i, t in enumerate(ids)]
        )
        if not context or llama.llama_decode(context, batch):
            raise SystemExit("llama.cpp could not decode eight rows")
        tokens = [self.best(length * (row + 1) - 1, context) for row in range(rows)]
        found = []
        for step in range(STEPS):
            begun = time.perf_counter()
            fill(batch, [(token, length + step, row, True) for row, token in enumerate(tokens)])
            if llama.llama_decode(context, batch):
                raise SystemExit("llama.cpp could not decode eight rows")
            tokens = [self.best(row, context) for row in range(rows)]
            found.append(time.perf_counter() - begun)
        return rows / statistics.median(found)


def fill(batch: Any, items: list[tuple[int, int, int, bool]]) -> None:
    """Put (token, position, sequence, whether logits are wanted) into a batch."""
    batch.n_tokens = len(items)
    for i, (token, position, sequence, logits) in enumerate(items):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def memory_mb() -> dict[str, float]:
    """MiB of this process: resident, of it private, and the highest so far."""
    status = _kib(Path("/proc/self/status"))
    return {
        "resident_mb": status["VmRSS"] / 1024,
        "private_mb": _kib(Path("/proc/self/smaps_rollup"))["Private_Dirty"] / 1024,
        "peak_mb": status["VmHWM"] / 1024,
    }


def _kib(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


if __name__ == "__main__":
    main()
