"""Oracle: transformers' PIL image processors. Tolerance: none, pixel values are equal to the last bit."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.errors import ImageError
from pumice.images.files import image_list, open_image
from pumice.images.preprocess import padded_together, preprocess
from pumice.manifest import ImageProcessing
from tests.runtime.conftest import CLIP_MEAN, CLIP_STD

SHAPES = ("HW3", "3HW", "HW1", "1HW", "HW4", "4HW")
KINDS = ("uint8", "int8", "int32", "int64", "uint16", "float16", "float32", "float64", "bool")
RANGES = ("0 to 255", "0 to 1", "0 or 1")


def array(shape: str, kind: str, values: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    axes = [{"H": height, "W": width}.get(letter) or int(letter) for letter in shape]
    random = np.random.default_rng(seed)
    if values == "0 to 1":
        return random.random(axes).astype(kind)
    most = 2 if values == "0 or 1" else 128 if kind == "int8" else 256
    return random.integers(0, most, axes).astype(kind)


def processing(
    family: str, steps: frozenset[str] = frozenset({"resize", "rescale", "normalise"})
) -> ImageProcessing:
    resize = "resize" in steps
    shape: dict[str, Any] = {"resize_shortest_edge": None, "resize_to": None, "crop_to": None, "size": None}
    match family:
        case "clip":
            shape |= {"resize_shortest_edge": 30 if resize else None, "crop_to": (30, 26), "size": (30, 26)}
        case "siglip":
            shape |= {"resize_to": (28, 31) if resize else None}
        case "pixtral":
            shape |= {"resize_longest_edge": 40, "multiple_of": 8} if resize else {}
    return ImageProcessing(
        convert_rgb=True,
        resample=3,
        rescale_factor=1 / 255 if "rescale" in steps else None,
        mean=CLIP_MEAN if "normalise" in steps else None,
        std=CLIP_STD if "normalise" in steps else None,
        **shape,
    )


def expected(images: Any, family: str, spec: ImageProcessing) -> list[np.ndarray]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    resized = spec.resize_shortest_edge or spec.resize_to or spec.resize_longest_edge
    told: dict[str, Any] = {
        "do_resize": resized is not None,
        "do_rescale": spec.rescale_factor is not None,
        "do_normalize": spec.mean is not None,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "resample": 3,
    }
    match family:
        case "clip":
            processor: Any = CLIPImageProcessorPil(
                size={"shortest_edge": 30}, crop_size={"height": 30, "width": 26}, **told
            )
        case "siglip":
            processor = SiglipImageProcessorPil(size={"height": 28, "width": 31}, **told)
        case _:
            processor = PixtralImageProcessorPil(
                size={"longest_edge": 40}, patch_size={"height": 8, "width": 8}, do_pad=False, **told
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of casts that it tries
        return [np.asarray(image).astype(np.float32) for image in processor(images)["pixel_values"]]


def check(images: Any, family: str, spec: ImageProcessing) -> None:
    """Both take them and give the same, or both refuse them."""
    try:
        right = expected(images, family, spec)
    except ValueError:
        with pytest.raises(ImageError):
            list(preprocess(image_list(images), spec))
        return
    found = list(preprocess(image_list(images), spec))
    assert len(found) == len(right)
    for ours, theirs in zip(found, right, strict=True):
        assert ours.dtype == np.float32
        assert np.array_equal(ours, theirs)


@pytest.mark.export_extra
@pytest.mark.parametrize("family", ["clip", "siglip", "pixtral"])
@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout_type_and_range(shape: str, kind: str, values: str, family: str) -> None:
    check(array(shape, kind, values, 37, 45), family, processing(family))


@pytest.mark.export_extra
@settings(max_examples=250, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(KINDS),
    values=st.sampled_from(RANGES),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    seed=st.integers(0, 99),
    family=st.sampled_from(["clip", "siglip", "pixtral"]),
    steps=st.frozensets(st.sampled_from(["resize", "rescale", "normalise"])),
    edit=st.sampled_from([None, None, None, -1, 256, 0.5, 254.9999, 1.0001]),
)
def test_any_array_and_any_steps(
    shape: str,
    kind: str,
    values: str,
    height: int,
    width: int,
    seed: int,
    family: str,
    steps: frozenset[str],
    edit: float | None,
) -> None:
    image = array(shape, kind, values, height, width, seed)
    if edit is not None and (kind.startswith("float") or (kind == "int64" and edit in (-1, 256))):
        image.flat[0] = edit
    check(image, family, processing(family, steps))


@pytest.mark.export_extra
@pytest.mark.parametrize(
    "shape", [(3, 20, 3), (3, 20, 4), (4, 4, 3), (1, 20, 3), (4, 20, 1), (1, 1, 1), (3, 3, 3)]
)
def test_where_both_axes_could_be_the_channels_the_first_is(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    check(image, "siglip", processing("siglip"))


@pytest.mark.export_extra
@pytest.mark.parametrize("shape", ["3HW", "HW3", "1HW", "4HW"])
def test_tensors_are_arrays(shape: str) -> None:
    import torch

    image = array(shape, "uint8", "0 to 255", 41, 29)
    tensor, spec = torch.from_numpy(image), processing("clip")
    check(tensor, "clip", spec)
    right = next(preprocess([image], spec))
    floats = [] if shape == "4HW" else [tensor.float().requires_grad_()]  # RGBA of floats is from 0 to 1
    for same in (tensor, *floats, tensor.to(torch.int64), torch.stack([tensor])):
        assert np.array_equal(next(preprocess(image_list(same), spec)), right)
    with pytest.raises(ImageError, match="given as Tensor, which NumPy cannot read"):
        open_image(tensor.to(torch.bfloat16))


@pytest.mark.export_extra
@pytest.mark.parametrize("family", ["clip", "siglip", "pixtral"])
def test_batches_and_nests_are_lists(family: str) -> None:
    import torch

    spec = processing(family)
    batch = np.random.default_rng(4).integers(0, 256, (3, 33, 21, 3), dtype=np.uint8)
    first, second = list(batch[:1]), list(batch[1:])
    for images in (batch, [batch], [first, second], [[batch[0]]], (first[0],), torch.from_numpy(batch)):
        check(images, family, spec)
    with pytest.raises(ImageError, match="given as list"):
        list(preprocess(image_list([[[batch[0]]]]), spec))


def test_two_axes_are_grey() -> None:
    """transformers refuses them; here they are as one channel is."""
    grey = array("1HW", "float32", "0 to 1", 20, 50)
    for spec in map(processing, ("clip", "siglip", "pixtral")):
        found, right = preprocess([grey[0], grey], spec)
        assert np.array_equal(found, right)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.full((9, 9, 3), 300), r"300 … 300, expected 0 … 255 in whole numbers"),
        (np.full((9, 9, 3), -1), r"-1 … -1, expected"),
        (np.full((9, 9, 3), 1.5), r"1.5 … 1.5, which are not whole"),
        (np.full((9, 9, 3), np.nan), r"nan … nan, expected"),
        (np.full((9, 9, 3), np.inf), r"inf … inf, expected"),
        (np.full((9, 9, 4), 7.0), r"outside 0 … 1: RGBA of floats"),
        (np.full((9, 9, 4), np.nan), r"outside 0 … 1: RGBA of floats"),
    ],
)
def test_values_outside_are_refused_by_what_they_are(image: np.ndarray, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        next(preprocess([image], processing("clip")))


def test_large_arrays_are_refused() -> None:
    endless = np.broadcast_to(np.uint8(0), (10_000, 5_001, 3))
    for image in (endless, endless[..., 0], endless.transpose(2, 0, 1)):
        with pytest.raises(ImageError, match="at most 50,000,000 pixels"):
            next(preprocess([image], processing("clip")))


def test_no_images_at_all() -> None:
    assert image_list(None) == image_list([]) == image_list([[]]) == []
    assert padded_together([]).shape == (0, 3, 0, 0)
