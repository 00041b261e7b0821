"""Images are encoded once, and never taken for others. Oracle: the encoder itself."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.bundle.footprint import ENCODED_AT_ONCE
from pumice.errors import GenerationError, PromptError, UsageError
from pumice.images.prepared import ImageFeatures, PreparedImage, PromptImage, image_digest, model_key
from pumice.manifest import Manifest
from pumice.model import Model
from pumice.sessions.later import Later
from pumice.sessions.opening import Opened
from pumice.sessions.runs import Cancellation, RunCancelledError
from pumice.vision.cache import FeatureCache
from pumice.vision.encoder import ImageEncoder
from pumice.vision.features import PromptFeatures
from pumice.vision.folder import FeatureFolder
from tests.runtime.test_generation import image


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


class Counted:
    """A vision encoder that says which images it was given; `before` may delay or end a run."""

    def __init__(self, model: Model, before: Callable[[], None] = lambda: None) -> None:
        self.session, self.before = model.pipeline.decoder.sessions.vision_encoder, before
        self.batches: list[int] = []

    def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
        self.batches.append(len(feeds["pixel_values"]))
        self.before()
        return self.session.run(outputs, feeds, options)


def standing_in(session: Any) -> Later[Opened]:
    """A session in place of the encoder's own."""
    return Later.of(Opened(session=session))


def encoder(model: Model, counted: Counted, size: int = 2**24) -> ImageEncoder:
    return ImageEncoder(standing_in(counted), model.manifest, FeatureCache(size))


def images(model: Model, *seeds: int) -> list[PromptImage]:
    return list(model.pipeline.builder.images([image(seed) for seed in seeds]))


def test_distinct_images_are_encoded_once_and_in_batches(model: Model) -> None:
    counted = Counted(model)
    found = encoder(model, counted).encode(images(model, 1, 2, 1, 3, 4, 5, 2), Cancellation())
    assert sum(counted.batches) == 5
    assert max(counted.batches) <= ENCODED_AT_ONCE
    assert found[0].features is found[2].features
    for seed, features in zip((1, 2, 1, 3), found, strict=False):
        alone = encoder(model, Counted(model)).encode(images(model, seed), Cancellation())[0]
        assert np.abs(alone.features - features.features).max() < 1e-5
        assert alone.digest == features.digest


def test_what_was_encoded_is_not_encoded_again(model: Model) -> None:
    counted = Counted(model)
    reader = encoder(model, counted)
    first = reader.encode(images(model, 1), Cancellation())
    reader.encode([*images(model, 1), *first], Cancellation())
    assert counted.batches == [1]
    forgetful = encoder(model, counted, size=0)
    forgetful.encode(first, Cancellation())
    assert counted.batches == [1]
    forgetful.encode(images(model, 1), Cancellation())
    assert counted.batches == [1, 1]


class Awaited(Future[Any]):
    """A claim on an image that says how many threads have come to wait for it."""

    waiting = threading.Semaphore(0)

    def result(self, timeout: float | None = None) -> Any:
        if not hasattr(SEEN, "waits"):
            SEEN.waits = True
            self.waiting.release()
        return super().result(timeout)


SEEN = threading.local()
PATIENCE = 300.0
"""Seconds after which a test gives up."""


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released once for each thread that waits for another's image."""
    monkeypatch.setattr(Awaited, "waiting", threading.Semaphore(0))
    monkeypatch.setattr("pumice.vision.encoder.Future", Awaited)
    return Awaited.waiting


def test_threads_that_ask_for_the_same_image_share_one_run(
    model: Model, waiting: threading.Semaphore
) -> None:
    def before() -> None:
        if counted.batches == [2]:  # the first run lasts until all others wait for it
            assert all(waiting.acquire(timeout=PATIENCE) for _ in range(5))

    counted = Counted(model, before)
    reader = encoder(model, counted, size=0)  # what is shared does not depend on the cache
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: reader.encode(images(model, 1, 2), Cancellation()), range(6)))
    assert sum(counted.batches) < 12  # who misses the second image's end encodes it again
    assert len({features[0].digest for features in found}) == 1
    assert reader._under_way == {}


