"""Answers by way of a device's memory. Oracle: the same bundle by way of the host's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.decoder.step import DecodeStep, DeviceStep
from pumice.errors import GenerationError
from pumice.model import Model
from pumice.sessions.arrays import DeviceArray
from tests.runtime.device_stand_in import load_on_stand_in

QUESTION = "What is in this picture?"
IMAGES = sorted((Path(__file__).parents[3] / "pebble" / "heldout").glob("*.png"))


@pytest.fixture(scope="module")
def host(pebble_bundle_cuda: Path) -> Model:
    return pumice.load(pebble_bundle_cuda, device="cpu", threads=1)


@pytest.fixture(scope="module")
def device(pebble_bundle_cuda: Path) -> Model:
    return load_on_stand_in(pebble_bundle_cuda)


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of all that comes back from the device."""
    shapes: list[tuple[int, ...]] = []
    numpy = DeviceArray.numpy

    def noted(array: DeviceArray) -> Any:
        shapes.append(array.shape)
        return numpy(array)

    monkeypatch.setattr(DeviceArray, "numpy", noted)
    return shapes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"do_sample": True, "seed": 3},
        {"num_beams": 3},
        {"num_return_sequences": 3, "do_sample": True, "seed": 3},
        {"prompt_lookup_num_tokens": 6},
        {"logprobs": 2},
    ],
    ids=str,
)
def test_answers_are_the_same(host: Model, device: Model, options: dict[str, Any]) -> None:
    for images in ([], IMAGES[:1], IMAGES[1:4]):
        theirs = host.generate(QUESTION, images=images, max_new_tokens=12, **options)
        ours = device.generate(QUESTION, images=images, max_new_tokens=12, **options)
        for one, other in zip(aslist(theirs), aslist(ours), strict=True):
            assert one.text == other.text
            assert one.token_ids == other.token_ids
            assert one.logprobs == other.logprobs


def aslist(answers: Any) -> list[Any]:
    return answers if isinstance(answers, list) else [answers]


def test_greedy_decoding_reads_back_one_number_a_token(
    device: Model, read_back: list[tuple[int, ...]]
) -> None:
    answer = device.generate(QUESTION, max_new_tokens=12, prompt_lookup_num_tokens=0)
    assert read_back == [(1,)] * (len(answer.token_ids) - 1)  # the first comes with the prompt's logits


def test_logits_are_read_back_where_they_are_needed(device: Model, read_back: list[tuple[int, ...]]) -> None:
    vocabulary = device.pipeline.decoder.shape.vocab_size
    for options in ({"do_sample": True}, {"logprobs": 0}, {"repetition_penalty": 1.1}, {"num_beams": 2}):
        read_back.clear()
        device.generate(QUESTION, max_new_tokens=4, prompt_lookup_num_tokens=0, **options)
        assert {shape[-1] for shape in read_back} == {vocabulary}, options


def test_features_stay_on_the_device(device: Model, host: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    image = device.encode_image(IMAGES[4])
    monkeypatch.setattr("pumice.sessions.arrays.DeviceMemory.upload", lambda *_: pytest.fail("uploaded"))
    answer = device.generate(QUESTION, images=[image], max_new_tokens=4)
    np.testing.assert_array_equal(image.features, host.encode_image(IMAGES[4]).features)
    assert answer.text == host.generate(QUESTION, images=[image], max_new_tokens=4).text


def test_features_that_were_forgotten_come_from_the_host(
    device: Model, host: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pumice.vision.resident.MOST", 2)
    answer = device.generate(QUESTION, images=IMAGES[5:9], max_new_tokens=4)
    assert answer.text == host.generate(QUESTION, images=IMAGES[5:9], max_new_tokens=4).text


def test_the_likeliest_token_is_that_of_the_logits(device: Model, host: Model) -> None:
    ids = list(range(10, 30))
    none = np.zeros((0, device.pipeline.decoder.shape.hidden_size), np.float32)
    found = []
    for model in (device, device, host):
        decoder = model.pipeline.decoder
        cache = decoder.new_cache(100, slots=3)
        for slot in (0, 1, 2):
            decoder.forward(ids[: 20 - 7 * slot], ids[: 20 - 7 * slot], none, cache, slot)
        step = decoder.new_step(cache, 0, 3)
        if isinstance(step, DeviceStep) and not found:
            found.append(np.array([step.greedy([5, None, 7]) for _ in range(6)])[:, [0, 2]])
        else:
            logits = [step([5, None, 7])[[0, 2]].argmax(-1) for _ in range(6)]
            found.append(np.array(logits))
        assert isinstance(step, DeviceStep) is (model is device)
        assert isinstance(step, DecodeStep) is (model is host)
        assert [cache.length(slot) for slot in range(3)] == [26, 13, 12]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def test_logits_that_are_not_finite_are_an_error(device: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceStep, "greedy", lambda step, tokens: [-1] * len(tokens))
    with pytest.raises(GenerationError, match="not finite"):
        device.generate(QUESTION, max_new_tokens=3, prompt_lookup_num_tokens=0)


def test_the_mask_of_recordings_has_one_shape_for_all_lengths(
    device: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded has fixed shapes and places: positions behind a row's length are masked, not left out."""
    decoder, memory = device.pipeline.decoder, device.pipeline.decoder.sessions.memory
    assert memory is not None
    none = np.zeros((0, decoder.shape.hidden_size), np.float32)
    shapes: list[list[int]] = []
    results = []
    for captures in (False, True):
        sessions = dataclasses.replace(decoder.sessions, captures=captures)
        cache = decoder.new_cache(100)
        decoder.forward([11, 12, 13], [11, 12, 13], none, cache, 0)
        step = DeviceStep(sessions, memory, decoder.shape, cache, range(1))
        bind = step._with_tokens.bind_ortvalue_input
        monkeypatch.setattr(
            step._with_tokens,
            "bind_ortvalue_input",
            lambda name, value, bind=bind: (shapes.append(value.shape()), bind(name, value)),
        )
        results.append([step.greedy([token]) for token in (3, 4, 5)])
    assert results[0] == results[1]
    assert shapes == [[1, 4], [1, 5], [1, 6], *[[1, 128]] * 3]
