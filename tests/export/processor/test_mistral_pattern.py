"""The pattern by which Mistral's tokenizers split text: transformers' choice goes into the bundle, and is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.processor.describe import copy, describe
from pumice.export.processor.load import load_processor
from tests.factory import FAMILIES

LARGE = 100_001
"""Tokens of a vocabulary from which on transformers asks whose it is."""
TEXT = "HelloWorld, it's 2026!"


@pytest.mark.parametrize("mended", [False, True])
def test_a_tokenizer_splits_as_in_transformers(
    mended: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = FAMILIES["mistral-small"](tmp_path / "checkpoint")
    parsed = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = parsed["model"]["vocab"]
    vocabulary |= {f"zzq{number}": number for number in range(len(vocabulary), LARGE)}
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"fix_mistral_regex": True} if mended else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(folder)
    config = read_config(checkpoint.config)
    describe(checkpoint, config)
    assert ("may split text otherwise" in caplog.text) == (not mended)
    (tmp_path / "bundle").mkdir()
    copy(checkpoint, tmp_path / "bundle")
    written = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    assert written.encode(TEXT).ids == load_processor(folder, config).tokenizer(TEXT)["input_ids"]
    changed = (tmp_path / "bundle" / "tokenizer.json").read_bytes() != (
        folder / "tokenizer.json"
    ).read_bytes()
    assert changed == mended
