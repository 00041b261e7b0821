"""A head in two halves: the best logits are 8 bits', the others the upper 4 bits', and so is a tied table 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.passes import residual_head
from pumice.export.passes.residual_head import CANDIDATES, halves
from pumice.export.pipeline import export_bundle
from pumice.manifest import load_manifest
from tests import oracle
from tests.export.test_graphs import Graphs
from tests.factory import Text, make_checkpoint

RECIPE = """
{refine}
[decoder]
weights = "{weights}"
accuracy_level = 1

[embedding]
weights = "float"

[[override]]
match = "decoder/layers.*"
weights = "float"
"""


def restored(rows: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the upper half stands for, and what both do; [R, K]."""
    upper, scales, lower = halves(rows, block)
    q, r = (torch.stack((part & 15, part >> 4), dim=-1).flatten(-2).float() - 8 for part in (upper, lower))
    both = scales[..., None] * (q + r / 16), scales[..., None] * q
    return both[1].flatten(1)[:, : rows.shape[1]], both[0].flatten(1)[:, : rows.shape[1]]


@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 100),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_halves_are_within_half_a_step(rows: int, width: int, seed: int, scale: float) -> None:
    """A step of both is a 16th of the upper half's."""
    weights = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale
    step = halves(weights, 32)[1].abs().repeat_interleave(32, 1)[:, :width]
    upper, both = restored(weights, 32)
    assert ((both - weights).abs() <= step / 32 * 1.001).all()
    assert ((upper - weights).abs() <= step * (0.5 + 1 / 32) * 1.001).all()


def test_blocks_of_zeros_stay_zeros() -> None:
    assert not restored(torch.zeros(2, 70), 32)[1].any()


def exported(checkpoint: Path, folder: Path, weights: str, refine: bool) -> Path:
    recipe = folder / f"{weights}-{refine}.toml"
    recipe.write_text(RECIPE.format(weights=weights, refine="refine_head = true" if refine else ""))
    export_bundle(checkpoint, folder / recipe.stem, recipe=recipe)
    return folder / recipe.stem


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("width", [64, 80])
def test_best_logits_are_those_of_both_halves(tied: bool, width: int, tmp_path: Path) -> None:
    """The widths are one that blocks divide, and one that they do not."""
    text = Text(width=width, heads=4, kv_heads=2, vocab_size=500, tied=tied)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=text)
    config = read_config(open_checkpoint(checkpoint).config)
    ids, pixels = oracle.prompt(config)
    graphs = Graphs(exported(checkpoint, tmp_path, "int4", refine=True))
    exact = oracle.ours(checkpoint)
    embeds = graphs.embeds(ids, pixels)
    mask = np.ones(embeds.shape[:2])
    found = graphs.decode(embeds, mask, graphs.empty_cache(), keep=0)[0]
    table = exact.decoder.lm_head.weight.detach()
    hidden = exact_hidden(exact, torch.from_numpy(embeds))
    upper, both = ((hidden @ part.T).numpy() for part in restored(table, 32))
    best = np.argpartition(-upper, CANDIDATES - 1, axis=-1)[..., :CANDIDATES]
    is_best = np.zeros(upper.shape, bool)
    np.put_along_axis(is_best, best, True, axis=-1)
    np.testing.assert_allclose(found[is_best], both[is_best], atol=2e-4)
    np.testing.assert_allclose(found[~is_best], upper[~is_best], atol=2e-4)
    assert np.abs(upper - both).max() > 0.01
    if tied:
        _, rows = restored(table, 32)
        words = np.asarray(ids)[0] != config.image_token_id
        np.testing.assert_allclose(embeds[0][words], rows[np.asarray(ids)[0][words]], atol=1e-6)


def exact_hidden(ours: oracle.Ours, embeds: torch.Tensor) -> torch.Tensor:
    """What enters the head, float32 [B, T, D], in float layers."""
    seen: list[torch.Tensor] = []
    handle = ours.decoder.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ours.decoder(embeds, torch.ones(embeds.shape[:2], dtype=torch.int64), ours.empty_cache(), oracle.ZERO)
    handle.remove()
    return seen[0].detach()


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    """8 bits and a scale, and no more, for head and table together."""
    text = Text(width=64, vocab_size=5000, tied=True)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=text)
    sizes = {}
    for weights, refine in (("int8", False), ("int4", True)):
        manifest = load_manifest(exported(checkpoint, tmp_path, weights, refine))
        sizes[weights] = sum(manifest.files[name].size for name in manifest.graphs.decoder.external_data)
        assert manifest.graphs.embedding.external_data == manifest.graphs.decoder.external_data
    assert abs(sizes["int4"] - sizes["int8"]) < 10_000
    assert {"decoder/lm_head.weight", "decoder/lm_head.residual"} <= set(manifest.precision.quantized)


def test_small_vocabularies_are_refined_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_head, "CANDIDATES", 1000)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text(vocab_size=384))
    ids, pixels = oracle.prompt(read_config(open_checkpoint(checkpoint).config))
    graphs = Graphs(exported(checkpoint, tmp_path, "int4", refine=True))
    embeds = graphs.embeds(ids, pixels)
    found = graphs.decode(embeds, np.ones(embeds.shape[:2]), graphs.empty_cache(), keep=0)[0]
    exact = oracle.ours(checkpoint)
    hidden = exact_hidden(exact, torch.from_numpy(embeds))
    expected = hidden @ restored(exact.decoder.lm_head.weight.detach(), 32)[1].T
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)


def test_a_head_that_is_not_in_4_bits_has_no_halves(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", text=Text())
    manifest = load_manifest(exported(checkpoint, tmp_path, "int8", refine=True))
    assert "decoder/lm_head.residual" not in manifest.precision.quantized
