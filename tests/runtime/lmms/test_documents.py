"""What is asked of a document, in each of the forms in which tasks say it."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from pumice.errors import PromptError
from pumice.lmms.documents import from_context, from_messages
from pumice.lmms.requests import ChatRequest, SimpleRequest, scored

RED, BLUE = Image.new("RGB", (2, 3), "red"), Image.new("RGB", (3, 2), "blue")
PLACE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, str]) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": [*parts]},)


@pytest.mark.parametrize(
    ("context", "visuals", "parts", "images"),
    [
        ("What?", None, [text("What?")], ()),
        ("What?", [], [text("What?")], ()),
        ("What?", RED, [PLACE, text("What?")], (RED,)),
        ("What?", [RED, [BLUE]], [PLACE, PLACE, text("What?")], (RED, BLUE)),
        (
            "A <image> or <image>?",
            [RED, BLUE],
            [text("A "), PLACE, text(" or "), PLACE, text("?")],
            (RED, BLUE),
        ),
        ("<image>What?", [RED], [PLACE, text("What?")], (RED,)),
        ("Is <image> a word?", [RED, BLUE], [PLACE, PLACE, text("Is <image> a word?")], (RED, BLUE)),
        ("Is <image> a word?", None, [text("Is <image> a word?")], ()),
        ("", [RED], [PLACE, text("")], (RED,)),
    ],
)
def test_contexts(context: str, visuals: Any, parts: Any, images: Any) -> None:
    asked = from_context(context, visuals)
    assert asked.messages == user(*parts)
    assert asked.images == images


def test_messages_keep_the_places_of_their_images() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "image", "url": RED}, text("and"), {"type": "image", "url": BLUE}],
        },
        {"role": "assistant", "content": [text("Two <image>s.")]},
    ]
    asked = from_messages(messages)
    assert asked.images == (RED, BLUE)
    assert asked.messages == (
        {"role": "system", "content": "Be short."},
        *user(PLACE, text("and"), PLACE),
        {"role": "assistant", "content": [text("Two <image>s.")]},
    )
    replaced = from_messages(messages, system="Be long.")
    assert replaced.messages[0] == {"role": "system", "content": [text("Be long.")]}
    assert replaced.messages[1:] == asked.messages[1:]


@pytest.mark.parametrize("part", [{"type": "video", "url": "a.mp4"}, {"type": "audio", "url": {}}])
def test_what_is_no_image_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match=f"part of type '{part['type']}', expected text or image"):
        from_messages([{"role": "user", "content": [part]}])
    with pytest.raises(PromptError, match="shows something with 'array', 'sampling_rate', expected an image"):
        from_context("What?", [{"array": 1, "sampling_rate": 2}])


DOCUMENTS = {"task": {"test": [{"q": "What?", "image": RED}, {"q": "Where?", "image": BLUE}]}}


def test_a_request_reads_its_own_document_and_no_other() -> None:
    chat = ChatRequest(
        (
            "c",
            lambda doc: user({"type": "image", "url": doc["image"]}, text(doc["q"])),
            {},
            1,
            "task",
            "test",
        ),
        DOCUMENTS,
    )
    simple = SimpleRequest(("Where?", None, lambda doc: [doc["image"]], 1, "task", "test"), DOCUMENTS)
    for one in (chat, simple):
        assert one.name == "task/test/1"
        assert one.arguments == {}
        asked = one.asked("Be short.")
        assert asked.images == (BLUE,)
        assert asked.messages == (
            {"role": "system", "content": [text("Be short.")]},
            *user(PLACE, text("Where?")),
        )
    assert chat.next_round([], None)().images == (BLUE,)
    assert (
        ChatRequest(("c", lambda doc, **_: user(), {}, 0, "task", "test"), DOCUMENTS).next_round(["a"], None)
        is None
    )


def test_rounds_end_where_the_task_says_so() -> None:
    seen: list[Any] = []

    def write(doc: Any, **told: Any) -> Any:
        seen.append((doc["q"], told))
        if len(told["previous_output"]) == 2:
            return None, True, None, None
        return user(text("And?")), False, told["previous_output"], "kept"

    chat = ChatRequest(("c", write, {}, 0, "task", "test"), DOCUMENTS)
    turn = chat.next_round(["one"], None)
    assert turn is not None
    assert turn().messages == user(text("And?"))
    assert chat.next_round(["one", "two"], None) is None
    assert [told["previous_round_info"] for _, told in seen] == [None, "kept"]
    assert [told["round_idx"] for _, told in seen] == [1, 2]


def test_rounds_of_a_simple_task_may_change_the_answers() -> None:
    def rounds(doc: Any, **told: Any) -> Any:
        ended = told["round_idx"] == 2
        return [doc["image"]], "And?", ended, [*told["previous_output"][:-1], "changed"], None

    args = ("What?", {"temperature": 0}, lambda doc: [doc["image"]], rounds, 0, "task", "test")
    simple = SimpleRequest(args, DOCUMENTS)
    answers = ["one"]
    turn = simple.next_round(answers, None)
    assert turn is not None
    assert turn().messages == user(PLACE, text("And?"))
    assert answers == ["changed"]
    answers.append("two")
    assert simple.next_round(answers, None) is None
    assert answers == ["changed", "changed"]


def test_what_is_scored() -> None:
    see = lambda doc: [doc["image"]]  # noqa: E731
    one = scored(("Where?", " Here.", see, 1, "task", "test"), DOCUMENTS, None)
    other = scored(("Where?", lambda doc: doc["q"], None, 1, "task", "test"), DOCUMENTS, None)
    bare = scored(("", "Here."), DOCUMENTS, None)
    assert (one.name, one.answer, one.asked().images) == ("task/test/1", " Here.", (BLUE,))
    assert (other.answer, other.asked().messages) == ("Where?", user(text("Where?")))
    assert (bare.answer, bare.asked().messages, bare.asked().images) == ("Here.", user(text("")), ())
