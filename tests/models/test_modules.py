"""Our modules in torch, against transformers' on random weights; ONNX is not involved. Float32, tolerance 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from pumice.models.config import LlavaConfig
from pumice.models.decoder import kept_rows
from tests import oracle
from tests.factory import Text, Vision, make_checkpoint
from tests.oracle import ONE, ZERO, Ours

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "one kv head": {"text": Text(heads=4, kv_heads=1)},
    "as many kv heads": {"text": Text(heads=4, kv_heads=4, layers=3)},
    "wide heads": {"text": Text(width=48, heads=3, kv_heads=3, head_dim=32)},
    "biases": {"text": Text(attention_bias=True, mlp_bias=True)},
    "tied": {"text": Text(tied=True)},
    "theta": {"text": Text(rope_theta=5e5, eps=1e-3)},
    "gelu tower": {"vision": Vision(act="gelu", layers=2, heads=2, width=32, eps=1e-3)},
    "full features": {"strategy": "full", "feature_layer": -1},
    "first layer": {"feature_layer": 1},
    "embeddings only": {"feature_layer": -4},  # transformers fails on 0 itself
    "no projector bias": {"projector_bias": False},
    "tanh projector": {"projector_act": "gelu_pytorch_tanh"},
}

Pair = tuple[LlavaForConditionalGeneration, Ours]


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("checkpoint"), **CASES[request.param])
    return oracle.theirs(folder), oracle.ours(folder)


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    theirs, ours = pair
    _, pixels = oracle.prompt(ours.config, images=3)
    expected = torch.cat(list(theirs.get_image_features(pixels).pooler_output))
    torch.testing.assert_close(ours.vision_encoder(pixels), expected, atol=1e-4, rtol=0)
    assert len(expected) == 3 * ours.config.tokens_per_image


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    theirs, ours = pair
    for images in (0, 1, 2):
        ids, pixels = oracle.prompt(ours.config, images=images, seed=images)
        given = pixels if images else None
        expected = theirs(input_ids=ids, pixel_values=given).logits
        torch.testing.assert_close(ours.logits(ids, given), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_over_a_past(pair: Pair) -> None:
    """The same prompt in three pieces: prefill, several tokens over it, and one more."""
    theirs, ours = pair
    ids, _ = oracle.prompt(ours.config, images=0)
    embeds = ours.embedding(ids, torch.zeros(0, ours.config.text.hidden_size))
    expected = theirs(input_ids=ids).logits
    cache, at = ours.empty_cache(), 0
    for length in (2, 1, ids.shape[1] - 3):
        mask = torch.ones(1, at + length, dtype=torch.long)
        logits, cache = ours.decoder(embeds[:, at : at + length], mask, cache, ZERO)
        torch.testing.assert_close(logits, expected[:, at : at + length], atol=1e-4, rtol=0)
        at += length


@torch.no_grad()
def test_ragged_batch(pair: Pair) -> None:
    """Prompts of different lengths, padded on the right, then a token each at its own position."""
    theirs, ours = pair
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 2, 4]
    ids = torch.randint(3, 200, (3, 6), generator=generator)
    features = torch.zeros(0, ours.config.text.hidden_size)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    embeds = ours.embedding(ids[:, :5], features)
    first, cache = ours.decoder(embeds, mask.long(), ours.empty_cache(3), ONE)
    longer = torch.arange(6) < torch.tensor(lengths)[:, None] + 1
    second, _ = ours.decoder(ours.embedding(ids[:, 5:], features), longer.long(), cache, ONE)
    for row, length in enumerate(lengths):
        alone = torch.cat((ids[row, :length], ids[row, 5:]))[None]
        expected = theirs(input_ids=alone).logits[0, -2:]
        torch.testing.assert_close(first[row, 0], expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(second[row, 0], expected[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("last", "keep", "expected"),
    [
        ([4, 1], 1, [[4], [6]]),
        ([4, 1], 2, [[3, 4], [5, 6]]),
        ([4, 1], 0, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        ([4, 0], 9, [[0, 1, 2, 3, 4], [5, 5, 5, 5, 5]]),
    ],
)
def test_kept_rows(last: list[int], keep: int, expected: list[list[int]]) -> None:
    rows = kept_rows(torch.Size((2, 5, 8)), torch.tensor(last), torch.tensor(keep))
    assert rows.tolist() == expected


def test_tokens_per_image(pair: Pair) -> None:
    config: LlavaConfig = pair[1].config
    extra = config.vision_feature_select_strategy == "full"
    assert config.tokens_per_image == (config.vision.image_size // config.vision.patch_size) ** 2 + extra
