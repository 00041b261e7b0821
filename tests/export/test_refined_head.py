"""The head in 4 bits with its best logits computed again: those are 8 bits', the others 4 bits'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pumice.errors import UsageError
from pumice.export import refined_head
from pumice.export.checkpoint import open_checkpoint
from pumice.export.config import read_config
from pumice.export.export import export_bundle
from pumice.export.recipe import load_recipe
from pumice.export.refined_head import CANDIDATES
from tests import oracle
from tests.export.test_graphs import Graphs
from tests.factory import Text, make_checkpoint

RECIPE = """
[decoder]
weights = "{decoder}"
accuracy_level = 1

[embedding]
weights = "int8"
"""
REFINED = '\n[refined_head]\nweights = "int8"\n'


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("width", [64, 80])
def test_best_logits_are_those_of_the_nearer_head(tied: bool, width: int, tmp_path: Path) -> None:
    """All three bundles have the same layers; the widths are one that blocks divide, and one that they do not."""
    text = Text(width=width, heads=4, kv_heads=2, vocab_size=500, tied=tied)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=text)
    layers = '\n[[override]]\nmatch = "decoder/layers.*"\nweights = "float"\n'
    found = {}
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    for name, recipe in {
        "four": RECIPE.format(decoder="int4") + layers,
        "eight": RECIPE.format(decoder="int8") + layers,
        "refined": RECIPE.format(decoder="int4") + REFINED + layers,
    }.items():
        path = tmp_path / f"{name}.toml"
        path.write_text(recipe)
        # the table of the tied, unrefined model would be 4 bits: all three look up in the same embeddings
        export_bundle(checkpoint, tmp_path / name, recipe=path)
        graphs = Graphs(tmp_path / name)
        embeds = Graphs(tmp_path / "four").embeds(ids, pixels)
        found[name] = graphs.decode(embeds, np.ones(embeds.shape[:2]), graphs.empty_cache(), keep=0)[0]
    best = np.argpartition(-found["four"], CANDIDATES - 1, axis=-1)[..., :CANDIDATES]
    is_best = np.zeros(found["four"].shape, bool)
    np.put_along_axis(is_best, best, True, axis=-1)
    np.testing.assert_allclose(found["refined"][is_best], found["eight"][is_best], atol=1e-4)
    np.testing.assert_array_equal(found["refined"][~is_best], found["four"][~is_best])
    assert np.abs(found["four"] - found["eight"]).max() > 0.01
    assert not is_best.all()


def test_a_tied_table_is_the_nearer_copy(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(tied=True))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-int4")
    assert manifest.graphs.embedding.external_data == ("decoder.onnx_data",)
    precision = manifest.precision
    bits = {name: precision.other_bits.get(name, precision.bits) for name in precision.quantized}
    assert bits["decoder/lm_head.weight"] == 4
    assert bits["decoder/lm_head.refined"] == bits["embedding/weight"] == 8


def test_small_vocabularies_are_refined_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined_head, "CANDIDATES", 1000)
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle", recipe="cpu-int4")
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    assert np.isfinite(Graphs(tmp_path / "bundle").logits(ids, pixels)).all()


def test_float_copies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[decoder]\nweights = "int4"\n[refined_head]\nweights = "float"\n')
    with pytest.raises(UsageError, match="refined_head has float weights, expected int8 or int4"):
        load_recipe(path)
