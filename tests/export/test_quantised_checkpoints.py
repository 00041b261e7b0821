"""Checkpoints that are quantised already, exported: the bundle that their float values make, and the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pumice
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.export.verify.comparison import verify_bundle
from tests import oracle
from tests.factory import make_checkpoint
from tests.factory.quantised import EIGHT_BITS, quantise

pytestmark = pytest.mark.slow

TOLERANCE = 2e-4
NEW_TOKENS = 32
IMAGE = drawn_image(0, (60, 40))
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is shown?"}]}]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("float"), dtype="bfloat16")


def check_answers(bundle: Path, plain: Path, tolerance: float = TOLERANCE) -> None:
    """Logits and greedy tokens against transformers' model of the float values."""
    processor = load_processor(plain, read_config(open_checkpoint(plain).config))
    theirs = oracle.theirs(plain)
    shown = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, MESSAGES[0]["content"][1]]}]
    inputs = processor.apply_chat_template(
        shown, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**inputs).logits[0].numpy()
        tokens = theirs.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
    model = pumice.load(bundle, device="cpu", threads=1)
    assert expected.std() > 1  # or equality would mean little
    assert np.abs(model.logits(MESSAGES, [IMAGE]) - expected).max() <= tolerance
    result = model.generate(MESSAGES, [IMAGE], max_new_tokens=NEW_TOKENS)
    assert list(result.token_ids) == tokens[inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("kind", ["fp8 per tensor", "fp8 blocks", "float-quantized channel"])
def test_eight_bits_in_float32(source: Path, tmp_path: Path, kind: str) -> None:
    """The weights are bit for bit those of the float checkpoint; verify and transformers agree."""
    quantised, plain = quantise(source, tmp_path, EIGHT_BITS[kind])
    export_bundle(quantised, tmp_path / "bundle")
    export_bundle(plain, tmp_path / "expected")
    for name in ("decoder", "embedding", "vision_encoder"):
        file = f"{name}.onnx_data"
        assert (tmp_path / "bundle" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
    report = verify_bundle(tmp_path / "bundle", quantised).report
    assert report.summary.passed
    assert report.summary.verdict == "exact"
    check_answers(tmp_path / "bundle", plain)


def test_eight_bits_by_another_recipe(source: Path, tmp_path: Path) -> None:
    """Any recipe goes, rotation and balance too: rows are ordinary rows."""
    quantised, plain = quantise(source, tmp_path, EIGHT_BITS["float-quantized blocks"])
    for recipe in ("cpu-int4", "cpu-w8a8"):
        files = [
            export_bundle(folder, tmp_path / recipe / folder.name, recipe=recipe).files
            for folder in (quantised, plain)
        ]
        assert files[0]["decoder.onnx_data"] == files[1]["decoder.onnx_data"]
