"""Images inside messages, through the whole of pumice: the same answer as with the images beside the messages."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.bulk.window import run_batch
from pumice.errors import ImageError, PromptError
from pumice.model import Model

from .test_generation import image

pytestmark = pytest.mark.export_extra


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def png(index: int) -> bytes:
    file = io.BytesIO()
    image(index).save(file, "PNG")
    return file.getvalue()


def forms(folder: Path) -> list[dict[str, Any]]:
    data = png(0)
    (folder / "scene.png").write_bytes(data)
    text = base64.encodebytes(data).decode()
    return [
        {"type": "image", "image": image(0)},
        {"type": "image", "image": np.asarray(image(0)).transpose(2, 0, 1)},
        {"type": "image", "image": data},
        {"type": "image", "path": folder / "scene.png"},
        {"type": "image", "url": f"data:image/png;base64,{text}"},
        {"type": "image", "base64": text},
        {"type": "image_url", "image_url": {"url": f"DATA:image/png;base64,{text}", "detail": "auto"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{text}"},
    ]


def said(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is in this picture?"}, part]}]


def test_every_form_is_that_image_at_that_place(model: Model, tmp_path: Path) -> None:
    right = model.prepare(said({"type": "image"}), [image(0)])
    other = model.prepare(said({"type": "image"}), [image(1)])
    assert not np.array_equal(right.pixel_values, other.pixel_values)
    for part in forms(tmp_path):
        found = model.prepare(said(part))
        assert np.array_equal(found.input_ids, right.input_ids)
        assert np.array_equal(found.pixel_values, right.pixel_values)
        with pytest.raises(PromptError, match="1 image of their own and 0"):
            model.prepare(said(part), [image(1)])


def test_generate_the_engine_and_a_chat_answer_alike(model: Model, tmp_path: Path) -> None:
    right = model.generate(said({"type": "image"}), [image(0)], max_new_tokens=8).token_ids
    parts = forms(tmp_path)
    with pumice.Engine(model, slots=2) as engine:
        futures = [engine.submit(said(part), max_new_tokens=8) for part in parts]
        answers = [future.result(timeout=600).token_ids for future in futures]
    answers += [
        answer.token_ids for answer in model.generate([said(part) for part in parts], max_new_tokens=8)
    ]
    answers += [model.chat(max_new_tokens=8).send(said(part)[0]["content"]).token_ids for part in parts]
    assert answers == [right] * len(answers)


def test_images_of_several_turns_keep_their_order(model: Model) -> None:
    own = {"type": "image", "image": png(1)}
    turns = [
        said({"type": "image"})[0],
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        said(own)[0],
    ]
    bare = [turns[0], turns[1], said({"type": "image"})[0]]
    assert np.array_equal(
        model.prepare(turns, [image(0)]).pixel_values, model.prepare(bare, [image(0), image(1)]).pixel_values
    )


def test_a_chat_keeps_the_images_of_parts(model: Model) -> None:
    chat = model.chat(max_new_tokens=8)
    first = chat.send([{"type": "image", "image": image(0)}, {"type": "text", "text": "What is it?"}])
    fresh = model.chat(max_new_tokens=8)
    assert first.token_ids == fresh.send("What is it?", [image(0)]).token_ids
    second = chat.send("And this?", image(1))
    assert (
        second.token_ids
        == fresh.send([{"type": "image"}, {"type": "text", "text": "And this?"}], image(1)).token_ids
    )
    assert chat.messages == fresh.messages
    assert chat.regenerate().token_ids == second.token_ids


def test_a_batch_finds_them_beside_its_file(model: Model, tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(png(0))
    right = model.generate(said({"type": "image"}), [image(0)], max_new_tokens=8).text
    records = [
        {"messages": said({"type": "image", "path": "scene.png"})},
        {"messages": said({"type": "image_url", "image_url": {"url": "scene.png"}})},
        {"messages": said({"type": "image"}), "image": "scene.png"},
        {"messages": said({"type": "image", "url": "https://example.org/scene.png"})},
    ]
    with pumice.Engine(model, slots=2) as engine:
        *answered, refused = run_batch(engine, records, folder=tmp_path, max_new_tokens=8)
    assert [record.text for record in answered] == [right] * 3
    assert refused.error is not None
    assert refused.error.type == "ImageError"


def test_addresses_are_refused_by_name(model: Model) -> None:
    with pytest.raises(ImageError, match="remote images are not fetched"):
        model.generate(said({"type": "image", "url": "http://127.0.0.1:9/a.png"}))
