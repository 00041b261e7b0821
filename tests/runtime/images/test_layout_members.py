"""What each layout means, member by member. Oracle: the counts and texts written out, and transformers elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pumice.errors import BundleError, ImageError
from pumice.images.layout import (
    common_size,
    cut,
    described,
    feature_count,
    image_text,
    is_size,
    join,
    sizes_text,
    token_count,
)
from pumice.images.preprocess import preprocess
from pumice.manifest import Fixed, ImageLayout, Rows, decode_manifest, encode_manifest
from tests.runtime.images.test_layout import LONGEST, PATCH, pixtral_manifest
from tests.runtime.images.test_preprocess import noise
from tests.runtime.prompt.test_builder import PER_IMAGE, manifest

FIXED = Fixed(size=(28, 42), tokens=5)
ROWS = Rows(longest_edge=40, patch_size=8, break_token="|", end_token=".")
BOTH = [FIXED, ROWS]


def test_the_manifest_derives_it() -> None:
    assert manifest(3).layout == Fixed(size=(28, 28), tokens=PER_IMAGE)
    expected = Rows(longest_edge=LONGEST, patch_size=PATCH, break_token="[IMG_BREAK]", end_token="[IMG_END]")
    assert pixtral_manifest([3, 4, 5]).layout == expected


def test_it_follows_the_fields_and_is_not_written() -> None:
    made = manifest(3)
    before = encode_manifest(made)
    assert made.layout is made.layout
    assert encode_manifest(made) == before
    assert b"layout" not in before
    more = replace(made, image_tokens=replace(made.image_tokens, per_image=9))
    assert more.layout == Fixed(size=(28, 28), tokens=9)
    assert more != made


def test_fields_of_no_layout_have_none() -> None:
    made = manifest(3)
    with pytest.raises(BundleError, match=r"^manifest\.json does not say how many tokens an image has"):
        _ = replace(made, image=replace(made.image, size=None)).layout


@pytest.mark.parametrize(
    ("layout", "size", "features", "tokens", "text"),
    [
        (FIXED, (28, 42), 5, 5, "iiiii"),
        (ROWS, (16, 24), 6, 8, "iii|iii."),
        (ROWS, (8, 8), 1, 2, "i."),
        (ROWS, (24, 8), 3, 6, "i|i|i."),
    ],
)
def test_what_an_image_costs_and_how_it_is_written(
    layout: ImageLayout, size: tuple[int, int], features: int, tokens: int, text: str
) -> None:
    assert feature_count(layout, size) == features == text.count("i")
    assert token_count(layout, size) == tokens == len(text)
    assert image_text(layout, "i", size) == text


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), patch=st.integers(1, 16))
def test_no_image_has_more_tokens_than_the_largest(size: tuple[int, int], patch: int) -> None:
    layout = replace(ROWS, patch_size=patch)
    spec = replace(pixtral_manifest([3, 4, 5]).image, multiple_of=patch)
    try:
        pixels, _ = cut(layout, Image.new("RGB", size), spec)
    except ImageError:
        return
    shape = (pixels.shape[1], pixels.shape[2])
    assert is_size(layout, shape)
    assert token_count(layout, shape) <= layout.most_tokens
    largest, _ = cut(layout, Image.new("RGB", (90, 90)), spec)
    assert token_count(layout, (largest.shape[1], largest.shape[2])) == layout.most_tokens


def test_the_largest_image_of_one_size() -> None:
    assert FIXED.most_tokens == token_count(FIXED, FIXED.size) == 5


@pytest.mark.parametrize(
    ("layout", "size", "allowed"),
    [
        (FIXED, (28, 42), True),
        (FIXED, (42, 28), False),
        (FIXED, None, False),
        (ROWS, (8, 16), True),
        (ROWS, (8, 17), False),
        (ROWS, (0, 8), False),
        (ROWS, (True, 8), False),
        (ROWS, (8.0, 8), False),
        (ROWS, [8, 8], False),
        (ROWS, (8, 8, 8), False),
    ],
)
def test_sizes_that_images_may_have(layout: ImageLayout, size: Any, allowed: bool) -> None:
    assert is_size(layout, size) is allowed


def test_what_is_said_of_sizes() -> None:
    assert [sizes_text(layout) for layout in BOTH] == ["(28, 42)", "(height, width) in multiples of 8"]
    assert [described(layout) for layout in BOTH] == [
        "42 × 28 pixels, 5 tokens each",
        "up to 40 pixels a side, a token for 8 × 8 pixels and one for each row",
    ]


def test_what_the_encoder_and_the_prompt_ask() -> None:
    assert [layout.stackable for layout in BOTH] == [True, False]
    assert [common_size(layout) for layout in BOTH] == [(28, 42), None]


@pytest.mark.parametrize("made", [manifest(3), pixtral_manifest([3, 4, 5])])
def test_an_image_is_one_array_and_its_features_are_as_they_come(made: Any) -> None:
    image = noise("RGB", 30, 20)
    pixels, size = cut(made.layout, image, made.image)
    (expected,) = preprocess([image], made.image)
    assert np.array_equal(pixels, expected)
    assert size == expected.shape[1:]
    features = np.ones((5, 3), np.float32)
    assert join(made.layout, size, [features]) is features
    with pytest.raises(ValueError, match="unpack"):
        join(made.layout, size, [features, features])


def test_steps_that_make_another_size_than_the_manifest_says_are_refused() -> None:
    made = manifest(3)
    other = replace(made, image=replace(made.image, size=(28, 56)))
    told = "manifest.image turns an image into 28 × 28, but image.size says 28 × 56"
    with pytest.raises(BundleError, match=re.escape(told)):
        cut(other.layout, noise("RGB", 30, 20), other.image)


def test_a_decoded_manifest_has_it() -> None:
    from tests.runtime.manifest.test_file import as_json, read

    for made in (manifest(3), pixtral_manifest([3, 4, 5])):
        again = read(as_json(made))
        assert again.layout == made.layout
        assert decode_manifest(encode_manifest(again), "manifest.json") == again