def test_what_another_encodes_between_a_look_and_a_claim_is_not_encoded_again(model: Model) -> None:
    class Quicker(FeatureCache):
        """A cache in which another thread has encoded an image as soon as one has looked for it in vain."""

        looked = False

        def get(self, digest: bytes) -> Any:
            found = super().get(digest)
            if not self.looked:
                self.looked = True
                reader.encode(images(model, 1), Cancellation())
            return found

    counted = Counted(model)
    reader = ImageEncoder(standing_in(counted), model.manifest, Quicker(2**24))
    (found,) = reader.encode(images(model, 1), Cancellation())
    assert counted.batches == [1]
    assert np.isfinite(found.features).all()


@pytest.mark.parametrize("failure", ["cancelled", "failed"])
def test_one_that_fails_takes_nobody_with_it(
    model: Model, waiting: threading.Semaphore, failure: str
) -> None:
    entered, others = threading.Event(), threading.Event()
    first = Cancellation()

    def before() -> None:
        if not entered.is_set():
            entered.set()
            others.wait(PATIENCE)
            first.set()
            raise RuntimeError("terminated" if failure == "cancelled" else "broken")

    reader = encoder(model, Counted(model, before))
    with ThreadPoolExecutor(2) as pool:
        asked = images(model, 1)
        loser = pool.submit(reader.encode, asked, first if failure == "cancelled" else Cancellation())
        assert entered.wait(PATIENCE)
        winner = pool.submit(reader.encode, asked, Cancellation())
        assert waiting.acquire(timeout=PATIENCE)
        others.set()
        with pytest.raises(RunCancelledError if failure == "cancelled" else GenerationError):
            loser.result(PATIENCE)
        assert np.isfinite(winner.result(PATIENCE)[0].features).all()


