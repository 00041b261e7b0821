"""Keys and values in 8 bits, in everything that is done with a cache. Oracle: pebble with a float cache, whose answers
are the same; for what copies, moves, grows or restores a cache, the same bundle asked anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pebble.heldout import FOLDER, QUESTIONS
from pebble.records import load_records, to_messages
from pumice.decoder.step import DecodeStep
from pumice.errors import DeviceError
from pumice.model import Model
from pumice.sessions.cuda import prepare
from pumice.sessions.runs import Cancellation, RunCancelledError

pytestmark = pytest.mark.export_extra
WAYS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3, "num_return_sequences": 2},
    {"do_sample": True, "num_return_sequences": 3, "seed": 7, "temperature": 0.7},
    {"prompt_lookup_num_tokens": 6},
]


@pytest.fixture(scope="module")
def rounded(pebble_bundle_int8_cache: Path) -> Model:
    return pumice.load(pebble_bundle_int8_cache, device="cpu", threads=1)


@pytest.fixture(scope="module")
def plain(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


def asked() -> list[tuple[Any, list[Path]]]:
    records = load_records(QUESTIONS)[::110]
    return [(to_messages(record), [FOLDER / name for name in record.images]) for record in records]


def test_the_cache_is_a_quarter(rounded: Model, plain: Model) -> None:
    small, large = (m.pipeline.decoder.new_cache(64).read(0, 0, 64).nbytes for m in (rounded, plain))
    assert 4 * small == large
    assert rounded.manifest.decoder.kv_dtype == "int8"


@pytest.mark.parametrize("options", WAYS, ids=["greedy", "beams", "several", "drafts"])
def test_answers_are_those_of_a_float_cache(options: dict[str, Any], rounded: Model, plain: Model) -> None:
    for messages, images in asked():
        found = [m.generate([messages], [images], max_new_tokens=16, **options) for m in (rounded, plain)]
        ours, theirs = ([answer.token_ids for answer in answers] for answers in found)
        assert ours == theirs


def test_a_chat_that_goes_back_and_on(rounded: Model) -> None:
    image = FOLDER / "stop-sign.png"
    chat, anew = rounded.chat(), rounded.chat()
    chat.send("What is this?", image)
    first = chat.send("How many shapes are there?").text
    chat.rewind(-1)
    again = chat.send("How many shapes are there?").text
    anew.send("What is this?", image)
    assert first == again == anew.send("How many shapes are there?").text


def test_many_at_once_answer_as_alone(rounded: Model) -> None:
    """More prompts than slots, so that slots are filled again, and rows move together."""
    questions = asked()
    alone = [
        rounded.generate(messages, images, max_new_tokens=12).token_ids for messages, images in questions
    ]
    with pumice.Engine(rounded, slots=3, context=320) as engine:
        futures = [engine.submit(messages, images, max_new_tokens=12) for messages, images in questions]
        assert [future.result().token_ids for future in futures] == alone


def test_slots_that_grow_and_copies_keep_what_they_hold(rounded: Model) -> None:
    decoder = rounded.pipeline.decoder
    nothing = np.zeros((0, decoder.shape.hidden_size), np.float32)
    cache, ids = decoder.new_cache(64, slots=2), [20 + i % 30 for i in range(50)]
    decoder.prefill(ids, ids, nothing, cache, 0, Cancellation(), ends=True)
    cache.copy(0, 1)
    cache.reserve(200)
    assert cache.read(1, 0, 50).dtype == np.int8
    assert (cache.read(0, 0, 50) == cache.read(1, 0, 50)).all()
    assert cache.read(0, 0, 50).any()
    logits_RV = DecodeStep(decoder.sessions, decoder.shape, cache, range(2))([7, 7])
    assert (logits_RV[0] == logits_RV[1]).all()
    fresh = decoder.new_cache(64)
    expected = decoder.forward([*ids, 7], [*ids, 7], nothing, fresh)[0]
    assert np.abs(logits_RV[0] - expected).max() < 2e-4
    assert (fresh.read(0, 0, 51) == cache.read(0, 0, 51)).all()


def test_a_cancelled_run_leaves_the_slot(rounded: Model) -> None:
    decoder = rounded.pipeline.decoder
    nothing = np.zeros((0, decoder.shape.hidden_size), np.float32)
    cache, cancellation = decoder.new_cache(64), Cancellation()
    decoder.prefill([5, 6, 7], [5, 6, 7], nothing, cache, 0, Cancellation(), ends=False)
    before = cache.read(0, 0, 64)
    cancellation.set()
    with pytest.raises(RunCancelledError):
        decoder.prefill([8, 9], [8, 9], nothing, cache, 0, cancellation, ends=False)
    assert cache.contents[0] == [5, 6, 7]
    assert (cache.read(0, 0, 64) == before).all()


def test_gpus_refuse_it(rounded: Model) -> None:
    with pytest.raises(DeviceError, match="its keys and values are int8"):
        prepare(rounded.manifest, None)
