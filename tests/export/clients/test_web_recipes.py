"""Recipes for browsers: graphs of operators that ONNX Runtime has there, and each table where a page looks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pumice
from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from tests.export.clients.conftest import Bundles
from tests.export.clients.test_embed_tokens import same_rows

OPENED = ("vision_encoder", "embed_tokens", "decoder_model_merged")
"""By a page."""


def operators(file: Path) -> set[str]:
    return {node.op_type for node in onnx.load(file, load_external_data=False).graph.node}


@pytest.fixture(scope="module")
def tied(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model by web-int4."""
    bundle = tmp_path_factory.mktemp("web") / "bundle"
    export_bundle(bundles["llava-interleave"].checkpoint, bundle, recipe="web-int4")
    return bundle


def test_operators_are_those_of_browsers(tied: Path) -> None:
    for name in OPENED:
        assert "GatherBlockQuantized" not in operators(tied / "onnx" / f"{name}_q4.onnx")


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
