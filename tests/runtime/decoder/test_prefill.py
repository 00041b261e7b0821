"""Bundles whose prompts are read by a graph of their own: the same answers, however a prompt is cut or reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pumice
from pumice.model import Model
from pumice.scheduler import scheduler
from pumice.sessions.runs import Cancellation, RunCancelledError

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "pebble" / "heldout" / "stop-sign.png"

QUESTIONS = ["What is this?", "Describe this picture in more detail.", "How many things are there?"]


def exported(folder: Path, prefill: str) -> Path:
    from pumice.export.pipeline import export_bundle

    recipe = folder / f"{folder.name}.toml"
    recipe.write_text(f"rotate = true\n[prefill]\n{prefill}\n")
    export_bundle(ROOT / "pebble" / "checkpoint", folder / "bundle", recipe=recipe)
    return folder / "bundle"


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return pumice.load(exported(tmp_path_factory.mktemp("floats"), 'weights = "float"'), device="cpu")


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Model:
    storage = 'weights = "int8"\nactivations = "int8"'
    return pumice.load(exported(tmp_path_factory.mktemp("integers"), storage), device="cpu")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheduler.CHUNK, "cpu", 7)


@pytest.mark.export_extra
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_without_it(floats: Model, pebble_bundle: Path, question: str) -> None:
    plain = pumice.load(pebble_bundle, device="cpu")
    for images in ([IMAGE], []):
        expected = plain.generate(question, images, max_new_tokens=24)
        found = floats.generate(question, images, max_new_tokens=24)
        assert found.token_ids == expected.token_ids


@pytest.mark.export_extra
def test_chunks_change_nothing(integers: Model, small_chunks: None) -> None:
    """The fixtures' other tests have read whole prompts; here one is read in many parts, beside a whole one."""
    chunked = pumice.load(integers.path, device="cpu", prefix_cache_bytes=0)
    found = [chunked.generate(q, [IMAGE], max_new_tokens=16, logprobs=3) for q in QUESTIONS]
    scheduler.CHUNK["cpu"] = 4096
    whole = pumice.load(integers.path, device="cpu", prefix_cache_bytes=0)
    for question, result in zip(QUESTIONS, found, strict=True):
        expected = whole.generate(question, [IMAGE], max_new_tokens=16, logprobs=3)
        assert result.token_ids == expected.token_ids


@pytest.mark.export_extra
def test_a_prompt_of_one_token_needs_no_prefill(floats: Model, pebble_bundle: Path) -> None:
    plain = pumice.load(pebble_bundle, device="cpu")
    expected = plain.generate("red", raw=True, max_new_tokens=8)
    assert floats.generate("red", raw=True, max_new_tokens=8).token_ids == expected.token_ids


@pytest.mark.export_extra
def test_the_last_token_may_be_a_images(floats: Model, pebble_bundle: Path) -> None:
    """Its features go to the decoder, the others' to the prefill graph."""
    plain = pumice.load(pebble_bundle, device="cpu")
    expected = plain.generate("See: <image>", [IMAGE], raw=True, max_new_tokens=8)
    assert (
        floats.generate("See: <image>", [IMAGE], raw=True, max_new_tokens=8).token_ids == expected.token_ids
    )


@pytest.mark.export_extra
def test_reused_beginnings_give_the_same_answer(integers: Model) -> None:
    fresh = pumice.load(integers.path, device="cpu", prefix_cache_bytes=0)
    for question in (*QUESTIONS, *QUESTIONS):
        expected = fresh.generate(question, [IMAGE], max_new_tokens=16)
        assert integers.generate(question, [IMAGE], max_new_tokens=16).token_ids == expected.token_ids


@pytest.mark.export_extra
def test_the_cache_is_that_of_the_prefill_graph_but_for_the_last_token(integers: Model) -> None:
    decoder = integers.pipeline.decoder
    assert decoder.sessions.prefill is not None
    ids = [int(i) for i in np.random.default_rng(0).integers(10, 400, 20)]
    none = np.zeros((0, decoder.shape.hidden_size), np.float32)
    caches = [decoder.new_cache(64) for _ in range(3)]
    decoder.prefill(ids, ids, none, caches[0], 0, Cancellation(), ends=True)
    assert decoder.prefill(ids, ids, none, caches[1], 0, Cancellation(), ends=False) is None
    decoder.forward(ids, ids, none, caches[2])
    by_prefill, by_decoder = caches[1].read(0, 0, 20), caches[2].read(0, 0, 20)
    mixed = caches[0].read(0, 0, 20)
    assert caches[0].contents == caches[1].contents == [ids]
    np.testing.assert_array_equal(mixed[:, :, :19], by_prefill[:, :, :19])
    assert not np.array_equal(mixed[:, :, :19], by_decoder[:, :, :19])


@pytest.mark.export_extra
def test_cancelling_leaves_the_slot_as_it_was(integers: Model) -> None:
    decoder = integers.pipeline.decoder
    cancelled = Cancellation()
    cancelled.set()
    cache, ids = decoder.new_cache(64), [11, 12, 13]
    none = np.zeros((0, decoder.shape.hidden_size), np.float32)
    with pytest.raises(RunCancelledError):
        decoder.prefill(ids, ids, none, cache, 0, cancelled, ends=True)
    assert cache.length(0) == 0
