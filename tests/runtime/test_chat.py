"""Oracle: the whole conversation as one prompt. Tolerance: tokens equal."""

from pathlib import Path

import pytest

import pumice
from pumice.chat import Chat
from pumice.errors import ContextLengthError, GenerationError, ImageError, UsageError
from pumice.model import Model

from .test_generation import force, picture


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def whole(model: Model, chat: Chat, images: list[object]) -> list[int]:
    """The last answer of a chat, made from the whole conversation at once."""
    prompt = list(chat.messages)[:-1]
    return model.generate(prompt, images, max_new_tokens=12).token_ids  # type: ignore[arg-type]


def test_turns_equal_whole_conversations(model: Model) -> None:
    chat, images = model.chat(), [picture(0), picture(1)]
    first = chat.send("What is in this picture?", images[:1], max_new_tokens=12)
    assert first.token_ids == whole(model, chat, images[:1])
    second = chat.send("And what colour is it?", max_new_tokens=12)
    assert second.token_ids == whole(model, chat, images[:1])
    third = chat.send("What differs here?", images[1], max_new_tokens=12)
    assert third.token_ids == whole(model, chat, images)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3
    assert third.usage.image_tokens == 2 * model.manifest.image_tokens.per_image


def test_a_turn_is_read_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    prefill = model._answerer.decoder.prefill

    def counted(ids: list[int], *rest: object) -> object:
        read.append(len(ids))
        return prefill(ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(model._answerer.decoder, "prefill", counted)
    encoded: list[int] = []
    encode = model._answerer.decoder.encode_pictures
    monkeypatch.setattr(
        model._answerer.decoder,
        "encode_pictures",
        lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1],
    )
    chat = model.chat()
    chat.send("What is in this picture?", picture(), max_new_tokens=12)
    second = chat.send("What colour?", max_new_tokens=12)
    assert read[1] < second.usage.prompt_tokens - model.manifest.image_tokens.per_image
    assert sum(encoded) == 1


def test_a_failed_turn_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat()
    chat.send("What is in this picture?", picture(), max_new_tokens=6)
    before = chat.messages
    with pytest.raises(ImageError):
        chat.send("And this?", "missing.png")
    with pytest.raises(ContextLengthError):
        chat.send("word " * 5_000)
    with pytest.raises(UsageError):
        chat.send("?", max_new_tokens=0)
    with monkeypatch.context() as patch:
        patch.setattr(
            "pumice.decoder._checked", lambda logits: (_ for _ in ()).throw(GenerationError("not finite"))
        )
        with pytest.raises(GenerationError):
            chat.send("And now?")
    assert chat.messages == before
    again = chat.send("What colour?", max_new_tokens=12)
    assert again.token_ids == whole(model, chat, [picture()])


def test_a_stopped_answer_stays_as_far_as_it_came(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat()
    with monkeypatch.context() as patch:
        force(patch, 300)
        with chat.stream("What is in this picture?", picture()) as stream:
            next(stream)
            next(stream)
    assert stream.result.finish_reason == "cancelled"
    assert chat.messages[-1]["content"] == [{"type": "text", "text": stream.result.text.strip()}]
    after = chat.send("What colour?", max_new_tokens=12)
    assert after.token_ids == whole(model, chat, [picture()])


def test_an_answer_stopped_before_its_first_word_is_no_turn(model: Model) -> None:
    chat = model.chat()
    chat.stream("What is in this picture?", picture()).cancel()
    assert chat.messages == ()
    assert chat.send("What colour?", max_new_tokens=3).usage.image_tokens == 0


def test_a_new_question_stops_the_answer_under_way(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 300)
    chat = model.chat()
    first = chat.stream("One?")
    next(first)
    chat.send("Two?", max_new_tokens=2)
    assert first.result.finish_reason == "cancelled"
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2


def test_reset_stops_the_answer_under_way(model: Model) -> None:
    chat = model.chat()
    stream = chat.stream("One?")
    next(stream)
    chat.reset()
    assert chat.messages == ()
    assert list(stream) == []


def test_reset_forgets(model: Model) -> None:
    chat = model.chat()
    alone = chat.send("Hi", max_new_tokens=6)
    chat.send("And now?", max_new_tokens=6)
    chat.reset()
    assert chat.messages == ()
    assert chat.send("Hi", max_new_tokens=6).token_ids == alone.token_ids


def test_long_conversations_grow_their_cache(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat()
    for turn in range(8):
        answer = chat.send(
            f"Question {turn}, is there a circle in this picture?",
            picture() if turn == 0 else None,
            max_new_tokens=12,
        )
    assert answer.token_ids == whole(model, chat, [picture()])
    assert answer.usage.prompt_tokens > 150
