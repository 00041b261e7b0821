"""Every type of text model in torch, against transformers' on random weights, and changed as an export changes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.text_families import TEXT_FAMILIES
from pumice.export.weights.heads import pad_heads
from pumice.export.weights.plain import make_plain
from pumice.export.weights.rotation import rotatable, rotate
from pumice.models.config import TextConfig
from pumice.models.tensor_names import check_names
from tests import oracle
from tests.export.weights.test_balance import balanced
from tests.factory.texts import TEXTS, make_text_checkpoint
from tests.oracle import ZERO

ELSEWHERE = {"llama", "mistral", "ministral3", "qwen2", "granite"}
"""In `tests.factory.FAMILIES`."""
NOT_TURNED = {
    "phi",
    "gemma2",
    "olmo",
    "olmo2",
    "stablelm",
    "starcoder2",
    "cohere",
    "cohere2",
    "glm4",
    "exaone4",
}
NOT_TURNED |= {"nemotron"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    name: str
    folder: Path
    theirs: PreTrainedModel
    ours: oracle.Ours

    @property
    def text(self) -> TextConfig:
        return self.ours.config.text


@pytest.fixture(scope="module", params=TEXTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = make_text_checkpoint(tmp_path_factory.mktemp("text") / "checkpoint", request.param)
    return Pair(name=request.param, folder=folder, theirs=oracle.theirs(folder), ours=oracle.ours(folder))


def test_every_type_has_a_checkpoint() -> None:
    assert {name.split()[0] for name in TEXTS} | ELSEWHERE == set(TEXT_FAMILIES)


@torch.no_grad()
@pytest.mark.parametrize("images", [0, 1, 2])
def test_logits(pair: Pair, images: int) -> None:
    ids, pixels = oracle.prompt(pair.ours.config, images=images, seed=images)
    given = pixels if images else None
    expected = pair.theirs(input_ids=ids, pixel_values=given).logits
    assert expected.std() > 1
    torch.testing.assert_close(pair.ours.logits(ids, given), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_logits_over_a_past(pair: Pair) -> None:
    """The same prompt in pieces, beyond every window."""
    ids, pixels = oracle.prompt(pair.ours.config, images=1)
    embeds = pair.ours.embedding(ids, pair.ours.vision_encoder(pixels))
    expected = pair.theirs(input_ids=ids, pixel_values=pixels).logits
    cache, at = pair.ours.empty_cache(), 0
    for length in (2, 7, 1, ids.shape[1] - 10):
        mask = torch.ones(1, at + length, dtype=torch.long)
        logits, cache = pair.ours.decoder(embeds[:, at : at + length], mask, cache, ZERO)
        torch.testing.assert_close(logits, expected[:, at : at + length], atol=1e-4, rtol=0)
        at += length


def test_every_tensor_is_read_or_missed(pair: Pair) -> None:
    """The table knows all of them, and takes none for another; transformers has named them."""
    checkpoint = open_checkpoint(pair.folder)
    config = read_config(checkpoint.config)
    check_names(config, checkpoint.shapes())
    layer = [name for name in checkpoint.shapes() if ".layers.1." in name and "language_model" in name]
    assert layer
    for name in layer:
        others = {other: shape for other, shape in checkpoint.shapes().items() if other != name}
        with pytest.raises(CheckpointError, match=f"missing {name}$"):
            check_names(config, others)


def test_a_plain_model_stays_plain(pair: Pair) -> None:
    """No wrapper is applied twice."""
    checkpoint = open_checkpoint(pair.folder)
    config, read = make_plain(read_config(checkpoint.config), checkpoint.read_canonical)
    assert make_plain(config, read) == (config, read)


@torch.no_grad()
@pytest.mark.parametrize("change", ["padded", "rotated", "balanced"])
def test_logits_stay(pair: Pair, change: str, caplog: pytest.LogCaptureFixture) -> None:
    """In heads of whole multiples, with the stream turned where it can be, and with channels evened out."""
    if change == "rotated":
        kept = pair.name.split()[0] in NOT_TURNED
        assert rotatable(pair.ours.config) is not kept
        assert ("turns the residual stream" in caplog.text) is kept
        if kept:
            return
    changes = {
        "padded": pad_heads,
        "rotated": rotate,
        "balanced": lambda c, r: (c, balanced(c, r, 0.5)[1].read),
    }
    changed = oracle.ours(pair.folder, change=changes[change])
    ids, pixels = oracle.prompt(pair.ours.config, images=1)
    expected = pair.ours.logits(ids, pixels)
    torch.testing.assert_close(changed.logits(ids, pixels), expected, atol=2e-4, rtol=0)
    assert change != "rotated" or changed.config.rotated
    if change == "balanced":
        before = dict(pair.ours.decoder.named_parameters())
        after = changed.decoder.named_parameters()
        assert (
            sum(not torch.allclose(before[n], v, rtol=1e-3) for n, v in after)
            >= 2 * pair.text.num_hidden_layers
        )
