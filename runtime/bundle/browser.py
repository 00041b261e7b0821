"""What a bundle needs in a browser, before anything is fetched: what is loaded there, and whether a tab holds it.

Enters: a manifest and a context. Leaves: a `BrowserPlan`. The rules are those of Transformers.js 4.3 and of the ONNX
Runtime that it brings: measured in Chromium on WebAssembly, on WebGPU by no measurement (docs/clients/browser.md).

    fetched ─ all files at once ─▶ JavaScript ─ copied ─▶ WebAssembly's memory, or the GPU's ─ keys, values ─▶ an answer
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pumice.bundle.footprint import (
    CHUNK,
    RESIDUAL_HEAD,
    decoder_activation_bytes,
    float_size,
    graph_bits,
    image_tokens,
    logits_bytes,
    position_bytes,
    stored_bytes,
    unpacked_bytes,
    vision_activation_bytes,
)
from pumice.errors import UsageError
from pumice.manifest import Manifest

Processor = Literal["wasm", "webgpu"]

MOST_IN_A_FILE = 0x7FE00000
"""Bytes of the largest array of Chromium's, into which a file is fetched."""
MOST_IN_WASM = 2**32
TABS = (2 * 2**30, 4 * 2**30)
"""What browsers give a tab: little and much."""
PAGE = 350 * 2**20
"""Of a page with Transformers.js and ONNX Runtime: libraries, and 27 MB of WebAssembly as they are compiled."""
ROOM_TO_ANSWER = 512
"""Tokens beside an image's, unless a context is given."""

_FETCHED = (
    1.25  # of each fetched byte, which is in JavaScript until its session is made, and in the cache's hands
)
_COPIED = {
    4: 1.65,
    2: 2.75,
}  # of a float matrix' bytes in WebAssembly: it is copied into another order, as float32
_IN_WASM, _IN_PAGE = 2, 3  # keys and values: past and present; three generations of them, not yet collected
_CONFIGURATION = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True, kw_only=True)
class BrowserPlan:
    """Bytes that a bundle needs in a browser's tab, at the most.

    `files` are fetched when it is loaded. `loading` are held while it is, `answering` from then on, by what they are
    for; `computing` is what of them is WebAssembly's or the GPU's, which is no part of the tab on WebGPU.
    """

    processor: Processor
    context: int
    files: dict[str, int]
    loading: dict[str, int]
    answering: dict[str, int]
    computing: int
    obstacle: str | None
    """Why no browser takes the bundle, however much memory it has; None where one does."""

    @property
    def download(self) -> int:
        """All that is fetched, but the page itself."""
        return sum(self.files.values())

    @property
    def total(self) -> int:
        """All that the tab holds at once, at most."""
        return max(sum(self.loading.values()), sum(self.answering.values()))

    def fits(self, tab: int) -> bool:
        """Whether a tab of so many bytes holds it."""
        return self.obstacle is None and self.total <= tab


def loading_bytes(fetched: int, computing: int) -> dict[str, int]:
    """What a page holds while it loads `fetched` bytes, of which `computing` are made within WebAssembly."""
    return {"page": PAGE, "fetched files": round(_FETCHED * fetched), "weights": computing}


def browser_plan(
    manifest: Manifest, *, context: int | None = None, processor: Processor | None = None
) -> BrowserPlan | None:
    """What a page that answers about an image needs; None where the bundle has no files for Transformers.js.

    Args:
        manifest: of the bundle; nothing else of it is read.
        context: tokens of the prompt and its answer, 1 … context length (default: an image's and 512 more).
        processor: `wasm` (the CPU), or `webgpu`; by default what the bundle's float type is for.

    Raises:
        UsageError: a context outside its interval.
    """
    files = _files(manifest)
    if files is None:
        return None
    shape = manifest.decoder
    most = shape.context_length
    context = min(most, image_tokens(manifest) + ROOM_TO_ANSWER) if context is None else context
    if isinstance(context, bool) or not 1 <= context <= most:
        raise UsageError(f"context is {context!r}, expected 1 to {most:,}")
    processor = processor or ("wasm" if float_size(manifest) == 4 else "webgpu")
    cache = position_bytes(shape) * context
    activations = {
        "vision activations": vision_activation_bytes(manifest),
        "decoder activations": decoder_activation_bytes(shape) * context // CHUNK,  # a prompt goes in at once
        "logits": logits_bytes(shape, 1),
    }
    if processor == "webgpu":
        computing = sum(files.values()) + sum(activations.values()) + _IN_WASM * cache
        loading, answering = loading_bytes(sum(files.values()), 0), {"page": PAGE}
    else:
        weights = _weights_in_wasm(manifest)
        inside = {"weights": weights, **activations, "KV cache": _IN_WASM * cache}
        inside["unpacked matrix"] = unpacked_bytes(manifest, low_memory=True)
        computing = sum(inside.values())
        loading = loading_bytes(sum(files.values()), weights)
        answering = {"page": PAGE, **inside, "KV cache": (_IN_WASM + _IN_PAGE) * cache}
    return BrowserPlan(
        processor=processor,
        context=context,
        files=files,
        loading=loading,
        answering=answering,
        computing=computing,
        obstacle=_obstacle(manifest, files, computing, processor),
    )


def _files(manifest: Manifest) -> dict[str, int] | None:
    """What Transformers.js fetches, by its names; None where the bundle was not made for it."""
    graphs = manifest.graphs
    merged = PurePosixPath(graphs.embedding.file)
    lookup = merged.with_name(merged.name.replace("embedding", "embed_tokens", 1)).as_posix()
    opened = (graphs.vision_encoder, graphs.embedding, graphs.decoder)
    names = [graphs.vision_encoder.file, lookup, graphs.decoder.file]
    names += [name for graph in opened for name in graph.external_data]
    if lookup not in manifest.files:
        return None
    return {name: manifest.files[name].size for name in (*_CONFIGURATION, *names) if name in manifest.files}


def _weights_in_wasm(manifest: Manifest) -> int:
    """Weights where products are computed: quantised ones as they are, floats in another order, all as float32."""
    graphs = manifest.graphs
    own = set(graphs.embedding.external_data) - set(graphs.decoder.external_data)
    table = sum(manifest.files[name].size for name in own)
    sizes = {"vision_encoder": graphs.vision_encoder, "decoder": graphs.decoder}
    copied = _COPIED[float_size(manifest)]
    factors = {
        name: copied if graph_bits(manifest, name) is None else 1.0 for name in ("vision_encoder", "decoder")
    }
    return table + round(sum(stored_bytes(manifest, sizes[name]) * factors[name] for name in sizes))


def _obstacle(manifest: Manifest, files: dict[str, int], computing: int, processor: Processor) -> str | None:
    graphs = manifest.graphs
    if set(graphs.embedding.external_data) & set(graphs.decoder.external_data):
        return (
            "the table lies in the decoder's file, where a page does not look for it: export by a web recipe"
        )
    if RESIDUAL_HEAD in manifest.precision.quantized:
        return "the head is looked up by GatherBlockQuantized, which browsers lack: export by a web recipe"
    largest = max(files, key=lambda name: files[name])
    if files[largest] > MOST_IN_A_FILE:
        return f"{largest} has {files[largest] / 1e6:,.0f} MB, a page fetches {MOST_IN_A_FILE / 1e6:,.0f} MB at most"
    if processor == "wasm" and computing > MOST_IN_WASM:
        return f"{computing / 2**20:,.0f} MiB are more than the 4,096 MiB that WebAssembly has"
    return None
