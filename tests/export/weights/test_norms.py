"""Folded norms leave the features where they were, also where a few channels are large."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.export.weights.norms import fold_norms
from pumice.models.config import LlavaConfig
from pumice.models.weights import Read
from tests import oracle
from tests.factory.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_features_stay(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path)
    plain, folded = oracle.ours(folder), oracle.ours(folder, change=fold_norms)
    size = plain.config.token_side * 3 if plain.config.vision.tower == "pixtral" else None
    side = size or plain.config.vision.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = plain.vision_encoder(pixels)
    torch.testing.assert_close(folded.vision_encoder(pixels), expected, atol=5e-5, rtol=1e-4)
    norms = [p for n, p in folded.vision_encoder.named_parameters() if n.endswith("layer_norm1.weight")]
    assert all(bool((norm == 1).all()) for norm in norms)


def test_every_norm_that_is_emptied_is_taken_up(tmp_path: Path) -> None:
    """Reading through a reader that doubles norms' weights must change nothing but by the fold."""

    def doubled(config: LlavaConfig, read: Read) -> tuple[LlavaConfig, Read]:
        def read_doubled(name: str, start: int, stop: int) -> torch.Tensor:
            value = read(name, start, stop)
            return value * 2 if ".layer_norm" in name else value

        return fold_norms(config, read_doubled)

    folder = FAMILIES["llava-1.5"](tmp_path)
    pixels = torch.randn(1, 3, 56, 56)
    plain, changed = oracle.ours(folder), oracle.ours(folder, change=doubled)
    assert (plain.vision_encoder(pixels) - changed.vision_encoder(pixels)).abs().max() > 0.1
