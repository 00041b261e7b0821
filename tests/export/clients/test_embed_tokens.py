"""The lookup half of the embedding merge: the same rows, by the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pumice.manifest import load_manifest
from tests.bundle_files import graph_file
from tests.export.clients.conftest import Bundles

IDS = np.array([[5, 0, 77], [1, 301, 77]], np.int64)


def external(path: Path) -> set[tuple[str, ...]]:
    """Where a graph's weights lie."""
    graph = onnx.load(path, load_external_data=False).graph
    return {tuple(entry.value for entry in tensor.external_data) for tensor in graph.initializer} - {()}


def same_rows(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    embedding = graph_file(bundle, "embedding")
    embed_tokens = embedding.with_name(embedding.name.replace("embedding", "embed_tokens"))
    features = np.empty((0, manifest.decoder.hidden_size), np.float32)
    expected = onnxruntime.InferenceSession(embedding).run(
        None, {"input_ids": IDS, "image_features": features}
    )
    session = onnxruntime.InferenceSession(embed_tokens)
    assert [value.name for value in session.get_inputs()] == ["input_ids"]
    assert [value.name for value in session.get_outputs()] == ["inputs_embeds"]
    np.testing.assert_array_equal(session.run(None, {"input_ids": IDS})[0], expected[0], strict=True)
    assert external(embed_tokens) == external(embedding)
    assert embed_tokens.stat().st_size < embedding.stat().st_size


def test_float32(pebble_bundle: Path) -> None:
    same_rows(pebble_bundle)


def test_blocks_of_8_bits(pebble_bundle_int4: Path) -> None:
    same_rows(pebble_bundle_int4)


@pytest.mark.parametrize("family", ["llava-interleave", "pixtral"])
def test_a_tied_table_in_two_halves_and_float16(bundles: Bundles, family: str) -> None:
    same_rows(bundles[family].bundle)
