"""LLaVA-NeXT and its kin as users run them, on images of all shapes. Oracle: transformers, and a fresh prompt.

Ids and pixels are equal, logits within 2e-4, greedy tokens equal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.cli.main import main
from pumice.engine import Engine
from pumice.errors import UsageError
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.manifest import Tiles, load_manifest
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, opened
from tests.factory import FAMILIES
from tests.factory import TILED as ALL_TILED

pytestmark = pytest.mark.slow

TILED = [family for family in ALL_TILED if family != "llava-next-video"]
"""Its images are a LLaVA-NeXT's: tests/export/test_videos.py has them beside videos."""
SIZES = {
    "square": (90, 90),
    "1 to 3": (40, 120),
    "3 to 1": (150, 50),
    "1 × 500": (1, 500),
    "500 × 1": (500, 1),
    "a pinpoint": (112, 56),
    "a pinpoint less one": (111, 56),
    "a pinpoint and one": (112, 57),
    "a pinpoint of smaller tiles": (84, 84),
    "that less one": (83, 84),
    "that and one": (84, 85),
    "larger than all": (400, 300),
    "1 × 1": (1, 1),
}
"""(width, height)."""
PROMPTS = [[name] for name in SIZES] + [[], ["1 to 3", "1 × 1"], ["square", "3 to 1", "1 × 500"]]
"""By the images in them."""


