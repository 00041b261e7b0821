"""A text family is one row: a planted one whose norm weights are stored minus one computes what the plain does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, LlamaConfig

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.text_families import TEXT_FAMILIES
from pumice.export.pipeline import export_bundle
from pumice.export.weights.norm_offset import add_norm_offset
from pumice.export.weights.rotation import rotate
from pumice.models.text_weights import TEXT_NORM
from tests import oracle
from tests.factory import Text, make_checkpoint

NAME = "llama-plus-one"


class PlusOneConfig(LlamaConfig):
    model_type = NAME


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row, and a config class as transformers would have it."""
    monkeypatch.setitem(
        TEXT_FAMILIES, NAME, replace(TEXT_FAMILIES["llama"], config=PlusOneConfig, norm_offset=1.0)
    )
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, NAME, PlusOneConfig)


def pair(folder: Path, text: Text) -> tuple[Path, Path]:
    """A Llama, and the same model stored as the planted family stores it: norm weights are exact in both."""
    plain, planted = (make_checkpoint(folder / name, text=text) for name in ("plain", "planted"))
    for checkpoint, offset in ((plain, 0.0), (planted, 1.0)):
        tensors = load_file(checkpoint / "model.safetensors")
        names = {own: name for name, own in open_checkpoint(checkpoint).names.items()}
        norms = [own for own in tensors if TEXT_NORM.match(names[own])]
        assert len(norms) == 2 * text.layers + 1
        for own in norms:
            tensors[own] = (tensors[own] * 1024).round() / 1024 - offset
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    where = planted / "config.json"
    config = json.loads(where.read_text())
    config["text_config"]["model_type"] = NAME
    where.write_text(json.dumps(config))
    return plain, planted


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("change", [None, rotate], ids=["as it is", "rotated"])
def test_logits_are_those_of_the_plain_one(tied: bool, change: oracle.Change | None, tmp_path: Path) -> None:
    plain, planted = pair(tmp_path, Text(tied=tied, attention_bias=True))
    ours = oracle.ours(planted, change)
    ids, pixels = oracle.prompt(ours.config)
    logits = ours.logits(ids, pixels)
    assert torch.equal(logits, oracle.ours(plain, change).logits(ids, pixels))
    assert ours.config.text.norm_offset == 0.0


def test_is_added_once_in_float32_and_to_nothing_else(tmp_path: Path) -> None:
    """Half precision has no 1 + w for a small w."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, dtype="float16"))
    plain = read_config(checkpoint.config)
    assert add_norm_offset(plain, checkpoint.read_canonical) == (plain, checkpoint.read_canonical)
    planted = replace(plain, text=replace(plain.text, norm_offset=1.0))
    config, read = add_norm_offset(planted, checkpoint.read_canonical)
    assert config == plain
    for name, shape in checkpoint.shapes().items():
        rows, stored = read(name, 0, shape[0]), checkpoint.read_canonical(name, 0, shape[0])
        assert torch.equal(rows, stored.float() + 1 if TEXT_NORM.match(name) else stored)
        assert torch.equal(read(name, 1, shape[0]), rows[1:])
    assert add_norm_offset(config, read) == (config, read)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["portable-fp32", "cpu-int4"])
def test_the_bundle_is_that_of_the_plain_one(recipe: str, tmp_path: Path) -> None:
    plain, planted = pair(tmp_path, Text())
    for checkpoint in (plain, planted):
        bundle = tmp_path / f"{checkpoint.name}.bundle"
        manifest = export_bundle(
            checkpoint, bundle, recipe=recipe, clients=False
        )  # which go by the type's name
    assert manifest.source.text_model_type == NAME
    files = sorted(path.name for path in (tmp_path / "plain.bundle" / "onnx").iterdir())
    assert len(files) >= 6
    for name in files:
        assert (tmp_path / "plain.bundle" / "onnx" / name).read_bytes() == (
            tmp_path / "planted.bundle" / "onnx" / name
        ).read_bytes()
