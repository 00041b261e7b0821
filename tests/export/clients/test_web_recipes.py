"""Recipes for browsers: graphs of operators that ONNX Runtime has there, and each table where a page looks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pumice
from pumice.bundle.browser import browser_plan
from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from tests.export.clients.conftest import Bundles
from tests.export.clients.test_embed_tokens import same_rows
from tests.factory import FAMILIES

OPENED = ("vision_encoder", "embed_tokens", "decoder_model_merged")
"""By a page."""


ONNX = (
    *("Add", "Cast", "Clip", "Concat", "Conv", "Cos", "Div", "Equal", "Expand", "Floor", "Gather"),
    *("LayerNormalization", "Log", "MatMul", "Max", "Min", "Mul", "Range", "ReduceSum", "Relu", "Reshape"),
    *("Shape", "SimplifiedLayerNormalization", "Sin", "Slice", "Split", "Squeeze", "Sub", "Transpose"),
    *("Unsqueeze", "Where"),
)
MICROSOFT = (
    *("FastGelu", "Gelu", "GroupQueryAttention", "MatMulNBits", "MultiHeadAttention", "QuickGelu"),
    *("RotaryEmbedding", "SkipSimplifiedLayerNormalization"),
)
RUN_IN_BROWSERS = {*(("", name) for name in ONNX), *(("com.microsoft", name) for name in MICROSOFT)}
"""Operators of bundles that were loaded and asked in Chromium, every family and text model by both recipes."""


def operators(file: Path) -> set[tuple[str, str]]:
    nodes = onnx.load(file, load_external_data=False).graph.node
    return {(node.domain.replace("ai.onnx", ""), node.op_type) for node in nodes}


@pytest.fixture(scope="module")
def tied(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model by web-int4."""
    bundle = tmp_path_factory.mktemp("web") / "bundle"
    export_bundle(bundles["llava-interleave"].checkpoint, bundle, recipe="web-int4")
    return bundle


def test_operators_are_those_of_browsers(tied: Path) -> None:
    for name in OPENED:
        assert operators(tied / "onnx" / f"{name}_q4.onnx") <= RUN_IN_BROWSERS


@pytest.mark.parametrize(("family", "recipe"), [("bakllava", "web-int4"), ("ministral-3", "web-q4f16")])
def test_windows_and_images_of_any_size(family: str, recipe: str, tmp_path: Path) -> None:
    checkpoint = FAMILIES[family](tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe=recipe)
    graphs = sorted((tmp_path / "bundle" / "onnx").glob("*.onnx"))
    opened = [graph for graph in graphs if not graph.name.startswith("embedding_")]
    assert len(opened) == len(OPENED)
    for graph in opened:
        assert operators(graph) <= RUN_IN_BROWSERS
    plan = browser_plan(manifest)
    assert plan is not None
    assert plan.obstacle is None


def test_a_tied_table_is_stored_once_more(tied: Path) -> None:
    graphs = load_manifest(tied).graphs
    assert graphs.embedding.external_data == ("onnx/embed_tokens_q4.onnx_data",)
    assert "onnx/embed_tokens_q4.onnx_data" not in graphs.decoder.external_data
    same_rows(tied)


def test_it_answers_nearly_as_float32(bundles: Bundles, tied: Path, tmp_path: Path) -> None:
    checkpoint = bundles["llava-interleave"].checkpoint
    export_bundle(checkpoint, tmp_path / "exact", clients=False)
    exact, rounded = (
        pumice.load(bundle, device="cpu").logits("what is shown?") for bundle in (tmp_path / "exact", tied)
    )
    assert np.abs(exact - rounded).mean() < 0.35 * exact.std()  # as 4 bits are in test_families