@pytest.fixture(scope="module", params=TILED)
def exact(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> Exported:
    return opened(request.param, "fp32", family_folder(request.param))


def image(name: str) -> Image.Image:
    return drawn_image(list(SIZES).index(name), SIZES[name])


def asked(images: list[Image.Image]) -> list[dict[str, Any]]:
    content = [*({"type": "image", "image": one} for one in images), {"type": "text", "text": "what is it?"}]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("names", PROMPTS, ids=", ".join)
def test_images_of_all_shapes(exact: Exported, names: list[str]) -> None:
    check_images(exact, names)


def check_images(exact: Exported, names: list[str]) -> None:
    """Ids, pixels, sizes, logits and greedy tokens of a prompt with these images."""
    images = [image(name) for name in names]
    expected = dict(
        exact.reference.processor.apply_chat_template(
            asked(images), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )
    prepared = exact.model.prepare(asked(images))
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    if images:
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"].numpy())
    if "image_sizes" in expected:
        assert prepared.image_sizes.tolist() == expected["image_sizes"].tolist()
    logits = exact.model.logits(asked(images))
    assert np.abs(logits - exact.reference.logits(expected)[-len(logits) :]).max() <= TOLERANCE
    answer = exact.model.generate(asked(images), max_new_tokens=NEW_TOKENS)
    tokens = exact.reference.tokens(expected)
    assert answer.token_ids == tokens[: len(answer.token_ids)]
    assert tokens[len(answer.token_ids) :] == [] or tokens[-1] in exact.model.manifest.tokens.eos_ids
    assert len(tokens) - len(answer.token_ids) <= 1  # the token that ends an answer is none of it


def test_an_image_in_a_later_turn_is_as_in_a_fresh_prompt(exact: Exported) -> None:
    check_later_images(exact)


def check_later_images(exact: Exported) -> None:
    """Ids and answers of all turns are transformers', who sees the conversation for the first time."""
    chat, shown = exact.model.chat(max_new_tokens=8), []
    for text, name in (("what is it?", "1 to 3"), ("and this?", "larger than all"), ("and both?", None)):
        shown += [image(name)] if name else []
        said = chat.send(text, image(name) if name else None)
        inputs = conversation(exact, chat.messages[:-1], shown)
        assert (
            exact.model.prepare(list(chat.messages[:-1]), shown).input_ids.tolist()
            == inputs["input_ids"].tolist()
        )
        assert list(said.token_ids) == exact.reference.tokens(inputs)[: len(said.token_ids)]
        fresh = exact.model.generate(list(chat.messages[:-1]), shown, max_new_tokens=8)
        assert said.token_ids == fresh.token_ids
        assert said.usage.cached_tokens > 0 or len(shown) == 1


def conversation(exact: Exported, messages: Any, images: list[Image.Image]) -> dict[str, Any]:
    """What transformers makes of a conversation with these images in its places."""
    given = iter(images)
    whole = [
        {
            **message,
            "content": [
                {"type": "image", "image": next(given)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]
    return dict(
        exact.reference.processor.apply_chat_template(
            whole, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


def test_an_image_s_features_may_be_given_again(exact: Exported) -> None:
    features = exact.model.encode_image(image("3 to 1"))
    assert features.size == (50, 150)
    assert features.tokens == exact.model.prepare("what?", [image("3 to 1")]).image_tokens
    again = exact.model.generate("what is it?", [features], max_new_tokens=8)
    assert (
        again.token_ids == exact.model.generate("what is it?", [image("3 to 1")], max_new_tokens=8).token_ids
    )
    (prepared,) = exact.model.prepare("what?", [image("3 to 1")]).images
    assert exact.model.generate("what is it?", [prepared], max_new_tokens=8).token_ids == again.token_ids


def test_the_engine_answers_as_one_by_one(exact: Exported) -> None:
    names = list(SIZES)
    alone = [exact.model.generate("what is it?", [image(name)], max_new_tokens=8).token_ids for name in names]

    async def together() -> list[Any]:
        with Engine(exact.model, slots=4) as engine:
            futures = [engine.submit("what is it?", [image(name)], max_new_tokens=8) for name in names]
            return [await asyncio.wrap_future(future) for future in futures]

    assert [answer.token_ids for answer in asyncio.run(together())] == alone


@pytest.mark.parametrize("family", TILED)
@pytest.mark.parametrize("recipe", ["cpu-fast", "cpu-int4", "cuda-fp16"])
def test_recipes_are_verified_and_answer(family: str, recipe: str, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "checkpoint")
    manifest = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe)
    assert manifest.schema_version == 3
    if recipe.startswith("cpu"):
        model = pumice.load(tmp_path / "bundle", device="cpu")
        assert len(model.generate("what is it?", [image("1 to 3")], max_new_tokens=4).token_ids) <= 4


@pytest.mark.parametrize("family", TILED)
def test_fewer_tiles_are_what_transformers_makes_of_fewer_grids(family: str, tmp_path: Path) -> None:
    """Verification compares under the same grids, at once and later; ids, pixels and answers are equal."""
    checkpoint, bundle = FAMILIES[family](tmp_path / "checkpoint"), tmp_path / "bundle"
    whole = read_config(open_checkpoint(checkpoint).config)
    assert main(["export", str(checkpoint), str(bundle), "--max-tiles", "3", "--verify", "-q"]) == 0
    manifest = load_manifest(bundle)
    assert manifest.parity is not None
    assert manifest.parity["passed"]
    layout = manifest.layout
    assert isinstance(layout, Tiles)
    assert max(rows * columns for rows, columns in layout.grids) == 3
    assert set(layout.pinpoints) < set(whole.image_grid_pinpoints or ())
    assert layout.shrink_to == whole.anyres_max
    assert (layout.beside is None) == (whole.anyres_max is None)
    if whole.anyres_max is not None:
        assert main(["verify", str(bundle), str(checkpoint), "--max-new-tokens", "2"]) == 0


def test_limits_that_cannot_be(tmp_path: Path) -> None:
    FAMILIES["llava-next"](tmp_path / "tiled")
    with pytest.raises(UsageError, match="at most 1 tiles were asked for, expected 2 or more"):
        export_bundle(tmp_path / "tiled", tmp_path / "bundle", max_tiles=1)
    FAMILIES["llava-1.5"](tmp_path / "whole")
    with pytest.raises(UsageError, match="does not cut images into tiles"):
        export_bundle(tmp_path / "whole", tmp_path / "bundle", max_tiles=4)
    assert not (tmp_path / "bundle").exists()
