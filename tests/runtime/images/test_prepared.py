"""Images that are given again are what their digests say. Oracle: images as they were made."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pumice.errors import UsageError
from pumice.images.prepared import ImageFeatures, PreparedImage, image_digest, model_key, revalidated
from pumice.manifest import Manifest
from tests.runtime.prompt.test_builder import PER_IMAGE, manifest

FIXED = manifest(3)
VARIED = replace(
    FIXED,
    image=replace(FIXED.image, size=None, resize_longest_edge=56, multiple_of=14),
    image_tokens=replace(FIXED.image_tokens, per_image=None, patch_size=14, break_token="|", end_token="."),
)


def features(model: Manifest = FIXED, tokens: int = PER_IMAGE) -> ImageFeatures:
    values = np.ones((tokens, model.decoder.hidden_size), np.float32)
    return ImageFeatures(features=values, size=(28, 28), digest=b"d" * 32, model=model_key(model))


def pixels(
    model: Manifest = FIXED, size: tuple[int, int] = (28, 28), tokens: int = PER_IMAGE
) -> PreparedImage:
    values = np.random.default_rng(1).standard_normal((3, *size)).astype(np.float32)
    return PreparedImage(
        values=values, size=size, digest=image_digest(values, size, model_key(model)), tokens=tokens
    )


@pytest.mark.parametrize("model", [FIXED, VARIED])
@pytest.mark.parametrize("make", [features, pixels])
def test_what_was_made_is_taken_and_cannot_be_changed_afterwards(model: Manifest, make: Any) -> None:
    given = make(model)
    found = revalidated(given, model, model_key(model))
    name = "features" if isinstance(found, ImageFeatures) else "values"
    theirs, ours = getattr(given, name), getattr(found, name)
    assert np.array_equal(theirs, ours)
    assert not ours.flags.writeable
    kept = ours.copy()
    theirs[:] = 7
    assert np.array_equal(ours, kept)
    assert getattr(revalidated(found, model, model_key(model)), name) is ours  # copied once


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": bytes(32)}, "of another model"),
        ({"digest": 5}, "the digest 5, expected 32 bytes"),
        ({"digest": "d" * 32}, "expected 32 bytes"),
        ({"digest": b"d" * 31}, "expected 32 bytes"),
        ({"size": (28, 29)}, "the size (28, 29)"),
        ({"size": None}, "the size None"),
        ({"size": ("a",)}, "the size ('a',)"),
        ({"features": [[1.0]] * PER_IMAGE}, "are list, expected float32 [4, 1]"),
        ({"features": np.ones((PER_IMAGE, 1))}, "are float64 [4, 1], expected float32 [4, 1]"),
        ({"features": np.ones((PER_IMAGE + 1, 1), np.float32)}, "are float32 [5, 1]"),
        ({"features": np.ones((PER_IMAGE, 2), np.float32)}, "are float32 [4, 2]"),
        ({"features": np.ones(PER_IMAGE, np.float32)}, "are float32 [4]"),
        ({"features": np.full((PER_IMAGE, 1), np.nan, np.float32)}, "not finite"),
    ],
)
@pytest.mark.parametrize("model", [FIXED, VARIED])
def test_features_of_another_form_are_refused(model: Manifest, change: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        revalidated(replace(features(model), **change), model, model_key(model))


@pytest.mark.parametrize("size", [(0, 28), (-28, -28), (28.0, 28), (True, 28), (28, 28, 28), [28, 28], 28])
def test_sizes_that_no_image_has_are_refused(size: Any) -> None:
    with pytest.raises(UsageError, match=r"expected \(height, width\) in multiples of 14"):
        revalidated(replace(features(VARIED), size=size), VARIED, model_key(VARIED))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": PER_IMAGE + 1},
        {"digest": 5},
        {"digest": bytes(32)},
        {"values": None},
        {"values": np.zeros((3, 28, 28), np.float32)},
        {"values": np.zeros((3, 28, 28))},
        {"values": np.zeros((28, 28), np.float32)},
        {"values": np.zeros((1, 28, 28), np.float32)},
        {"values": np.zeros((3, 14, 56), np.float32)},
        {"values": np.zeros((3, 0, 0), np.float32)},
    ],
)
@pytest.mark.parametrize("model", [FIXED, VARIED])
def test_prepared_images_that_were_changed_are_refused(model: Manifest, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="prepared image"):
        revalidated(replace(pixels(model), **change), model, model_key(model))


def test_images_prepared_for_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="prepared for another model"):
        revalidated(pixels(), FIXED, b"m" * 32)
    turned = pixels(VARIED, (14, 56))  # equal bytes, as many tokens
    with pytest.raises(UsageError, match="was changed"):
        revalidated(replace(turned, values=turned.values.reshape(3, 56, 14)), VARIED, model_key(VARIED))
