"""Every type of text model in a bundle, against transformers' whole LLaVA: logits, tokens, fewer bits, and parity."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import pumice
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.export.processor.load import load_processor
from pumice.export.verify.comparison import verify_bundle
from tests import oracle
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Reference, asked
from tests.factory.texts import TEXTS, make_text_checkpoint

pytestmark = pytest.mark.slow

PROMPTS = ("one image", "no image")
ROUNDED = ["qwen3", "phi3 of phi-4", "phi", "gemma", "olmo2 of narrow heads"]
"""Of each way in which a layer is built, one, in 4 bits with channels evened out, and in 8 for prompts."""
TYPES = [name for name in TEXTS if " " not in name or name == "phi3 of phi-4"]
VERIFIED = {"phi3 of phi-4", "gemma", "exaone4"}


def reference(checkpoint: Path) -> Reference:
    config = read_config(open_checkpoint(checkpoint).config)
    return Reference(processor=load_processor(checkpoint, config), model=oracle.theirs(checkpoint))


@pytest.mark.parametrize("name", TYPES)
def test_float32(name: str, tmp_path: Path) -> None:
    checkpoint = make_text_checkpoint(tmp_path / "checkpoint", name)
    manifest = export_bundle(checkpoint, tmp_path / "bundle", precision="fp32")
    assert manifest.source.text_model_type == name.split()[0]
    theirs, model = reference(checkpoint), pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    for prompt in PROMPTS:
        messages, images = asked(prompt)
        inputs = theirs.inputs(prompt)
        expected = theirs.logits(inputs)
        assert expected.std() > 1
        assert np.abs(model.logits(messages, images) - expected).max() <= TOLERANCE
        tokens = theirs.tokens(inputs)
        assert len(tokens) == NEW_TOKENS
        assert list(model.generate(messages, images, max_new_tokens=NEW_TOKENS).token_ids) == tokens
    if name in VERIFIED:
        verified = verify_bundle(tmp_path / "bundle", checkpoint, max_new_tokens=4)
        assert verified.report.summary.passed
        parts = [(case.vision_encoder, case.embedding, case.decoder) for case in verified.report.cases]
        assert all(part is None or part.max <= TOLERANCE for case in parts for part in case)


@pytest.mark.parametrize("name", ROUNDED)
def test_cpu_fast(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = make_text_checkpoint(tmp_path / "checkpoint", name)
    with caplog.at_level(logging.WARNING, "pumice"):
        export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-fast")
    assert ("multiplies words by 8 " in caplog.text) == (name == "gemma")
    theirs, model = reference(checkpoint), pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    for prompt in PROMPTS:
        messages, images = asked(prompt)
        expected = theirs.logits(theirs.inputs(prompt))
        assert np.abs(model.logits(messages, images) - expected).mean() < 0.25 * expected.std()
        answer = model.generate(messages, images, max_new_tokens=4)
        assert len(answer.token_ids) == 4 or answer.finish_reason == "stop"


def test_a_stream_that_cannot_be_turned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stays as it is, which is said; the bundle is right all the same."""
    checkpoint = make_text_checkpoint(tmp_path / "checkpoint", "olmo2")
    with caplog.at_level(logging.WARNING, "pumice"):
        manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-w8a8")
    assert manifest.precision.rotated is False
    assert "text model's norms behind branches do not allow" in caplog.text
    messages, images = asked("one image")
    theirs, model = reference(checkpoint), pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    expected = theirs.logits(theirs.inputs("one image"))
    assert np.abs(model.logits(messages, images) - expected).mean() < 0.05 * expected.std()
