"""Requests over the slots of one cache, and a strategy that says what it likes. Oracle: whole prompts' logits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import pumice
from pumice.decoder.prefix_cache import PrefixCache
from pumice.errors import GenerationError
from pumice.generation.strategy import Floats, Step
from pumice.model import Model
from pumice.result import Generated
from pumice.scheduler.request import Clock, Request
from pumice.scheduler.scheduler import CHUNK, Scheduler
from pumice.sessions.runs import Cancellation, RunCancelledError
from pumice.vision.features import PromptFeatures

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


class Script:
    """A strategy that follows a script of steps, and keeps the logits it was shown with the ids they follow."""

    def __init__(self, prompt: Sequence[int], script: Sequence[Sequence[Step]], rows: int = 1) -> None:
        self._script, self._rows = list(script), rows
        self._contexts = [list(prompt)]
        self.seen: list[tuple[list[int], Floats]] = []

    @property
    def rows(self) -> int:
        return self._rows

    def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
        for context, logits_V in zip(self._contexts, logits_RV, strict=True):
            self.seen.append((context, logits_V.copy()))
        steps = list(self._script.pop(0)) if self._script else []
        self._contexts = [[*self._contexts[step.parent], step.token] for step in steps]
        return steps

    def take_text(self) -> str:
        return ""

    def finish(self, *, cancelled: bool = False) -> list[Generated]:
        reason = "cancelled" if cancelled else "stop"
        return [Generated(text="", token_ids=[], finish_reason=reason)]


def job_of(model: Model, ids: list[int], script: Script) -> Request:
    features = PromptFeatures([], model.pipeline.encoder)
    return Request(ids, ids, features, script, Clock(started=time.perf_counter()), max_new_tokens=40)


def step(token: int, parent: int = 0, *draft: int) -> Step:
    return Step(token=token, parent=parent, draft=draft)


def ids_of(seed: int, length: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(10, 400, length)]


def check(model: Model, script: Script) -> None:
    """All logits that the strategy saw are those of what it had chosen until then."""
    none = np.zeros((0, model.manifest.decoder.hidden_size), np.float32)
    for context, logits_V in script.seen:
        expected_V = model.pipeline.decoder.all_logits(context, none)[-1]
        assert np.abs(logits_V - expected_V).max() < TOLERANCE


def run(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass


def test_rows_fork_cross_and_end(model: Model) -> None:
    """Three rows of one prompt, then two of the second and one of the first, then one, over a neighbour's slots."""
    prompt = ids_of(0, 50)
    forked = Script(
        prompt,
        [
            [step(20), step(21), step(22)],
            [step(30, 1), step(31, 1), step(32, 0)],
            [step(40, 2), step(41, 0), step(42, 2)],
            [step(50, 2)],
        ],
        rows=3,
    )
    other = ids_of(1, 30)
    neighbour = Script(other, [[step(60 + i)] for i in range(8)])
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128, slots=5))
    requests = [job_of(model, other, neighbour), job_of(model, prompt, forked)]
    for request in requests:
        scheduler.add(request)
    run(scheduler)
    assert len(forked.seen) == 1 + 3 + 3 + 3 + 1
    assert len(neighbour.seen) == 9
    assert requests[1].tokens == 3 + 3 + 3 + 3 + 1
    assert scheduler.free_slots == 5
    check(model, forked)
    check(model, neighbour)


def test_guesses_are_kept_as_far_as_they_are_right(model: Model) -> None:
    prompt = ids_of(2, 40)
    script = Script(
        prompt,
        [
            [step(20, 0, 21, 22, 99)],
            [step(21)],
            [step(22, 0, 5, 5)],  # what was guessed here is read already
            [step(23, 0, 7)],
            [step(8)],
            [step(9, 0, 10)],
            [],
        ],
    )
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128))
    request = job_of(model, prompt, script)
    scheduler.add(request)
    run(scheduler)
    assert request.error is None
    assert [context[len(prompt) :] for context, _ in script.seen][1:4] == [[20], [20, 21], [20, 21, 22]]
    assert len(script.seen) == 7
    check(model, script)


def test_prompts_are_read_in_chunks_and_reuse_what_was_read(model: Model) -> None:
    decoder, prefixes = model.pipeline.decoder, PrefixCache(2**24)
    first = ids_of(3, 3 * CHUNK["cpu"] + 7)
    second = [*first[:300], *ids_of(4, 50)]
    for ids, cached_tokens in ((first, 0), (second, 288), (first, 384)):
        scheduler = Scheduler(decoder, decoder.new_cache(600), prefixes)
        script = Script(ids, [[step(20)], [step(21)]])
        request = job_of(model, ids, script)
        scheduler.add(request)
        run(scheduler)
        assert request.cached_tokens == cached_tokens
        check(model, script)


def test_a_slot_keeps_what_the_next_prompt_begins_with(model: Model) -> None:
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128, slots=2))
    long, short = ids_of(5, 70), ids_of(6, 20)
    for ids, cached_tokens in ((long, 0), (short, 0), ([*long[:61], 9, 9], 60), (short, 16)):
        script = Script(ids, [[step(20)]])
        request = job_of(model, ids, script)
        scheduler.add(request)
        run(scheduler)
        assert request.cached_tokens == cached_tokens
        check(model, script)


