"""The prefill graph: the decoder's own keys and values, of prompts read in any number of parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.storage import weight_tables
from pumice.export.trace.decoder import cache_names
from pumice.manifest import SCHEMA_VERSION
from tests import oracle
from tests.bundle_files import graph_file
from tests.export.test_graphs import Graphs
from tests.factory import Text, make_checkpoint

TEXTS = {
    "one layer": Text(layers=1),
    "two layers": Text(layers=2, attention_bias=True),
    "many layers": Text(layers=6, tied=True),
    "windows": Text(kind="qwen2", sliding_window=5, full_layers=2, layers=5),
}


class Prefill:
    """The graph on ONNX Runtime."""

    def __init__(self, bundle: Path) -> None:
        self._session = onnxruntime.InferenceSession(graph_file(bundle, "prefill"))
        self.outputs = [tensor.name for tensor in self._session.get_outputs()]

    def __call__(self, embeds: np.ndarray, cache: list[np.ndarray]) -> list[np.ndarray]:
        past = cache[0].shape[2]
        feeds = dict(zip(cache_names("past_key_values", len(cache) // 2), cache, strict=True))
        mask = np.ones((1, past + embeds.shape[1]), np.int64)
        return list(self._session.run(None, feeds | {"inputs_embeds": embeds, "attention_mask": mask}))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("parts", [1, 3])
def test_keys_and_values_are_the_decoders(text: Text, parts: int, tmp_path: Path) -> None:
    """In float32, where nothing but the order of sums may differ."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=text)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[prefill]\nweights = "float"\n')
    export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe)
    graphs, prefill = Graphs(tmp_path / "bundle"), Prefill(tmp_path / "bundle")
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    embeds = graphs.embeds(ids, pixels)
    expected = graphs.decode(embeds, np.ones(embeds.shape[:2]), graphs.empty_cache())[1]
    cache = graphs.empty_cache()
    for part in np.array_split(embeds, parts, axis=1):
        cache = prefill(part, cache)
    assert prefill.outputs == cache_names("present", text.layers)
    for found, wanted in zip(cache, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_integer_prefill_does_not_depend_on_the_parts(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(layers=3))
    export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-fast")
    graphs, prefill = Graphs(tmp_path / "bundle"), Prefill(tmp_path / "bundle")
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    embeds = graphs.embeds(ids, pixels)
    whole = prefill(embeds, graphs.empty_cache())
    cache = graphs.empty_cache()
    for part in np.array_split(embeds, 4, axis=1):
        cache = prefill(part, cache)
    for found, wanted in zip(cache, whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_is_stored_and_how_it_is_told(tmp_path: Path) -> None:
    """Nothing that only logits need; rotary tables once; and readers of older schemas read the bundle."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(layers=2))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-fast")
    prefill = manifest.graphs.prefill
    assert prefill is not None
    assert prefill.external_data == (
        "onnx/decoder_model_merged_q4.onnx_data",
        "onnx/prefill_q4.onnx_data",
    )
    assert manifest.graphs.all[-1] is prefill
    assert manifest.schema_version < SCHEMA_VERSION
    config = read_config(open_checkpoint(checkpoint).config)
    table = weight_tables(config, prefill=True)["prefill"]
    last = {name.split(".", 2)[2] for name in table if name.startswith("layers.1.")}
    assert last == {"input_layernorm.weight", "self_attn.qkv.weight"}
    assert {name.split(".")[0] for name in table} == {"layers"}
    quantized = {name for name in manifest.precision.quantized if name.startswith("prefill/")}
    assert len(quantized) == 5 + 1


def test_bundles_without_it_say_so(tmp_path: Path) -> None:
    manifest = export_bundle(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle", recipe="cpu-int4")
    assert manifest.graphs.prefill is None
    assert len(manifest.graphs.all) == 3
    assert not list((tmp_path / "bundle" / "onnx").glob("prefill*"))
