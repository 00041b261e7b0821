"""Oracle: transformers' PIL image processors of every family. Tolerance: none, equal to the last bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pumice.errors import ImageError
from pumice.images.preprocess import padded_together, preprocess
from pumice.manifest import ImageProcessing
from tests.runtime.images.test_preprocess import MODES, noise

SIDES = st.one_of(st.integers(1, 90), st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 224, 500, 1500]))
IMAGES = st.builds(noise, st.sampled_from(MODES), SIDES, SIDES, st.integers(0, 9))
FILTERS = st.sampled_from([0, 1, 2, 3, 4, 5])
CHANNELS = st.tuples(*[st.floats(0.05, 1.0).map(lambda value: round(value, 3))] * 3)
VALUES = st.fixed_dictionaries(
    {
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, None]),
        "mean": CHANNELS,
        "std": CHANNELS,
        "resample": FILTERS,
        "normalise": st.booleans(),
    }
)


def spec(values: dict[str, Any], **shape: Any) -> ImageProcessing:
    steps = {"resize_shortest_edge": None, "resize_to": None, "crop_to": None, "size": None, **shape}
    return ImageProcessing(
        convert_rgb=True,
        resample=values["resample"],
        rescale_factor=values["rescale_factor"],
        mean=values["mean"] if values["normalise"] else None,
        std=values["std"] if values["normalise"] else None,
        **steps,
    )


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """The same values as transformers' processors are told them."""
    return {
        "resample": values["resample"],
        "do_rescale": values["rescale_factor"] is not None,
        "rescale_factor": values["rescale_factor"] or 1 / 255,
        "do_normalize": values["normalise"],
        "image_mean": list(values["mean"]),
        "image_std": list(values["std"]),
    }


@pytest.mark.export_extra
@settings(max_examples=100, deadline=None)
@given(images=st.lists(IMAGES, min_size=1, max_size=3), values=VALUES, side=st.integers(1, 70))
def test_siglip_scales_to_a_square_whatever_the_aspect(
    images: list[Image.Image], values: dict[str, Any], side: int
) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": side, "width": side}, **settings_of(values))
    ours = spec(values, resize_to=(side, side), size=(side, side))
    found = padded_together(list(preprocess(images, ours)), ours.size)
    assert np.array_equal(found, np.stack(processor(images)["pixel_values"]).astype(np.float32))


def too_long(images: list[Image.Image], longest: int) -> list[tuple[int, int]]:
    return [image.size for image in images if max(image.size) > longest]


@pytest.mark.export_extra
@settings(max_examples=100, deadline=None)
@given(
    images=st.lists(IMAGES, min_size=1, max_size=4),
    values=VALUES,
    longest=st.integers(1, 120),
    patch=st.integers(1, 20),
)
def test_pixtral_keeps_the_aspect_and_pads(
    images: list[Image.Image], values: dict[str, Any], longest: int, patch: int
) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    processor = PixtralImageProcessorPil(
        size={"longest_edge": longest}, patch_size={"height": patch, "width": patch}, **settings_of(values)
    )
    ours = spec(values, resize_longest_edge=longest, multiple_of=patch)
    if any(
        width * longest < height or height * longest < width for width, height in too_long(images, longest)
    ):
        with pytest.raises(ValueError, match=r"(height|width)=0"):
            processor(images)
        with pytest.raises(ImageError, match="too thin"):
            list(preprocess(images, ours))
        return
    expected = processor(images)
    found = list(preprocess(images, ours))
    assert [image.shape[1:] for image in found] == [tuple(size) for size in expected["image_sizes"]]
    assert np.array_equal(padded_together(found), np.stack(expected["pixel_values"]).astype(np.float32))


@pytest.mark.export_extra
@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70_000),
    height=st.integers(1, 70_000),
    longest=st.integers(1, 2_000),
    patch=st.integers(1, 40),
)
def test_pixtral_sizes_are_transformers(width: int, height: int, longest: int, patch: int) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

    from pumice.images.preprocess import _within

    image = np.broadcast_to(np.uint8(0), (3, height, width))
    expected = get_resize_output_image_size(image, longest, patch, "channels_first")
    if 0 in expected:
        with pytest.raises(ImageError, match="too thin"):
            _within((width, height), longest, patch)
    else:
        assert _within((width, height), longest, patch) == expected[::-1]


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1), (65_535, 700)])
def test_long_images_are_squeezed_into_a_square(size: tuple[int, int]) -> None:
    values = {"rescale_factor": None, "mean": None, "std": None, "resample": 3, "normalise": False}
    ours = spec(values, resize_to=(384, 384), size=(384, 384))
    red = next(preprocess([Image.new("RGB", size, (200, 0, 0))], ours))
    assert (red[0] == 200).all()
    assert not red[1:].any()


def test_no_images_that_vary_are_an_empty_array() -> None:
    assert padded_together([]).shape == (0, 3, 0, 0)
