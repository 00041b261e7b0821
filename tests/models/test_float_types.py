"""Modules lowered to a narrower float type, in torch: near float32, which stays at their interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.models.float_types import cache_type, lowered
from tests import oracle
from tests.factory import FAMILIES, make_checkpoint


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)], ids=str)
@torch.no_grad()
def test_near_float32(dtype: torch.dtype, tolerance: float, family: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path)
    wide, narrow = oracle.ours(tmp_path), oracle.ours(tmp_path)
    for part in (narrow.vision_encoder, narrow.embedding, narrow.decoder):
        lowered(part, dtype)
    ids, pixels = oracle.prompt(wide.config)
    features, expected = narrow.vision_encoder(pixels), wide.vision_encoder(pixels)
    assert features.dtype == torch.float32
    assert (features - expected).abs().mean() < tolerance * expected.std()
    embeds, expected = narrow.embedding(ids, features), wide.embedding(ids, expected)
    assert embeds.dtype == torch.float32
    results = []
    for ours, cache in ((narrow, cache_type(dtype)), (wide, torch.float32)):
        text = ours.config.text
        empty = torch.zeros(1, text.num_key_value_heads, 0, text.head_dim, dtype=cache)
        past = [(empty, empty)] * text.num_hidden_layers
        logits, presents = ours.decoder(expected, torch.ones_like(ids), past, torch.tensor(0))
        assert logits.dtype == torch.float32
        assert {part.dtype for layer in presents for part in layer} == {cache}
        results.append(logits)
    assert (results[0] - results[1]).abs().mean() < tolerance * results[1].std()


def test_float32_is_left_alone(tmp_path: Path) -> None:
    ours = oracle.ours(make_checkpoint(tmp_path))
    before = {name: value.clone() for name, value in ours.decoder.state_dict().items()}
    for name, value in lowered(ours.decoder, torch.float32).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
