"""Our modules in torch, against transformers' on random weights; ONNX is not involved. Float32, tolerance 1e-4."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import PreTrainedModel

from pumice.models.config import LlavaConfig
from pumice.models.decoder import Decoder, greedy_token, kept_rows
from pumice.models.text_block import query_growth
from tests import oracle
from tests.factory import FAMILIES, TILED, Text, Vision, make_checkpoint
from tests.factory.families import MINISTRAL_ROPE
from tests.oracle import ONE, ZERO, Ours
from tests.shapes import checkpoints

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
    "several layers": {"feature_layer": (-1, 1, -2, 1)},
    "several full layers": {"feature_layer": (2, -2), "strategy": "full"},
    "siglip without its first patch": {"vision": Vision(tower="siglip", width=36), "strategy": "default"},
    "siglip layers": {"vision": Vision(tower="siglip"), "strategy": "full", "feature_layer": (-1, 0, 2)},
    "siglip of odd heads": {"vision": Vision(tower="siglip", width=35, heads=5, act="gelu_fast")},
    "pixtral layers": {
        "vision": Vision(tower="pixtral", width=40, heads=2, rope_theta=100.0),
        "strategy": "full",
        "feature_layer": (-1, -3, 0),
    },
    "some windows": {"text": Text(kind="qwen2", sliding_window=5, full_layers=1, layers=3)},
    "window of one": {"text": Text(kind="mistral", sliding_window=1)},
    "growing queries": {
        "text": Text(
            kind="ministral3",
            head_dim=16,
            rope_scaling=MINISTRAL_ROPE | {"original_max_position_embeddings": 3},
        )
    },
    "squared relu": {"text": Text(act="relu2"), "projector_act": "relu"},
}

Pair = tuple[PreTrainedModel, Ours]


@pytest.fixture(scope="module", params=[*(f for f in FAMILIES if f not in TILED), *CASES])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    if request.param in FAMILIES:
        FAMILIES[request.param](folder)
    else:
        make_checkpoint(folder, **CASES[request.param])
    return oracle.theirs(folder), oracle.ours(folder)


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    theirs, ours = pair
    ids, pixels = oracle.prompt(ours.config, images=3)
    given = oracle.given_images(ours.config, pixels)
    expected = torch.cat(list(theirs.get_image_features(**given).pooler_output))
    torch.testing.assert_close(ours.vision_encoder(pixels), expected, atol=1e-4, rtol=0)
    assert len(expected) == (ids == ours.config.image_token_id).sum()


@torch.no_grad()
@pytest.mark.parametrize("family", TILED)
def test_tiles(family: str, tmp_path: Path) -> None:
    """Each tile's features, and behind them the row that transformers puts at the end of a line."""
    folder = FAMILIES[family](tmp_path)
    theirs, ours = oracle.theirs(folder), oracle.ours(folder)
    side, wide = ours.config.vision.image_size, (ours.config.image_grid_pinpoints or ())[0]
    assert wide[0] == side  # one row of tiles
    tiles = wide[1] // side
    pixels = torch.randn(1, 1 + tiles, 3, side, side)
    factor = getattr(
        theirs.config.text_config, "embedding_multiplier", 1.0
    )  # a Granite's, of all that enters
    expected = factor * theirs.get_image_features(pixels, torch.tensor([wide])).pooler_output[0]
    count = ours.config.tokens_per_image or 0
    frame = count // 4 if family == "llava-next-video" else 0
    rows = ours.vision_encoder(pixels[0]).view(1 + tiles, count + frame + 1, -1)
    torch.testing.assert_close(rows[0, :count], expected[:count], atol=1e-4, rtol=1e-5)
    if frame:
        pooled = theirs.get_video_features(pixels).pooler_output[0].view(1 + tiles, frame, -1)
        torch.testing.assert_close(rows[:, count:-1], pooled, atol=1e-4, rtol=1e-5)
    across = math.isqrt(count)
    first_line = torch.cat([*rows[1:, :across], rows[0, -1:]])
    torch.testing.assert_close(first_line, expected[count : count + len(first_line)], atol=1e-4, rtol=1e-5)
    assert all(torch.equal(row, factor * theirs.model.image_newline) for row in rows[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("family", ["pixtral", "mistral-small", "ministral-3"])
def test_images_of_several_sizes(family: str, tmp_path: Path) -> None:
    """transformers packs them into one sequence; here each is encoded by itself."""
    folder = FAMILIES[family](tmp_path)
    theirs, ours = oracle.theirs(folder), oracle.ours(folder)
    side = ours.config.token_side
    sizes = [(side, side), (3 * side, 2 * side), (side, 6 * side), (5 * side, 5 * side)]
    packed = torch.zeros(len(sizes), 3, 5 * side, 6 * side)
    images = [torch.randn(1, 3, *size) for size in sizes]
    for row, image in zip(packed, images, strict=True):
        row[:, : image.shape[2], : image.shape[3]] = image[0]
    expected = theirs.get_image_features(packed, image_sizes=torch.tensor(sizes)).pooler_output
    for image, features in zip(images, expected, strict=True):
        torch.testing.assert_close(ours.vision_encoder(image), features, atol=1e-4, rtol=0)


@torch.no_grad()
def test_patches_are_merged_bit_for_bit(tmp_path: Path) -> None:
    """With a matrix that only puts values in their places, for an image of 3 × 5 merged patches beside another."""
    folder = FAMILIES["mistral-small"](tmp_path)
    theirs, ours = oracle.theirs(folder), oracle.ours(folder)
    merger, projector = ours.vision_encoder.merger, theirs.model.multi_modal_projector
    assert merger is not None
    order = torch.randperm(len(merger.merging_layer.weight), generator=torch.Generator().manual_seed(0))
    square = torch.eye(len(order))[order]
    merger.merging_layer.weight.data = square
    projector.patch_merger.merging_layer.weight.data = square.T
    side, features = ours.config.token_side, torch.randn(2, 6 * 10, ours.config.feature_width)
    sizes = torch.tensor([[3 * side, 5 * side]] * 2)
    expected = projector.patch_merger(projector.norm(features.flatten(0, 1)), sizes)
    assert torch.equal(merger(features, 5).flatten(0, 1), expected)


def test_queries_do_not_grow_in_a_short_context(tmp_path: Path) -> None:
    text = oracle.ours(FAMILIES["ministral-3"](tmp_path)).config.text
    assert text.query_growth is not None
    last = torch.tensor([29])
    assert query_growth(replace(text, max_position_embeddings=24), last, 5) is None
    grown = query_growth(replace(text, max_position_embeddings=25), last, 7)
    assert grown is not None
    positions = torch.arange(23, 30)
    queries = 1 + 0.1 * torch.log(1 + torch.floor(positions / 24))
    torch.testing.assert_close(grown[0, :, 0], queries, atol=0, rtol=0)
    width = text.num_attention_heads * text.head_dim
    assert grown.shape == (1, 7, width + 2 * text.num_key_value_heads * text.head_dim)
    assert torch.equal(grown[:, :, :width], grown[:, :, :1].expand(-1, -1, width))
    assert bool((grown[:, :, width:] == 1).all())


@torch.no_grad()
def test_logits(pair: Pair) -> None:
    theirs, ours = pair
    for images in (0, 1, 2):
        ids, pixels = oracle.prompt(ours.config, images=images, seed=images)
        given = pixels if images else None
        expected = theirs(input_ids=ids, **oracle.given_images(ours.config, given)).logits
        torch.testing.assert_close(ours.logits(ids, given), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_over_a_past(pair: Pair) -> None:
    """The same prompt in pieces: prefill, several tokens over it, one more, and the rest, beyond every window."""
    theirs, ours = pair
    ids, pixels = oracle.prompt(ours.config, images=1)
    embeds = ours.embedding(ids, ours.vision_encoder(pixels))
    expected = theirs(input_ids=ids, **oracle.given_images(ours.config, pixels)).logits
    cache, at = ours.empty_cache(), 0
    for length in (2, 7, 1, ids.shape[1] - 10):
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


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(options=checkpoints())
@torch.no_grad()
def test_any_shape(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Within the tolerance of transformers in float64: models a few channels wide can be ill-conditioned."""
    folder = make_checkpoint(tmp_path_factory.mktemp("any"), **options)
    ours, single, double = oracle.ours(folder), oracle.theirs(folder), oracle.theirs(folder, torch.float64)
    for images in (0, 2):
        ids, pixels = oracle.prompt(ours.config, images=images)
        given = pixels if images else None
        shown = oracle.given_images(ours.config, given)
        doubled = shown | ({} if given is None else {"pixel_values": given.double()})
        exact = double(input_ids=ids, **doubled).logits
        rounding = (single(input_ids=ids, **shown).logits - exact).abs().max()
        assert (ours.logits(ids, given) - exact).abs().max() <= 1e-4 + 4 * rounding


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


@torch.no_grad()
def test_greedy_token(pair: Pair) -> None:
    """Beside logits that are the same; behind several that are kept, the last one's."""
    ours = pair[1]
    greedy = Decoder(ours.config, greedy=True).eval()
    greedy.load_state_dict(ours.decoder.state_dict())
    ids, _ = oracle.prompt(ours.config, images=0)
    embeds = ours.embedding(ids, torch.zeros(0, ours.config.text.hidden_size))
    arguments = embeds, torch.ones_like(ids), ours.empty_cache()
    for keep in (ONE, ZERO):
        logits, _ = ours.decoder(*arguments, keep)
        again, tokens, _ = greedy(*arguments, keep)
        torch.testing.assert_close(again, logits, atol=0, rtol=0)
        assert tokens.tolist() == logits[:, -1].argmax(-1).tolist()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_greedy_token_of_logits_that_are_not_finite(broken: float) -> None:
    logits = torch.randn(3, 2, 50)
    logits[1, 1, 7] = broken
    logits[2, 0, 7] = broken  # nobody asked for that position
    assert greedy_token(logits).tolist() == [int(logits[0, 1].argmax()), -1, int(logits[2, 1].argmax())]


def test_tokens_per_image(pair: Pair) -> None:
    config: LlavaConfig = pair[1].config
    if config.vision.tower == "pixtral":
        assert config.tokens_per_image is None
        return
    class_token = config.vision.tower == "clip"
    dropped = config.vision_feature_select_strategy == "default"
    patches = (config.vision.image_size // config.vision.patch_size) ** 2
    assert config.tokens_per_image == patches + class_token - dropped
