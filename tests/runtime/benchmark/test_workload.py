from pathlib import Path

import numpy as np
import pytest

import pumice
from pumice.benchmark.workload import QUESTION, Parts, Workload, synthetic_image
from pumice.errors import UsageError
from pumice.model import Model


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1, feature_cache_bytes=0)


@pytest.fixture
def parts(model: Model) -> Parts:
    pipeline = model.pipeline
    return Parts(manifest=model.manifest, decoder=pipeline.decoder, encoder=pipeline.encoder)


def test_a_short_context_shortens_what_is_measured() -> None:
    asked = Workload(prompt=512, contexts=(100, 2000, 4000), new=32, repeats=2)
    assert asked.fitted(10_000) == asked
    assert asked.fitted(256) == Workload(prompt=255, contexts=(100, 224), new=32, repeats=2)
    assert asked.fitted(16) == Workload(prompt=15, contexts=(8,), new=8, repeats=2)


@pytest.mark.parametrize(
    "wrong", [{"prompt": 0}, {"repeats": 0}, {"new": 1}, {"contexts": (100, 0)}, {"contexts": (-1,)}]
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Workload(**wrong)  # type: ignore[arg-type]


def test_decoding_begins_behind_the_context(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    step = type(parts.decoder).new_step

    def watched(self: object, cache: object, first: int, count: int) -> object:
        lengths.append(cache.length(0))  # type: ignore[attr-defined]
        return step(self, cache, first, count)  # type: ignore[arg-type]

    monkeypatch.setattr(type(parts.decoder), "new_step", watched)
    assert len(parts.decode(100, 7)) == 7
    assert lengths == [100]
    assert all(seconds > 0 for seconds in parts.decode(1, 2))


def test_a_prompt_is_read_whole(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = type(parts.decoder).prefill

    def watched(self: object, ids: list[int], *rest: object, ends: bool) -> object:
        read.extend(ids)
        return original(self, ids, *rest, ends=ends)  # type: ignore[arg-type]

    monkeypatch.setattr(type(parts.decoder), "prefill", watched)
    assert parts.prefill(200) > 0
    assert len(read) == 200
    assert parts.manifest.image_tokens.token_id not in read
    assert max(read) < parts.manifest.decoder.vocab_size


def test_the_image_and_the_question_are_the_same_everywhere() -> None:
    image = synthetic_image()
    assert image.size == (640, 480)
    assert np.array_equal(np.asarray(image), np.asarray(synthetic_image()))
    assert len(QUESTION.split()) == 26
