"""Recipes that go by activations, end to end: nearer to the checkpoint, and refused where they mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pumice.errors import UsageError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from tests import oracle
from tests.bundle_files import data_file
from tests.export.test_graphs import Graphs
from tests.factory import Text, make_checkpoint

RECIPE = """
balance = {balance}
[decoder]
weights = "int4"
block_size = 64
symmetric = false
search = "{search}"
[[override]]
match = "decoder/lm_head.weight"
weights = "float"
"""


def muted(folder: Path) -> Path:
    """A checkpoint whose stream has a few massive channels, which the norms mute: as real ones have."""
    from safetensors.torch import load_file, save_file

    make_checkpoint(folder, text=Text(width=128, heads=4, kv_heads=2, mlp=256, layers=3))
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if name.endswith("embed_tokens.weight"):
            tensor[:, ::29] = 30
        elif "layernorm.weight" in name and "language_model" in name:
            tensor[::29] *= 0.02
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def error(checkpoint: Path, bundle: Path) -> float:
    """Of logits, relative, mean square."""
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    exact = oracle.ours(checkpoint).logits(ids, pixels).detach().numpy()
    found = Graphs(bundle).logits(ids, pixels)
    return float(np.square(found - exact).sum() / np.square(exact).sum())


def test_activations_make_it_nearer(tmp_path: Path) -> None:
    checkpoint = muted(tmp_path / "checkpoint")
    errors = {}
    for name, balance, search, text in (
        ("weights", "false", "k-quant", None),
        ("importance", "false", "activations", None),
        ("balance", "true", "activations", None),
        ("feedback", "true", "activations", "text"),
    ):
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(RECIPE.format(balance=balance, search=search))
        export_bundle(checkpoint, tmp_path / name, recipe=recipe, calibrate=text)
        errors[name] = error(checkpoint, tmp_path / name)
    # Of random weights there is little to gain; how much it is with those of a real model tells `make real`.
    assert errors["importance"] < 0.9 * errors["weights"]
    assert errors["balance"] < 0.85 * errors["weights"]
    assert errors["feedback"] < 0.8 * errors["weights"]


def test_exports_are_the_same_each_time(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(layers=6))
    for name in ("one", "two"):
        export_bundle(checkpoint, tmp_path / name, recipe="cpu-fast", calibrate="text")
    for name in ("decoder", "prefill"):
        one, two = (data_file(tmp_path / folder, name) for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_text_for_a_recipe_without_calibration_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match="the recipe cpu-w8a8 goes by no activations"):
        export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-w8a8", calibrate="text")
    assert not (tmp_path / "bundle").exists()
