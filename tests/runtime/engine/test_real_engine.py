"""The engine on pebble: the same tokens as `model.generate` alone, and failures that stay where they are."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.engine import Engine
from pumice.errors import (
    ContextLengthError,
    GenerationError,
    ImageError,
    InsufficientMemoryError,
    PromptError,
    UsageError,
)
from pumice.model import Model
from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler
from pumice.sessions.runs import Cancellation
from tests.runtime.engine.stand_ins import PATIENCE, eventually

HELDOUT = Path(__file__).parents[3] / "pebble" / "heldout"
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 1},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"stop_strings": ["square", "octagon"]},
    {"do_sample": True, "temperature": 1.5, "seed": 7},
    {"do_sample": True, "top_k": 5, "seed": 11, "num_return_sequences": 3},
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    {"logprobs": 3},
    {"prompt_lookup_num_tokens": 4},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}},
]


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def requests(count: int, seed: int) -> list[tuple[Any, list[Any], dict[str, Any]]]:
    """Prompts of 1 to 3 turns with 0 to 3 images."""
    chance = random.Random(seed)
    prepared = sorted(HELDOUT.glob("*.png"))[:6]
    made: list[tuple[Any, list[Any], dict[str, Any]]] = []
    for n in range(count):
        images = [chance.choice(prepared) for _ in range(chance.randint(0, 3))]
        text = {"type": "text", "text": chance.choice(["What is this?", "Describe it.", "How many shapes?"])}
        messages: list[dict[str, Any]] = []
        for turn in range(chance.randint(1, 3)):
            content = [{"type": "image"}] * len(images) if turn == 0 else []
            messages += [
                {"role": "user", "content": [*content, text]},
                {"role": "assistant", "content": [{"type": "text", "text": "A red square."}]},
            ]
        options = {"max_new_tokens": chance.randint(2, 24), **OPTIONS[n % len(OPTIONS)]}
        made.append((messages[:-1], images, options))
    return made


def tokens(answer: Any) -> Any:
    answers = answer if isinstance(answer, list) else [answer]
    return [(a.token_ids, a.text, a.finish_reason) for a in answers]


@pytest.mark.parametrize("slots", [4, 16])
def test_the_same_answers_as_alone(model: Model, slots: int) -> None:
    asked = requests(36, seed=slots)
    alone = [tokens(model.generate(prompt, images, **options)) for prompt, images, options in asked]
    with Engine(model, slots=slots) as engine:
        futures = [engine.submit(prompt, images, **options) for prompt, images, options in asked]
        together = [tokens(future.result(PATIENCE)) for future in futures]
    assert together == alone
    assert engine.counters.finished == len(asked)


def test_streams_give_the_text(model: Model) -> None:
    asked = requests(12, seed=1)
    with Engine(model, slots=6) as engine:
        streams = [engine.stream(prompt, images, **options) for prompt, images, options in asked]
        for stream in streams:
            assert "".join(stream) == stream.result.text


def test_a_follower_is_told_of_every_answer(model: Model) -> None:
    """Pieces put together are the answers: text, ids and log-probabilities of each; of beams there are none."""
    asked = [*requests(12, seed=2), ("Describe it.", [], {**OPTIONS[6], "logprobs": 2, "max_new_tokens": 9})]
    with Engine(model, slots=6) as engine:
        for prompt, images, options in asked:
            pieces: list[Any] = []
            results = engine.follow(prompt, images, follower=pieces.extend, **options).result(PATIENCE)
            if options.get("num_beams"):
                assert pieces == []
                continue
            for index, result in enumerate(results):
                own = [piece for piece in pieces if piece.index == index]
                assert "".join(piece.text for piece in own) == result.text
                assert [i for piece in own for i in piece.token_ids] == result.token_ids
                assert len(own) > 1 or len(result.token_ids) <= 2 or "prompt_lookup_num_tokens" in options
                if result.logprobs is not None:
                    assert tuple(entry for piece in own for entry in piece.logprobs or ()) == result.logprobs


def test_whether_an_engine_moves(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, go_on = Event(), Event()
    real = Scheduler.step

    def held(self: Scheduler) -> bool:
        stopped.set()
        assert go_on.wait(PATIENCE)
        return real(self)

    monkeypatch.setattr(Scheduler, "step", held)
    with Engine(model, slots=2) as engine:
        assert engine.alive
        assert engine.stalled_s == 0
        future = engine.submit("Hi", max_new_tokens=2)
        assert stopped.wait(PATIENCE)
        eventually(lambda: engine.stalled_s > 0)
        go_on.set()
        future.result(PATIENCE)
        eventually(lambda: engine.stalled_s == 0)
        assert engine.alive
    assert not engine.alive


def test_encoding_counts_as_vision(model: Model) -> None:
    image = Image.fromarray(np.random.default_rng(6).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    with Engine(model, slots=2) as engine:
        assert engine.submit("What is this?", image, max_new_tokens=2).result(PATIENCE).timings.vision > 1e-4


def test_the_same_image_is_encoded_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    real = Cancellation.run

    def counting(self: Cancellation, session: Any, feeds: dict[str, Any], outputs: list[str]) -> list[Any]:
        if "pixel_values" in feeds:
            encoded.append(len(feeds["pixel_values"]))
        return real(self, session, feeds, outputs)

    monkeypatch.setattr(Cancellation, "run", counting)
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    with Engine(model, slots=4) as engine:
        futures = [engine.submit(f"What is this? {n}", image, max_new_tokens=3) for n in range(8)]
        assert not wait(futures, PATIENCE).not_done
    assert sum(encoded) == 1
    assert engine.counters.reused_prompt_tokens > 0


@pytest.mark.parametrize("after", [0, 5])
def test_logits_that_are_not_finite_fail_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """In the prompt's reading, and in the middle of the answer."""
    plain: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": []}
    alone = model.generate("Describe it.", **plain).token_ids
    poison = model.prepare("Poison").input_ids[0].tolist()
    real = Scheduler._advance

    def poisoned(self: Scheduler, request: Request, logits_RV: list[Any]) -> None:
        if request.ids == poison and request.tokens == after:
            logits_RV = [logits_V * np.float32(np.nan) for logits_V in logits_RV]
        real(self, request, logits_RV)

    monkeypatch.setattr(Scheduler, "_advance", poisoned)
    with Engine(model, slots=4) as engine:
        before = [engine.submit("Describe it.", **plain) for _ in range(4)]
        bad = engine.submit("Poison", **plain)
        behind = [engine.submit("Describe it.", **plain) for _ in range(4)]
        with pytest.raises(GenerationError, match="not finite"):
            bad.result(PATIENCE)
        assert [future.result(PATIENCE).token_ids for future in [*before, *behind]] == [alone] * 8
    assert engine.counters.failed == 1


