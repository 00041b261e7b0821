"""`requires.onnxruntime` follows from what the graphs hold."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from pumice.bundle.onnx_file import read_onnx
from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from pumice.manifest.operators import LOWEST, Operator, lowest_version
from tests.factory.texts import make_text_checkpoint

ROOT = Path(__file__).parents[2]


def operators(bundle: Path) -> set[Operator]:
    return {held for file in bundle.glob("onnx/*.onnx") for held in read_onnx(file.read_bytes()).operators}


def test_quantised_bundles_open_on_the_lower_bound(pebble_bundle: Path, pebble_bundle_int4: Path) -> None:
    for bundle in (pebble_bundle, pebble_bundle_int4):
        assert load_manifest(bundle).requires.onnxruntime == LOWEST
        assert lowest_version(operators(bundle), makes_unsigned=True, untried="99.0") == LOWEST
    names = {operator.name for operator in operators(pebble_bundle_int4)}
    assert {"MatMulIntegerToFloat", "MatMulNBits", "GatherBlockQuantized"} <= names


def test_the_walker_sees_what_onnx_sees(pebble_bundle_int4: Path) -> None:
    for file in pebble_bundle_int4.glob("onnx/*.onnx"):
        nodes = onnx.load(file, load_external_data=False).graph.node
        theirs = {(node.domain, node.op_type) for node in nodes}
        assert {(held.domain, held.name) for held in read_onnx(file.read_bytes()).operators} == theirs


@pytest.mark.parametrize(("text", "needed"), [("gemma2", "1.24.0"), ("olmo2", LOWEST)])
def test_windows_need_a_newer_one(text: str, needed: str, tmp_path: Path) -> None:
    checkpoint = make_text_checkpoint(tmp_path / "checkpoint", text)
    assert export_bundle(checkpoint, tmp_path / "bundle").requires.onnxruntime == needed
    assert lowest_version(operators(tmp_path / "bundle"), makes_unsigned=False) == needed


def test_every_operator_that_is_written_was_tried() -> None:
    """Those of models/, which trace, and of the passes: no source names one that the table does not."""
    sources = [path.read_text() for folder in ("models", "export") for path in (ROOT / folder).rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"com\.microsoft::(\w+)", text)}
    assert {"GroupQueryAttention", "QuickGelu"} <= named
    written = {Operator(domain="com.microsoft", name=name, inputs=99) for name in named}
    assert lowest_version(written, makes_unsigned=True, untried="99.0") == LOWEST


def test_what_the_table_does_not_know_needs_the_version_it_was_exported_with(
    pebble_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pumice.manifest.operators._TRIED", frozenset())
    monkeypatch.setattr("onnxruntime.__version__", "77.1.0")
    assert export_bundle(pebble_checkpoint, tmp_path / "bundle").requires.onnxruntime == "77.1.0"
