"""Mistral 3 as users run it: images of all shapes, whose patches are merged. Oracle: transformers, and a fresh prompt.

Ids and pixels are equal, logits within 2e-4, greedy tokens equal.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import pumice
from pumice.engine import Engine
from pumice.errors import ImageError
from pumice.export.calibration.drawn import drawn_image
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import load_recipe
from pumice.manifest import Rows
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, Reference, export
from tests.factory import FAMILIES

pytestmark = pytest.mark.slow

RECIPES = {"mistral-small": "cpu-int4", "ministral-3": "cpu-fast"}
"""By family, what is verified beside float32."""
SIZES = {
    "square": (90, 90),
    "1 to 3": (30, 90),
    "3 to 1": (150, 50),
    "thin": (108, 1),
    "tall and thin": (1, 108),
    "a token": (16, 16),
    "two tokens of 18": (36, 18),
    "a token and one": (17, 16),
    "the longest edge": (112, 112),
    "longer than the longest edge": (400, 300),
    "1 × 1": (1, 1),
}
"""(width, height). Tokens are of 16 × 16 pixels up to 112, or of 18 × 18 up to 108."""
ROUNDED = 0.35
"""Mean error of logits in 4 bits, in parts of their spread, as in `test_families`."""


@pytest.fixture(scope="module", params=RECIPES)
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """transformers 5.24 fails on an image of one token alone: of its only row it takes the axis away.

    The reference's rows have one more for it.
    """
    found = export(request.param, "fp32", tmp_path_factory.mktemp("family"))
    projector = found.reference.model.get_submodule("model.multi_modal_projector")
    projector.register_forward_hook(lambda _module, _given, rows_MD: rows_MD[None])
    return found


def image(name: str) -> Image.Image:
    return drawn_image(list(SIZES).index(name), SIZES[name])


def asked(images: list[Image.Image]) -> list[dict[str, Any]]:
    content = [*({"type": "image", "image": one} for one in images), {"type": "text", "text": "what is it?"}]
    return [{"role": "user", "content": content}]


def given(reference: Reference, messages: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return dict(
        reference.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )


def check(model: pumice.Model, reference: Reference, messages: list[dict[str, Any]]) -> None:
    """Logits and greedy tokens of a prompt."""
    expected = given(reference, messages)
    logits = model.logits(messages)
    assert np.abs(logits - reference.logits(expected)).max() <= TOLERANCE
    answer, tokens = model.generate(messages, max_new_tokens=NEW_TOKENS), reference.tokens(expected)
    assert answer.token_ids == tokens
    assert len(tokens) == NEW_TOKENS or answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "names", [[name] for name in SIZES] + [[], ["1 to 3", "1 × 1"], ["square", "thin", "the longest edge"]]
)
def test_images_of_all_shapes(exact: Exported, names: list[str]) -> None:
    messages = asked([image(name) for name in names])
    expected = given(exact.reference, messages)
    prepared = exact.model.prepare(messages)
    assert prepared.input_ids.tolist() == expected["input_ids"].tolist()
    if names:
        assert np.array_equal(prepared.pixel_values, expected["pixel_values"].numpy())
        assert prepared.image_sizes.tolist() == expected["image_sizes"].tolist()
    check(exact.model, exact.reference, messages)


def test_an_image_that_is_scaled_to_nothing_is_refused_as_by_transformers(exact: Exported) -> None:
    with pytest.raises(ImageError, match="thin"):
        exact.model.prepare(asked([drawn_image(0, (500, 1))]))
    with pytest.raises(ValueError, match="height=0"):
        given(exact.reference, asked([drawn_image(0, (500, 1))]))


def test_system_prompts_and_the_order_of_parts(exact: Exported) -> None:
    """A system's own in place of the template's; an image behind its text is put before it, one of two is not."""
    text = {"type": "text", "text": "what is it?"}
    shown = [{"type": "image", "image": image(name)} for name in ("square", "1 to 3")]
    for system in ([], [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]):
        for content in ([text, shown[0]], [shown[0], text, shown[1]]):
            messages = [*system, {"role": "user", "content": content}]
            expected = given(exact.reference, messages)["input_ids"].tolist()
            assert exact.model.prepare(messages).input_ids.tolist() == expected


def test_an_image_in_a_later_turn_is_as_in_a_fresh_prompt(exact: Exported) -> None:
    chat = exact.model.chat(max_new_tokens=8)
    chat.send("what is it?", image("1 to 3"))
    said = chat.send("and this?", image("longer than the longest edge"))
    fresh = exact.model.generate(chat.messages[:-1], chat.images, max_new_tokens=8)
    assert said.token_ids == fresh.token_ids
    assert said.usage.prompt_tokens == fresh.usage.prompt_tokens
    assert said.usage.cached_tokens > 0
    later = chat.send("and both?")
    again = exact.model.generate(chat.messages[:-1], chat.images, max_new_tokens=8)
    assert later.token_ids == again.token_ids


def test_an_image_s_features_may_be_given_again(exact: Exported) -> None:
    features = exact.model.encode_image(image("3 to 1"))
    layout = exact.model.manifest.layout
    assert isinstance(layout, Rows)
    expected = exact.model.generate("what is it?", [image("3 to 1")], max_new_tokens=8).token_ids
    assert exact.model.generate("what is it?", [features], max_new_tokens=8).token_ids == expected
    (prepared,) = exact.model.prepare("what?", [image("3 to 1")]).images
    assert exact.model.generate("what is it?", [prepared], max_new_tokens=8).token_ids == expected
    pixels = given(exact.reference, asked([image("3 to 1")]))
    sizes = pixels["image_sizes"]
    with torch.no_grad():
        (found,) = exact.reference.model.get_image_features(pixels["pixel_values"], sizes).pooler_output
    assert len(found) == int((sizes // layout.patch_size).prod())
    assert np.abs(features.features - found.numpy()).max() <= 1e-5


def test_the_engine_answers_as_one_by_one(exact: Exported) -> None:
    """Prompts of several lengths side by side, whose queries grow at positions of their own."""
    names = list(SIZES)
    alone = [exact.model.generate("what is it?", [image(name)], max_new_tokens=8).token_ids for name in names]

    async def together() -> list[Any]:
        with Engine(exact.model, slots=4) as engine:
            futures = [engine.submit("what is it?", [image(name)], max_new_tokens=8) for name in names]
            return [await asyncio.wrap_future(future) for future in futures]

    assert [answer.token_ids for answer in asyncio.run(together())] == alone


@pytest.mark.parametrize("exact", ["mistral-small"], indirect=True)
def test_a_turned_stream_changes_nothing(exact: Exported, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(load_recipe("portable-fp32"), rotate=True)
    FAMILIES[exact.family](tmp_path / "checkpoint")
    export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe)
    model = pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    assert model.manifest.precision.rotated
    for names in ([], ["3 to 1", "a token"]):
        check(model, exact.reference, asked([image(name) for name in names]))


def test_recipes_are_verified_and_answer(exact: Exported, tmp_path: Path) -> None:
    recipe = RECIPES[exact.family]
    FAMILIES[exact.family](tmp_path / "checkpoint")
    manifest = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe, verify=True)
    assert manifest.schema_version == 2  # whose readers know all that they need
    assert manifest.parity is not None
    assert manifest.parity["same_input_ids"] == manifest.parity["same_pixel_values"] == 6
    assert "vision_encoder/merger.merging_layer.weight" in manifest.precision.quantized
    model = pumice.load(tmp_path / "bundle", device="cpu", threads=1)
    messages = asked([image("3 to 1"), image("square")])
    expected = exact.reference.logits(given(exact.reference, messages))
    assert np.abs(model.logits(messages) - expected).mean() < ROUNDED * expected.std()