@pytest.mark.parametrize("place", ["claiming", "claimed"])
def test_ctrl_c_at_any_place_leaves_nothing_claimed(
    model: Model, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What stayed claimed would be waited for without an end."""
    counted, made = Counted(model), 0
    reader = encoder(model, counted)

    def interrupted(*_: object) -> Any:
        nonlocal made
        made += 1
        if made == 2:
            raise KeyboardInterrupt
        return Future() if place == "claiming" else ImageEncoder._missing(reader, *_)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        if place == "claiming":
            patch.setattr("pumice.vision.encoder.Future", interrupted)
        else:
            patch.setattr(reader, "_missing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.encode(images(model, 1, 2), Cancellation())
    assert reader._under_way == {}
    assert len(reader.encode(images(model, 1, 2), Cancellation())) == 2


def test_images_are_batched_in_their_order(model: Model) -> None:
    """Batches round in their own ways: which images share one is not left to chance."""
    seen: list[bytes] = []

    class Noted(Counted):
        def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
            seen.extend(pixels.tobytes() for pixels in feeds["pixel_values"])
            return super().run(outputs, feeds, options)

    asked = images(model, 6, 5, 4, 3, 2, 1)
    encoder(model, Noted(model)).encode(asked, Cancellation())
    assert seen == [image.values.tobytes() for image in asked]  # type: ignore[union-attr]


def test_features_of_another_width_in_the_folder_are_ignored(model: Model, tmp_path: Path) -> None:
    asked = images(model, 1)
    tokens, width = asked[0].tokens, model.manifest.decoder.hidden_size
    (expected,) = encoder(model, Counted(model)).encode(asked, Cancellation())
    for shape in ((tokens, width + 1), (tokens - 1, width), (1, 1)):
        FeatureFolder(tmp_path, 2**20).put(asked[0].digest, np.ones(shape, np.float32))
        counted = Counted(model)
        cache = FeatureCache(2**24, FeatureFolder(tmp_path, 2**20))
        reader = ImageEncoder(standing_in(counted), model.manifest, cache)
        for _ in range(2):
            (found,) = reader.encode(asked, Cancellation())
            assert np.array_equal(found.features, expected.features)
        assert counted.batches == [1]


def prepared(values: Any, manifest: Manifest, tokens: int) -> PreparedImage:
    size = values.shape[1:]
    return PreparedImage(
        values=values, size=size, digest=image_digest(values, size, model_key(manifest)), tokens=tokens
    )


def test_one_folder_for_two_models_mixes_nothing_up(model: Model, tmp_path: Path) -> None:
    other = replace(model.manifest, image=replace(model.manifest.image, mean=(0.1, 0.2, 0.3)))
    values = images(model, 1)[0].values  # type: ignore[union-attr]
    counted = Counted(model)
    for manifest in (model.manifest, other, model.manifest):
        cache = FeatureCache(2**24, FeatureFolder(tmp_path, 2**24))
        tokens = manifest.image_tokens.per_image or 0
        asked = prepared(values, manifest, tokens)
        ImageEncoder(standing_in(counted), manifest, cache).encode([asked], Cancellation())
    assert counted.batches == [1, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_images_of_equal_bytes_and_other_shapes_have_features_of_their_own(model: Model) -> None:
    class Rows:
        """Features that say how high the image is."""

        def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
            count, _, height, width = feeds["pixel_values"].shape
            features = np.full((count * height * width // 100, model.manifest.decoder.hidden_size), height)
            return [features.astype(np.float32)]

    image = replace(model.manifest.image, size=None, resize_longest_edge=100, multiple_of=10)
    tokens = replace(
        model.manifest.image_tokens, per_image=None, patch_size=10, break_token="|", end_token="."
    )
    manifest = replace(model.manifest, image=image, image_tokens=tokens)
    values = np.zeros((3, 30, 100), np.float32)
    asked = [prepared(v, manifest, tokens=30) for v in (values, values.reshape(3, 100, 30), values)]
    reader = ImageEncoder(standing_in(Rows()), manifest, FeatureCache(2**24))
    for _ in range(2):
        found = reader.encode(asked, Cancellation())
        assert [features.features[0, 0] for features in found] == [30, 100, 30]


def test_a_waiting_thread_can_be_cancelled(model: Model) -> None:
    entered, leave = threading.Event(), threading.Event()

    def before() -> None:
        entered.set()
        leave.wait(PATIENCE)

    reader, second = encoder(model, Counted(model, before)), Cancellation()
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(reader.encode, images(model, 1), Cancellation())
        assert entered.wait(PATIENCE)
        waiting = pool.submit(reader.encode, images(model, 1), second)
        second.set()
        with pytest.raises(RunCancelledError):
            waiting.result(PATIENCE)
        leave.set()
        working.result(PATIENCE)


def test_features_that_are_not_finite_are_an_error_and_not_kept(model: Model) -> None:
    class Spoiled(Counted):
        def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
            (found,) = super().run(outputs, feeds, options)
            return [np.full_like(found, np.nan)]

    reader = encoder(model, Spoiled(model))
    for _ in range(2):
        with pytest.raises(GenerationError, match="not finite"):
            reader.encode(images(model, 1), Cancellation())


@pytest.mark.parametrize(("seen", "spoiled"), [(0, 0), (0, 2), (1, 2), (1, 1)])
def test_the_image_whose_features_are_not_finite_is_named(model: Model, seen: int, spoiled: int) -> None:
    asked = images(model, 5, 6, 7, 7)  # of equal ones the first is named
    bad = asked[spoiled].values  # type: ignore[union-attr]

    class Spoiled(Counted):
        def run(self, outputs: Any, feeds: Any, options: Any) -> Any:
            (found,) = super().run(outputs, feeds, options)
            found = found.reshape(len(feeds["pixel_values"]), -1, found.shape[-1]).copy()
            for pixels, features in zip(feeds["pixel_values"], found, strict=True):
                features[0, 0] = np.inf if np.array_equal(pixels, bad) else features[0, 0]
            return [found.reshape(-1, found.shape[-1])]

    features = PromptFeatures(asked, encoder(model, Spoiled(model)))
    with pytest.raises(GenerationError, match=rf"^image {spoiled}'s features are not finite"):
        features.rows(seen * asked[0].tokens, Cancellation())


def test_models_differ_by_their_encoder_and_by_how_images_are_prepared(model: Model) -> None:
    manifest = model.manifest
    graph = manifest.graphs.vision_encoder.file
    changed = replace(manifest.files[graph], sha256="0" * 64)
    others = [
        replace(manifest, files={**manifest.files, graph: changed}),
        replace(manifest, image=replace(manifest.image, mean=(0.5, 0.4, 0.3))),
    ]
    assert len({model_key(other) for other in [manifest, *others]}) == 3
    words = replace(manifest, decoder=replace(manifest.decoder, context_length=7))
    assert model_key(words) == model_key(manifest)


def test_equal_bytes_of_other_shapes_and_models_are_other_images() -> None:
    values = np.zeros((3, 30, 100), np.float32)
    digests = {
        image_digest(values, (30, 100), b"a" * 32),
        image_digest(values, (60, 200), b"a" * 32),  # as of tiles
        image_digest(values.reshape(3, 100, 30), (100, 30), b"a" * 32),
        image_digest(values, (30, 100), b"b" * 32),
        image_digest(values + np.float32(1e-7), (30, 100), b"a" * 32),
        image_digest(values, (30, 100), b"a" * 32, frames=1),
        image_digest(values, (30, 100), b"a" * 32, frames=3),
    }
    assert len(digests) == 7


@pytest.mark.parametrize("seen", range(0, 90, 7))
def test_only_images_with_rows_left_are_encoded(model: Model, seen: int) -> None:
    per_image = model.manifest.image_tokens.per_image or 0
    counted = Counted(model)
    whole = np.concatenate(
        [f.features for f in encoder(model, counted).encode(images(model, 1, 2), Cancellation())]
    )
    counted.batches.clear()
    features = PromptFeatures(images(model, 1, 2), encoder(model, counted))
    rows = features.rows(min(seen, len(whole)), Cancellation())
    assert np.abs(rows - whole[seen:]).max(initial=0) < 1e-5
    assert sum(counted.batches) == 2 - min(seen, len(whole)) // per_image


def test_features_stand_in_for_their_image(model: Model) -> None:
    plain = pumice.load(model.path, device="cpu", threads=1, prefix_cache_bytes=0, feature_cache_bytes=0)
    features = plain.encode_image(image(3))
    again = pickle.loads(pickle.dumps(features))
    question = "What is in this picture?"
    expected = plain.generate(question, [image(3)], max_new_tokens=12)
    for given in (features, again):
        answer = plain.generate(question, [given], max_new_tokens=12)
        assert answer.token_ids == expected.token_ids
        assert answer.timings.vision < expected.timings.vision / 2
        with pytest.raises(ValueError, match="read-only"):
            given.features[0, 0] = 1
    with pytest.raises(PromptError, match=r"0 <image> placeholders, but 1 image was given"):
        plain.generate("nothing", [features], raw=True)


def test_features_that_do_not_fit_are_refused(model: Model) -> None:
    features = model.encode_image(image(3))
    wrong: list[ImageFeatures] = [
        replace(features, model=bytes(32)),
        replace(features, features=features.features[:-1]),
        replace(features, features=features.features[:, :-1]),
        replace(features, features=features.features.astype(np.float64)),
        replace(features, features=features.features * np.float32(np.nan)),
    ]
    for given in wrong:
        with pytest.raises(UsageError, match="image features"):
            model.generate("What?", [given])


def test_asking_again_about_an_image_skips_the_encoder_and_its_tokens(pebble_bundle: Path) -> None:
    model = pumice.load(pebble_bundle, device="cpu", threads=1)
    counted = Counted(model)
    model.pipeline.encoder._vision = standing_in(counted)
    first = model.generate("What is in this picture?", [image(8)], max_new_tokens=4)
    again = model.generate("How many shapes are there?", [image(8)], max_new_tokens=4)
    assert counted.batches == [1]
    assert first.usage.cached_tokens < 32 <= again.usage.cached_tokens
    model.generate(["What?", "Where?", "Who?"], [[image(8)], [image(9)], [image(9)]], max_new_tokens=2)
    assert counted.batches == [1, 1]


def test_a_prompt_that_was_read_before_needs_no_image(pebble_bundle: Path) -> None:
    """Without a cache of features, so that only the prefix can spare the encoder."""
    model = pumice.load(pebble_bundle, device="cpu", threads=1, feature_cache_bytes=0)
    counted = Counted(model)
    model.pipeline.encoder._vision = standing_in(counted)
    question = "What is in this picture? " * 12
    first = model.generate(question, [image(8)], max_new_tokens=4)
    again = model.generate(question, [image(8)], max_new_tokens=4)
    assert counted.batches == [1]
    assert again.token_ids == first.token_ids
    model.generate(question, [image(9)], max_new_tokens=4)
    assert counted.batches == [1, 1]


def test_distinct_images_of_a_list_of_prompts_are_encoded_once(pebble_bundle: Path) -> None:
    model = pumice.load(pebble_bundle, device="cpu", threads=1, feature_cache_bytes=0, prefix_cache_bytes=0)
    counted = Counted(model)
    model.pipeline.encoder._vision = standing_in(counted)
    images = [[image(1), image(2)], [image(2)], [], [image(3), image(1), image(4)], [image(5)]]
    model.generate(["What?"] * len(images), images, max_new_tokens=2)
    assert counted.batches == [2, 2, 1]
