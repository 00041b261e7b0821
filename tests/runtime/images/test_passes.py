"""Oracle: Pillow's own passes, one at a time; and from version 13 on, which transformers is tested with, its resize."""

import hashlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pumice.errors import BundleError
from pumice.images import passes
from pumice.images.layout import cut
from pumice.images.passes import columns_first, resized_rgb, turned_size
from pumice.images.preprocess import preprocess
from pumice.manifest import Fixed, ImageProcessing
from tests.runtime.images.test_arrays import processing
from tests.runtime.images.test_preprocess import MODES, clip, noise

SIDE = st.integers(1, 150)
TURNS = [None, *Image.Transpose]


def whole(image: Image.Image, turn: passes.Turn) -> Image.Image:
    return passes.to_rgb(image if turn is None else image.transpose(turn))


@settings(max_examples=300, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    size=st.tuples(SIDE, SIDE),
    resized=st.tuples(SIDE, SIDE),
    turn=st.sampled_from(TURNS),
    resample=st.integers(0, 5),
    band=st.sampled_from([1, 100, 1000, 1_000_000]),
    seed=st.integers(0, 9),
)
def test_bands_make_what_the_whole_image_makes(
    mode: str,
    size: tuple[int, int],
    resized: tuple[int, int],
    turn: passes.Turn,
    resample: int,
    band: int,
    seed: int,
) -> None:
    image = noise(mode, *size, seed)
    right = whole(image, turn)
    assert right.size == turned_size(size, turn)
    between = (right.width, resized[1]) if columns_first(right.size, resized) else (resized[0], right.height)
    right = right.resize(between, resample).resize(resized, resample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "BAND", band)
        found = resized_rgb(image, turn, resized, resample)
    assert np.array_equal(np.asarray(found), np.asarray(right))


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="older ones resize along rows first always"
)
@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(SIDE, SIDE),
    resized=st.tuples(SIDE, SIDE),
    resample=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_the_order_is_that_of_pillow_13(
    size: tuple[int, int], resized: tuple[int, int], resample: int, seed: int
) -> None:
    image = noise("RGB", *size, seed)
    found = resized_rgb(image, None, resized, resample)
    assert np.array_equal(np.asarray(found), np.asarray(image.resize(resized, resample)))


@pytest.mark.parametrize(
    ("size", "resized", "first"),
    [
        ((217, 403), (112, 112), True),
        ((303, 403), (112, 112), False),
        ((100, 300), (90, 279), True),
        ((100, 300), (90, 280), False),
        ((50, 300), (90, 299), True),
        ((50, 300), (40, 300), False),
        ((50, 300), (90, 301), False),
        ((300, 100), (299, 97), True),
    ],
)
def test_columns_come_first_where_the_height_shrinks_by_more_than_twice_as_many(
    size: tuple[int, int], resized: tuple[int, int], first: bool
) -> None:
    assert columns_first(size, resized) is first


def test_the_pixels_are_these_with_every_pillow() -> None:
    """217 × 403 to 112² differed between Pillow 12 and 13; `make test-oldest` runs this with the oldest one."""
    digest = hashlib.sha256()
    random = np.random.default_rng(11)
    sizes = [(217, 403), (403, 217), (640, 480), (480, 640), (30, 300), (112, 500)]
    for width, height in [*sizes, *random.integers(50, 400, (60, 2)).tolist()]:
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for spec in (clip(112, (112, 112)), *map(processing, ("siglip", "pixtral"))):
            digest.update(next(preprocess([image], spec)).tobytes())
    assert digest.hexdigest()[:16] == "049e8b3e05128f4c"


@pytest.mark.parametrize("steps", [{"crop_to": (100_000, 100_000)}, {"resize_to": (100_000, 100_000)}])
def test_a_size_that_no_memory_holds_is_refused(steps: dict[str, tuple[int, int]]) -> None:
    shape = {"resize_shortest_edge": None, "resize_to": None, "crop_to": None, "size": None, **steps}
    spec = ImageProcessing(convert_rgb=True, resample=3, rescale_factor=None, mean=None, std=None, **shape)
    for image in (Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(BundleError, match="makes images of 100,000 × 100,000: at most 50,000,000"):
            next(preprocess([image], spec))


def test_a_manifest_of_two_sizes_is_refused_before_an_image_is_opened() -> None:
    layout = Fixed(size=(56, 56), tokens=4)
    for spec in (clip(56, (100_000, 100_000)), clip(56, (56, 57))):
        with pytest.raises(
            BundleError, match=r"manifest.image turns an image into .* but image.size says 56 × 56"
        ):
            cut(layout, "missing.png", spec)
    with pytest.raises(BundleError, match="makes images of 100,000 × 100,000"):
        cut(Fixed(size=(100_000, 100_000), tokens=4), Image.new("RGB", (8, 8)), clip(56, (100_000, 100_000)))
