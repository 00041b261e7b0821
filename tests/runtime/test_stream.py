"""Text in pieces, and how it ends. Oracle: the whole answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pumice
from pumice.decoder.decoder import Decoder
from pumice.decoder.step import DecodeStep
from pumice.errors import GenerationError, UsageError
from pumice.model import Model
from pumice.stream import TextStream
from pumice.vision.encoder import ImageEncoder

from .test_generation import force, image

QUESTION = "What is in this picture?"


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 3},
        {"stop_strings": ["gree", " a b"]},
        {"do_sample": True, "temperature": 3.0, "seed": 2, "max_new_tokens": 80},
        {"regex": "[α-ω]{3,9}"},
        {"num_beams": 3},
        {"do_sample": True, "num_return_sequences": 2, "seed": 1},
        {"prompt_lookup_num_tokens": 8, "max_new_tokens": 60},
    ],
)
def test_pieces_make_the_answer(model: Model, options: dict[str, Any]) -> None:
    stream = model.stream(QUESTION, [image()], **options)
    pieces = list(stream)
    again = model.generate(QUESTION, [image()], **options)
    assert all(pieces)
    assert "".join(pieces) == stream.result.text
    assert [r.token_ids for r in stream.results] == [
        r.token_ids for r in (again if isinstance(again, list) else [again])
    ]
    assert "\ufffd" not in "".join(pieces[:-1])


def test_half_a_character_waits_for_its_other_half(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = model.pipeline.tokenizer
    ids = tokenizer.encode("ab 🙂é")
    force(monkeypatch, *ids, model.manifest.tokens.eos_ids[0])
    pieces = list(model.stream("Hi", max_new_tokens=len(ids) + 1))
    assert "".join(pieces).strip() == "ab 🙂é"
    assert all("\ufffd" not in piece for piece in pieces)


class Reader(threading.Thread):
    """Iterates over a stream; says when its first piece has come."""

    def __init__(self, stream: TextStream) -> None:
        super().__init__(daemon=True)
        self.stream, self.begun = stream, threading.Event()
        self.pieces: list[str] = []

    def run(self) -> None:
        for piece in self.stream:
            self.pieces.append(piece)
            self.begun.set()


def test_another_thread_may_cancel(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 300)
    stream = model.stream("Hi", max_new_tokens=1900)
    reader = Reader(stream)
    reader.start()
    assert reader.begun.wait(300)
    stream.cancel()
    reader.join(300)
    assert not reader.is_alive()
    assert stream.result.finish_reason == "cancelled"
    assert len(stream.result.token_ids) < 1900
    assert stream.result.text.startswith("".join(reader.pieces))


def test_cancelled_before_its_first_piece(model: Model) -> None:
    stream = model.stream(QUESTION, [image()])
    stream.cancel()
    stream.cancel()
    assert list(stream) == []
    assert stream.result.token_ids == []
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.timings.prefill == 0


def test_cancelling_what_has_ended_changes_nothing(model: Model) -> None:
    stream = model.stream(QUESTION, [image()])
    text = "".join(stream)
    stream.cancel()
    assert stream.result.finish_reason == "stop"
    assert stream.result.text == text


def test_a_failure_comes_once_and_behind_what_was_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: Iterator[int] = iter([300, 301, 302])

    def broken(logits: Any, rng: Any) -> int:
        token = next(tokens, None)
        if token is None:
            raise GenerationError("no more")
        return token

    monkeypatch.setattr("pumice.generation.make.make_sampler", lambda options: broken)
    stream, pieces = model.stream("Hi"), []
    with pytest.raises(GenerationError, match="no more"):
        for piece in stream:
            pieces.append(piece)
    assert "".join(pieces) == model.pipeline.tokenizer.decode([300, 301, 302])
    assert list(stream) == []
    with pytest.raises(UsageError, match="has not ended"):
        _ = stream.result


@pytest.mark.parametrize("phase", ["vision", "prefill", "decode"])
def test_cancelling_ends_whatever_is_under_way(
    model: Model, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Another thread cancels in the middle of a step; this one gets no piece more, and sees the answer ended."""
    owner, method = {
        "vision": (ImageEncoder, "_run"),
        "prefill": (Decoder, "forward"),
        "decode": (DecodeStep, "__call__"),
    }[phase]
    original = getattr(owner, method)

    def interrupted(*args: Any, **options: Any) -> Any:
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        canceller.join()
        return original(*args, **options)

    monkeypatch.setattr(owner, method, interrupted)
    stream = model.stream(QUESTION, [image(99 + len(phase))], prompt_lookup_num_tokens=0)
    said = "".join(stream)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(said)
    assert len(stream.result.token_ids) == (2 if phase == "decode" else 0)
    timings = stream.result.timings
    assert (timings.vision > 0, timings.prefill >= 0, timings.decode >= 0) == (True, True, True)


def test_who_leaves_when_another_thread_cancels_has_a_result(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cancel` finds the other thread at work and leaves the rest to it; it need not ask for another piece."""
    original = DecodeStep.__call__

    def interrupted(*args: Any) -> Any:
        logits = original(*args)
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        canceller.join()
        return logits

    stream = model.stream(QUESTION, [image()], prompt_lookup_num_tokens=0)
    next(stream)
    monkeypatch.setattr(DecodeStep, "__call__", interrupted)
    next(stream, None)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text
