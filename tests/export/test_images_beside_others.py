"""LLaVA-OneVision sees an image otherwise where another is in the prompt: chats, lists, features given again.

Oracle: transformers' ids, features and answers for the whole prompt, and a fresh prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pumice.errors import CheckpointError, UsageError
from pumice.export.pipeline import export_bundle
from pumice.export.verify.comparison import verify_bundle
from tests.export.test_families import NEW_TOKENS, TOLERANCE, Exported, opened
from tests.export.test_tiled_images import conversation, image
from tests.factory import FAMILIES

pytestmark = pytest.mark.slow

ONEVISION = ("llava-onevision", "llava-onevision-clip")


@pytest.fixture(scope="module", params=ONEVISION)
def exact(request: pytest.FixtureRequest, family_folder: Callable[[str], Path]) -> Exported:
    return opened(request.param, "fp32", family_folder(request.param))


def test_an_image_of_a_later_turn_changes_the_first_one(exact: Exported) -> None:
    """Ids and answers of every turn are transformers', who sees all of it for the first time."""
    chat, shown = exact.model.chat(max_new_tokens=NEW_TOKENS), []
    counts = []
    for text, name in (("what is it?", "1 to 3"), ("and this?", "larger than all"), ("and both?", None)):
        shown += [image(name)] if name else []
        said = chat.send(text, image(name) if name else None)
        inputs = conversation(exact, chat.messages[:-1], shown)
        prepared = exact.model.prepare(list(chat.messages[:-1]), shown)
        assert prepared.input_ids.tolist() == inputs["input_ids"].tolist()
        assert np.array_equal(prepared.pixel_values, inputs["pixel_values"].numpy())
        assert list(said.token_ids) == exact.reference.tokens(inputs)[: len(said.token_ids)]
        fresh = exact.model.generate(list(chat.messages[:-1]), shown, max_new_tokens=NEW_TOKENS)
        assert said.token_ids == fresh.token_ids
        counts.append((said.usage.prompt_tokens, said.usage.cached_tokens))
    first, second, third = counts
    assert second[1] < first[0] - 10  # the first image is read anew
    assert third[1] > second[0] - 10  # and from now on nothing is, but where words meet


def test_a_chat_that_goes_back_to_one_image(exact: Exported) -> None:
    chat = exact.model.chat(max_new_tokens=8)
    alone = chat.send("what is it?", image("1 to 3"))
    chat.send("and this?", image("square"))
    chat.rewind(1)
    said = chat.send("again?")
    fresh = exact.model.generate(list(chat.messages[:-1]), [image("1 to 3")], max_new_tokens=8)
    assert said.token_ids == fresh.token_ids
    assert chat.edit(0, "what is it?").token_ids == alone.token_ids


def test_a_chat_is_restored_with_its_images(exact: Exported) -> None:
    chat = exact.model.chat(max_new_tokens=8)
    chat.send("what is it?", image("1 to 3"))
    chat.send("and this?", image("square"))
    other = exact.model.chat(max_new_tokens=8)
    other.restore(chat.messages, [image("1 to 3"), image("square")])
    again = exact.model.chat(max_new_tokens=8)
    again.restore(chat.messages, chat.images)
    expected = chat.send("well?").token_ids
    assert other.send("well?").token_ids == again.send("well?").token_ids == expected


def test_features_of_single_images_may_be_given_together(exact: Exported) -> None:
    names = ["3 to 1", "square"]
    features = [exact.model.encode_image(image(name)) for name in names]
    expected = exact.model.generate("which?", [image(name) for name in names], max_new_tokens=8)
    assert exact.model.generate("which?", features, max_new_tokens=8).token_ids == expected.token_ids
    together = exact.model.prepare("which?", features).images
    assert exact.model.generate("which?", list(together), max_new_tokens=8).token_ids == expected.token_ids
    with pytest.raises(UsageError, match="prepared beside others was given alone"):
        exact.model.prepare("which?", [together[0]])


def test_prompts_of_a_list_count_their_own_images(exact: Exported) -> None:
    one, other = image("3 to 1"), image("square")
    images: list[Any] = [[one], [one, other], [], [other]]
    together = exact.model.generate(["what?"] * 4, images, max_new_tokens=8)
    alone = [exact.model.generate("what?", each, max_new_tokens=8) for each in images]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]


def test_a_raw_prompt_is_one_prompt(exact: Exported) -> None:
    """As in a conversation, and as transformers has it for images that are nested in a list."""
    images = [image("3 to 1"), image("square")]
    text = "a <image> and b <image>"
    expected = dict(exact.reference.processor(images=[images], text=text, return_tensors="pt"))
    assert exact.model.prepare(text, images, raw=True).input_ids.tolist() == expected["input_ids"].tolist()
    logits = exact.model.logits(text, images, raw=True)
    assert np.abs(logits - exact.reference.logits(expected)).max() < TOLERANCE


@pytest.mark.parametrize("family", ONEVISION)
@pytest.mark.parametrize("recipe", [None, "cpu-fast"])
def test_it_is_verified_part_by_part(family: str, recipe: str | None, tmp_path: Path) -> None:
    """Over one image, two, and none, with the residual stream turned and without."""
    FAMILIES[family](tmp_path / "checkpoint")
    manifest = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe or "portable-fp32")
    report = verify_bundle(tmp_path / "bundle", tmp_path / "checkpoint", max_new_tokens=8).report
    assert {case.images for case in report.cases} == {0, 1, 2}
    for case in report.cases:
        assert case.same_input_ids
        assert case.same_pixel_values
        assert case.vision_encoder is None or manifest.precision.bits or case.vision_encoder.max < 1e-4
        assert manifest.precision.bits or case.first_difference is None


def test_processors_file_may_not_count_otherwise(tmp_path: Path) -> None:
    folder = FAMILIES["llava-onevision"](tmp_path / "checkpoint")
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vision_aspect_ratio": "anyres_max_9"}))
    with pytest.raises(
        CheckpointError, match=r"'anyres_max_9' in processor_config\.json and 'anyres_max_2' in config"
    ):
        export_bundle(folder, tmp_path / "bundle", precision="fp32")
