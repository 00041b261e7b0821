"""LLaVA-NeXT and its kin as users run them, on images of all shapes. Oracle: transformers, and a fresh prompt.

Ids and pixels are equal, logits within 2e-4, greedy tokens equal.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.engine import Engine
from pumice.errors import UsageError
from pumice.export.calibration.drawn import drawn_image
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.pipeline import export_bundle
from pumice.manifest import Tiles
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, export
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
    "larger than all": (400, 300),
    "1 × 1": (1, 1),
}
"""(width, height)."""


@pytest.fixture(scope="module", params=TILED)
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(request.param, "fp32", tmp_path_factory.mktemp("family"))


def image(name: str) -> Image.Image:
    return drawn_image(list(SIZES).index(name), SIZES[name])


def asked(images: list[Image.Image]) -> list[dict[str, Any]]:
    content = [*({"type": "image", "image": one} for one in images), {"type": "text", "text": "what is it?"}]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    "names", [[name] for name in SIZES] + [[], ["1 to 3", "1 × 1"], ["square", "3 to 1", "1 × 500"]]
)
def test_images_of_all_shapes(exact: Exported, names: list[str]) -> None:
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
        assert prepared.image_sizes.tolist() == expected["image_sizes"].tolist()
    logits = exact.model.logits(asked(images))
    assert np.abs(logits - exact.reference.logits(expected)[-len(logits) :]).max() < TOLERANCE
    answer = exact.model.generate(asked(images), max_new_tokens=NEW_TOKENS)
    tokens = exact.reference.tokens(expected)
    assert answer.token_ids == tokens[: len(answer.token_ids)]


def test_an_image_in_a_later_turn_is_as_in_a_fresh_prompt(exact: Exported) -> None:
    chat = exact.model.chat(max_new_tokens=8)
    chat.send("what is it?", image("1 to 3"))
    said = chat.send("and this?", image("larger than all"))
    fresh = exact.model.generate(chat.messages[:-1], chat.images, max_new_tokens=8)
    assert said.token_ids == fresh.token_ids
    assert said.usage.cached_tokens > 0
    later = chat.send("and both?")
    assert (
        later.token_ids == exact.model.generate(chat.messages[:-1], chat.images, max_new_tokens=8).token_ids
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
    """Verification compares under the same grids; ids, pixels and answers are equal."""
    FAMILIES[family](tmp_path / "checkpoint")
    whole = read_config(open_checkpoint(tmp_path / "checkpoint").config)
    manifest = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", max_tiles=3, verify=True)
    assert manifest.parity is not None
    assert manifest.parity["passed"]
    layout = manifest.layout
    assert isinstance(layout, Tiles)
    assert max(rows * columns for rows, columns in layout.grids) == 3
    assert set(layout.pinpoints) < set(whole.image_grid_pinpoints or ())


def test_limits_that_cannot_be(tmp_path: Path) -> None:
    FAMILIES["llava-next"](tmp_path / "tiled")
    with pytest.raises(UsageError, match="at most 1 tiles were asked for, expected 2 or more"):
        export_bundle(tmp_path / "tiled", tmp_path / "bundle", max_tiles=1)
    FAMILIES["llava-1.5"](tmp_path / "whole")
    with pytest.raises(UsageError, match="does not cut images into tiles"):
        export_bundle(tmp_path / "whole", tmp_path / "bundle", max_tiles=4)
    assert not (tmp_path / "bundle").exists()
