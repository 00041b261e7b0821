"""Where a bundle's graphs lie and how their files are called: as Transformers.js looks for them.

Enters: a graph's name in the manifest. Leaves: names of files, relative to the bundle's folder. All lie in one folder,
for ONNX Runtime reads external data from beside a graph only. Readers of bundles take the names from the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

FOLDER = "onnx"
EMBED_TOKENS = "embed_tokens"
_STEMS = {
    "vision_encoder": "vision_encoder",
    "embedding": "embedding",
    "decoder": "decoder_model_merged",
    "prefill": "prefill",
    EMBED_TOKENS: EMBED_TOKENS,
}
_DATA_STEMS = _STEMS | {"embedding": EMBED_TOKENS}
"""A browser fetches the data of a graph by that graph's name, and it opens `embed_tokens` in place of `embedding`."""
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "bf16": "_bf16", "int8": "_quantized", "int4": "_q4"}


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """Names of one bundle's files, all with the `suffix` of its precision."""

    suffix: str = ""

    def graph(self, name: str) -> str:
        """The file of a graph."""
        return f"{FOLDER}/{_STEMS[name]}{self.suffix}.onnx"

    def data(self, name: str) -> str:
        """The file of a graph's own weights."""
        return f"{FOLDER}/{_DATA_STEMS[name]}{self.suffix}.onnx_data"


def graph_files(precision: str, float_type: str) -> GraphFiles:
    """Those of a bundle whose smallest weights are of `precision`, and whose activations are of `float_type`."""
    half = precision == "int4" and float_type == "fp16"
    return GraphFiles(suffix="_q4f16" if half else _SUFFIXES[precision])