def test_bad_requests_fail_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not")
    with Engine(model, slots=2, context=128) as engine:
        good = [engine.submit("Describe it.", max_new_tokens=8) for _ in range(4)]
        broken = engine.submit("What?", [tmp_path / "broken.png"])
        places = engine.submit("<image><image> What?", [HELDOUT / "stop-sign.png"], raw=True)
        long = engine.submit("word " * 500)
        for future, error in ((broken, ImageError), (places, PromptError), (long, ContextLengthError)):
            with pytest.raises(error):
                future.result(PATIENCE)
        with pytest.raises(UsageError):
            engine.submit("What?", max_new_tokens=0)
        assert all(len(future.result(PATIENCE).token_ids) for future in good)
    assert engine.counters.failed == 3


def test_a_slots_context_ends_the_answer(model: Model) -> None:
    with Engine(model, slots=1, context=64) as engine:
        answer = engine.submit("What?", max_new_tokens=1000, eos_token_id=[]).result(PATIENCE)
    assert answer.usage.total_tokens == 64
    assert answer.finish_reason == "length"


def test_requests_of_many_rows_are_not_starved(model: Model) -> None:
    """Beams that need all slots get them although others keep coming."""
    with Engine(model, slots=4, max_queue=1000) as engine:
        running = [engine.submit("Describe it.", max_new_tokens=30, eos_token_id=[]) for _ in range(8)]
        beams = engine.submit("Describe it.", num_beams=4, max_new_tokens=5)
        later = [engine.submit("Describe it.", max_new_tokens=30, eos_token_id=[]) for _ in range(30)]
        done: list[Future[Any]] = []
        for future in (beams, *later):
            future.add_done_callback(done.append)
        assert not wait([beams, *running, *later], PATIENCE).not_done
    assert done.index(beams) < max(done.index(future) for future in later)


def test_slots_are_free_after_anything(model: Model) -> None:
    chance = random.Random(3)
    with Engine(model, slots=3, max_queue=1000) as engine:
        futures: list[Future[Any]] = []
        for prompt, images, options in requests(60, seed=9):
            if max(options.get("num_beams", 1), options.get("num_return_sequences", 1)) > 3:
                continue
            futures.append(engine.submit(prompt, images, deadline=PATIENCE, **options))
            if chance.random() < 0.4:
                chance.choice(futures).cancel()
            if chance.random() < 0.3:
                time.sleep(0.003)
        assert not wait(futures, PATIENCE).not_done
        eventually(lambda: engine.counters.slots_in_use == 0)
        counters = engine.counters
        assert counters.finished + counters.cancelled == len(futures)
        assert counters.failed == 0


def test_the_interpreter_exits_while_the_model_computes(pebble_bundle: Path) -> None:
    import subprocess
    import sys

    program = """
import sys, pumice
engine = pumice.Engine(pumice.load(sys.argv[1], device="cpu", threads=1), slots=4)
streams = [engine.stream("Describe it.", max_new_tokens=1000, eos_token_id=[]) for _ in range(8)]
next(streams[0])
print("leaving")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(pebble_bundle)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


def test_slots_are_as_long_as_memory_allows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    position = 2 * model.manifest.decoder.layers * model.manifest.decoder.kv_heads
    position *= model.manifest.decoder.head_dim * 4
    monkeypatch.setattr(
        "pumice.bundle.plan.available_memory", lambda device="cpu": 2 * 8 * 128 * position + 1
    )
    with Engine(model, slots=8) as engine:
        assert engine.context == 128
        with pytest.raises(ContextLengthError, match="a slot's context of 128 leaves no room"):
            engine.submit("word " * 200).result()
    with pytest.raises(InsufficientMemoryError, match="would fit"):
        Engine(model, slots=8, context=model.context_length)
