"""Oracle: the whole conversation as one prompt. Tolerance: tokens equal."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pumice
from pumice.chat import Chat
from pumice.errors import (
    ContextLengthError,
    GenerationError,
    ImageError,
    InsufficientMemoryError,
    UsageError,
)
from pumice.model import Model
from pumice.scheduler import chunks as cuts
from pumice.scheduler.scheduler import Scheduler

from .test_generation import force, image

WATCHDOG = 300.0
"""Seconds after which a test gives up."""


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    """Without memory of other prompts: a conversation reuses what it has read itself."""
    return pumice.load(pebble_bundle, device="cpu", threads=1, prefix_cache_bytes=0, feature_cache_bytes=0)


def whole(model: Model, chat: Chat, images: list[object]) -> list[int]:
    """The last answer of a chat, made from the whole conversation at once."""
    prompt = list(chat.messages)[:-1]
    return model.generate(prompt, images, max_new_tokens=12).token_ids  # type: ignore[arg-type]


def test_turns_equal_whole_conversations(model: Model) -> None:
    chat, images = model.chat(), [image(0), image(1)]
    first = chat.send("What is in this picture?", images[:1], max_new_tokens=12)
    assert first.token_ids == whole(model, chat, images[:1])
    second = chat.send("And what colour is it?", max_new_tokens=12)
    assert second.token_ids == whole(model, chat, images[:1])
    third = chat.send("What differs here?", images[1], max_new_tokens=12)
    assert third.token_ids == whole(model, chat, images)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3
    assert third.usage.image_tokens == 2 * model.manifest.image_tokens.per_image


def test_a_turn_is_read_once(model: Model) -> None:
    per_image = model.manifest.image_tokens.per_image or 0
    chat = model.chat()
    first = chat.send("What is in this picture?", image(7), max_new_tokens=12)
    second = chat.send("What colour?", max_new_tokens=12)
    assert first.usage.cached_tokens < per_image
    assert (
        second.usage.cached_tokens >= first.usage.total_tokens - 1 - 2
    )  # the end token, and how text joins it
    assert second.timings.vision < first.timings.vision / 4


def test_regenerating_and_editing_equal_fresh_conversations(model: Model) -> None:
    chat = model.chat(max_new_tokens=12)
    first = chat.send("What is in this picture?", [image(0)])
    chat.send("And here?", [image(1)])
    again = chat.regenerate()
    assert again.token_ids == whole(model, chat, [image(0), image(1)])
    assert again.usage.cached_tokens == cuts.resumed(again.usage.prompt_tokens, again.usage.prompt_tokens)
    chat.edit(-1, "How many shapes are there?")
    assert len(chat.messages) == 4
    other = chat.edit(1, "And here?", [image(2)])
    assert other.token_ids == whole(model, chat, [image(0), image(2)])
    assert other.usage.cached_tokens > first.usage.prompt_tokens
    changed = chat.edit(0, "What colour is the circle?")
    assert changed.token_ids == whole(model, chat, [image(0)])
    assert len(chat.messages) == 2
    chat.rewind(0)
    assert chat.messages == ()
    with pytest.raises(UsageError, match="has 0"):
        chat.regenerate()


def test_options_of_a_chat_are_those_of_every_turn(model: Model) -> None:
    chat = model.chat(max_new_tokens=2, system="You are brief.")
    assert len(chat.send("Hi").token_ids) <= 2
    assert len(chat.send("Hi", max_new_tokens=1).token_ids) == 1
    assert chat.messages[0]["role"] == "system"
    with pytest.raises(UsageError):
        model.chat(max_new_tokens=0)


def test_beams_in_a_chat(model: Model) -> None:
    chat = model.chat(max_new_tokens=8)
    chat.send("What is in this picture?", [image(0)])
    answer = chat.send("What colour is it?", num_beams=3)
    fresh = model.generate(list(chat.messages)[:-1], [image(0)], max_new_tokens=8, num_beams=3)
    assert answer.token_ids == fresh.token_ids
    assert (
        chat.send("And now?").token_ids
        == model.generate(list(chat.messages)[:-1], [image(0)], max_new_tokens=8).token_ids
    )


def test_a_failed_turn_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat()
    chat.send("What is in this picture?", image(), max_new_tokens=6)
    before = chat.messages
    with pytest.raises(ImageError):
        chat.send("And this?", "missing.png")
    with pytest.raises(ContextLengthError):
        chat.send("word " * 5_000)
    with pytest.raises(UsageError):
        chat.send("?", max_new_tokens=0)
    with monkeypatch.context() as patch:
        patch.setattr("pumice.scheduler.scheduler.finite", lambda logits: False)
        with pytest.raises(GenerationError):
            chat.send("And now?")
    assert chat.messages == before
    again = chat.send("What colour?", max_new_tokens=12)
    assert again.token_ids == whole(model, chat, [image()])


def test_a_stopped_answer_stays_as_far_as_it_came(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = model.chat()
    with monkeypatch.context() as patch:
        force(patch, 300)
        with chat.stream("What is in this picture?", image()) as stream:
            next(stream)
            next(stream)
    assert stream.result.finish_reason == "cancelled"
    assert chat.messages[-1]["content"] == [{"type": "text", "text": stream.result.text.strip()}]
    after = chat.send("What colour?", max_new_tokens=12)
    assert after.token_ids == whole(model, chat, [image()])


def test_an_answer_stopped_before_its_first_word_is_no_turn(model: Model) -> None:
    chat = model.chat()
    chat.stream("What is in this picture?", image()).cancel()
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
            image() if turn == 0 else None,
            max_new_tokens=12,
        )
    assert answer.token_ids == whole(model, chat, [image()])
    assert answer.usage.prompt_tokens > 150


def test_a_conversation_that_outgrows_memory_stays_as_it_was(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model.chat(max_new_tokens=8)
    chat.send("What is in this picture?", image())
    before, room = chat.messages, chat._cache.capacity
    with monkeypatch.context() as patch:
        patch.setattr("pumice.bundle.plan.available_memory", lambda device: 1000)
        with pytest.raises(InsufficientMemoryError, match="are available"):
            chat.send("And now, " + "please, " * 60 + "what is it?")
    assert chat.messages == before
    assert chat._cache.capacity == room
    answer = chat.send("What colour?", max_new_tokens=12)
    assert answer.usage.cached_tokens > 40
    assert answer.token_ids == whole(model, chat, [image()])


def test_a_token_in_a_question_is_the_image_s_place(model: Model) -> None:
    """In later turns too, of which the chat keeps the words as they were written."""
    chat, plain = model.chat(max_new_tokens=3), model.chat(max_new_tokens=3)
    for asked, otherwise, images in (
        ("<image>\nWhat is it?", "What is it?", [image()]),
        ("And now?", "And now?", []),
    ):
        said, expected = chat.send(asked, images), plain.send(otherwise, images)
        assert said.token_ids == expected.token_ids
        assert said.usage.prompt_tokens == expected.usage.prompt_tokens


def at_once(model: Model, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> threading.Thread:
    """A thread that works, held up in a decode step; `hold` in its test lets it go on."""
    steps = Scheduler.step

    def step(self: Scheduler) -> bool:
        if threading.current_thread() is thread:
            reached.set()
            assert go_on.wait(WATCHDOG)
        return steps(self)

    reached, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    monkeypatch.setattr(Scheduler, "step", step)
    monkeypatch.setattr(thread, "go_on", go_on.set, raising=False)
    thread.start()
    assert reached.wait(WATCHDOG)
    return thread


@pytest.mark.parametrize("streamed", [False, True])
def test_one_question_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    chat, given = model.chat(max_new_tokens=6), []
    chat.send("Hi")
    asked = [{"type": "image"}, {"type": "text", "text": "What is in this picture?"}]
    alone = model.generate([*chat.messages, {"role": "user", "content": asked}], [image()], max_new_tokens=6)

    def ask() -> None:
        if streamed:
            stream = chat.stream("What is in this picture?", image())
            given.append("".join(stream))
        else:
            given.append(chat.send("What is in this picture?", image()).text)

    thread = at_once(model, monkeypatch, ask)
    others = [
        lambda: chat.send("And?"), lambda: chat.stream("And?"), chat.regenerate, chat.stream_again,
        lambda: chat.edit(0, "Or?"), lambda: chat.rewind(0),
    ]  # fmt: skip
    for other in others:
        with pytest.raises(UsageError, match="one question at a time"):
            other()
    thread.go_on()  # type: ignore[attr-defined]
    thread.join(WATCHDOG)
    assert given == [alone.text]
    assert len(chat.messages) == 4
    chat.rewind(-1)
    assert chat.send("What is in this picture?", image()).text == alone.text


def test_reset_by_another_thread_forgets_the_answer_under_way(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, given = model.chat(max_new_tokens=6), []
    thread = at_once(model, monkeypatch, lambda: given.append(chat.send("What is in this picture?", image())))
    chat.reset()
    thread.go_on()  # type: ignore[attr-defined]
    thread.join(WATCHDOG)
    assert [answer.finish_reason for answer in given] == ["cancelled"]
    assert chat.messages == ()


def test_threads_may_take_turns(model: Model) -> None:
    chat = model.chat(max_new_tokens=4)
    for number in range(3):
        thread = threading.Thread(target=chat.send, args=(f"Number {number}?",))
        thread.start()
        thread.join(WATCHDOG)
    assert len(chat.messages) == 6


def test_who_reads_on_after_another_thread_asked_is_told(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, 300)
    chat = model.chat(max_new_tokens=20)
    first = chat.stream("One?")
    next(first)
    thread = threading.Thread(target=chat.send, args=("Two?",), kwargs={"max_new_tokens": 2})
    thread.start()
    thread.join(WATCHDOG)
    with pytest.raises(UsageError, match="another thread asked the chat something else"):
        next(first)
    assert first.result.finish_reason == "cancelled"


def test_a_stream_has_one_reader_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, read = model.stream("What is in this picture?", image(), max_new_tokens=8), list[str]()
    thread = at_once(model, monkeypatch, lambda: read.extend(stream))
    with pytest.raises(UsageError, match="being read already"):
        next(stream)
    thread.go_on()  # type: ignore[attr-defined]
    thread.join(WATCHDOG)
    assert "".join(read) == stream.result.text