def test_prompts_that_come_together_are_read_one_after_another(model: Model) -> None:
    """The first one's answer begins when a third of all tokens is read; a short one does not wait for the others."""
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(400, slots=4))
    prompts = [ids_of(20, 300), ids_of(21, 300), ids_of(22, 300)]
    scripts = [Script(ids, [[step(20)]] * 12) for ids in prompts]
    requests = [job_of(model, ids, script) for ids, script in zip(prompts, scripts, strict=True)]
    for request in requests:
        scheduler.add(request)
    while not requests[0].tokens:
        scheduler.step()
    assert [len(scheduler._cache.contents[request.slots[0]]) for request in requests] == [300, 0, 0]
    short = Script(ids_of(23, 30), [[step(20)]])
    scheduler.add(job_of(model, ids_of(23, 30), short))
    while not short.seen:
        scheduler.step()
    assert not requests[1].tokens
    run(scheduler)
    for script in (*scripts, short):
        check(model, script)


def test_answers_of_one_token_do_not_stop_those_who_decode(model: Model) -> None:
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128, slots=2))
    long = Script(ids_of(24, 20), [[step(20)]] * 4)
    request = job_of(model, ids_of(24, 20), long)
    scheduler.add(request)
    scheduler.step()
    assert request.tokens == 1
    begun = 0
    while not request.done:  # there is always another one
        if not scheduler.waiting and scheduler.free_slots:
            scheduler.add(job_of(model, ids_of(30 + begun, 30), Script(ids_of(30 + begun, 30), [])))
            begun += 1
            assert begun < 50
        scheduler.step()
    assert begun > 20  # a first token waits for no other, most of the time
    check(model, long)


def test_those_who_wait_come_in_order_and_wide_ones_are_not_passed(model: Model) -> None:
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128, slots=2))
    ended: list[str] = []
    requests = {
        name: job_of(model, ids_of(i, 12), Script(ids_of(i, 12), [[step(20)]] * length, rows))
        for i, (name, rows, length) in enumerate((("a", 1, 6), ("wide", 2, 1), ("b", 1, 1), ("c", 1, 1)))
    }
    for request in requests.values():
        scheduler.add(request)
    while scheduler.step():
        ended += [name for name, request in requests.items() if request.done and name not in ended]
        assert requests["b"].state == "waiting" or "a" in ended
    assert ended[:2] == ["a", "wide"]
    assert all(request.done for request in requests.values())


def test_one_that_fails_hurts_no_other(model: Model) -> None:
    class Broken(Script):
        def advance(self, logits_RV: Sequence[Floats]) -> list[Step]:
            if len(self.seen) == 2:
                raise KeyError("oh")
            return super().advance(logits_RV)

    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(128, slots=2))
    ids = ids_of(7, 20)
    broken, whole = Broken(ids, [[step(20)]] * 5), Script(ids, [[step(30)]] * 5)
    requests = [job_of(model, ids, broken), job_of(model, ids, whole)]
    for request in requests:
        scheduler.add(request)
    run(scheduler)
    assert isinstance(requests[0].error, GenerationError)
    with pytest.raises(GenerationError, match="KeyError"):
        requests[0].results()
    assert len(whole.seen) == 6
    assert requests[1].results()[0].finish_reason == "stop"
    check(model, whole)


@pytest.mark.parametrize("when", ["waiting", "prefill", "decode"])
def test_cancelling_frees_slots_at_once(model: Model, when: str) -> None:
    scheduler = Scheduler(model.pipeline.decoder, model.pipeline.decoder.new_cache(512, slots=1))
    ids = ids_of(8, 300)
    request = job_of(model, ids, Script(ids, [[step(20)]] * 100))
    scheduler.add(request)
    while request.state != when:
        scheduler.step()
    request.cancellation.set()  # as another thread would
    scheduler.step()
    assert request.done
    assert request.results()[0].finish_reason == "cancelled"
    assert scheduler.free_slots == 1
    after = Script(ids[:50], [[step(20)]])
    scheduler.add(job_of(model, ids[:50], after))
    run(scheduler)
    check(model, after)


def test_a_run_under_way_can_be_ended(model: Model) -> None:
    decoder, cancellation = model.pipeline.decoder, Cancellation()
    ids = ids_of(9, 4)
    cache = decoder.new_cache(512)
    cancellation.set()
    none = np.zeros((0, decoder.shape.hidden_size), np.float32)
    with pytest.raises(RunCancelledError):
        decoder.forward(ids, ids, none, cache, cancellation=cancellation)
    assert cache.length(0) == 0
    with pytest.raises(RunCancelledError):
        cancellation.run(model.pipeline.decoder.sessions.vision_encoder, {}, [])


def test_ctrl_c_ends_a_long_run() -> None:
    """The main thread waits for another that computes, so that a signal's handler can end it, and sees it end."""
    cancellation, ended = Cancellation(), threading.Event()

    class Session:
        def run(self, outputs: object, feeds: object, options: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            while not options.terminate:  # type: ignore[attr-defined]
                time.sleep(0.001)
            time.sleep(0.1)
            ended.set()
            raise RuntimeError("terminate flag")

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            cancellation.run(Session(), {}, [])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert cancellation.is_set
    assert ended.is_set()
