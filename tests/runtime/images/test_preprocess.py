"""Oracle: transformers' PIL image processor for CLIP. Tolerance: none, pixel values are equal to the last bit."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import pumice.images.preprocess
from pumice.errors import ImageError
from pumice.images.preprocess import padded_together, preprocess
from pumice.manifest import ImageProcessing
from tests.runtime.conftest import CLIP_MEAN, CLIP_STD

MODES = (
    "RGB",
    "L",
    "LA",
    "P",
    "PA",
    "RGBA",
    "CMYK",
    "1",
    "I;16",
    "I",
    "F",
    "YCbCr",
    "HSV",
    "LAB",
    "RGBX",
    "RGBa",
)


def clip(edge: int = 56, crop: tuple[int, int] = (56, 56), resample: int = 3) -> ImageProcessing:
    return ImageProcessing(
        convert_rgb=True,
        resize_shortest_edge=edge,
        resize_to=None,
        resample=resample,
        crop_to=crop,
        rescale_factor=1 / 255,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        size=crop,
    )


def pixel_values(images: list[Any], spec: ImageProcessing) -> np.ndarray:
    return padded_together(list(preprocess(images, spec)), spec.size)


def expected(image: Image.Image, spec: ImageProcessing) -> np.ndarray:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    assert spec.crop_to
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": spec.resize_shortest_edge},
        crop_size={"height": spec.crop_to[0], "width": spec.crop_to[1]},
        resample=spec.resample,
    )
    return np.stack(processor(image)["pixel_values"])


def noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels.view(np.uint32)[..., 0].astype(np.uint16))
    if mode in ("I", "F"):
        return Image.fromarray(
            (pixels.view(np.uint32)[..., 0] % 700).astype(np.int32 if mode == "I" else np.float32)
        )
    if mode in ("RGBA", "RGBa", "LA"):
        return image.convert(mode)
    if mode == "PA":
        return image.convert("RGB").convert("P").convert("PA")
    if mode == "RGBX":
        return Image.frombytes("RGBX", (width, height), pixels.tobytes())
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), pixels[..., :3].tobytes())
    return image.convert("RGB").convert(mode)


@pytest.mark.export_extra
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 3), (37, 41), (56, 56), (113, 64), (55, 57)])
def test_every_mode_and_awkward_size(mode: str, size: tuple[int, int]) -> None:
    image = noise(mode, *size)
    assert np.array_equal(pixel_values([image], clip()), expected(image, clip()))


@pytest.mark.export_extra
@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    seed=st.integers(0, 9),
    edge=st.integers(1, 70),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resample=st.sampled_from([1, 2, 3, 4, 5]),
    windowed=st.booleans(),
)
def test_any_image_and_any_settings(
    mode: str,
    width: int,
    height: int,
    seed: int,
    edge: int,
    crop: tuple[int, int],
    resample: int,
    windowed: bool,
) -> None:
    spec = clip(edge, crop, resample if not windowed else 2 + resample % 2)
    image = noise(mode, width, height, seed)
    with pytest.MonkeyPatch.context() as patch:
        if windowed:
            patch.setattr(pumice.images.preprocess, "_MAX_ENLARGED", 0)
        assert np.array_equal(pixel_values([image], spec), expected(image, spec))


@pytest.mark.export_extra
@pytest.mark.parametrize("transparency", [3, b"\x00\x40\xff"])
def test_palette_transparency_is_laid_on_white(transparency: int | bytes) -> None:
    image = noise("P", 20, 30)
    image.info["transparency"] = transparency
    assert np.array_equal(pixel_values([image], clip()), expected(image, clip()))


@pytest.mark.export_extra
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_colour_key_transparency_is_laid_on_white(mode: str, tmp_path: Path) -> None:
    image = noise(mode, 20, 30)
    image.save(tmp_path / "key.png", transparency=image.getpixel((3, 3)))
    opened = Image.open(io.BytesIO((tmp_path / "key.png").read_bytes()))
    assert opened.info["transparency"] is not None
    assert np.array_equal(pixel_values([tmp_path / "key.png"], clip()), expected(opened, clip()))


@pytest.mark.export_extra
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(orientation: int) -> None:
    image = noise("RGB", 40, 60)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = io.BytesIO()
    image.save(turned, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned.getvalue())))
    assert np.array_equal(pixel_values([turned.getvalue()], clip()), expected(upright, clip()))


def test_eight_orientations_of_one_scene_are_the_same_image() -> None:
    image = noise("RGB", 40, 60)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    results = []
    for orientation, method in undo.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        (image.transpose(method) if method is not None else image).save(file, "PNG", exif=exif)
        results.append(pixel_values([file.getvalue()], clip()))
    assert all(np.array_equal(results[0], result) for result in results)


@pytest.mark.export_extra
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_path_bytes_a_data_uri_and_an_array_agree(form: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    noise("RGB", 33, 44).save(path, form)
    data = path.read_bytes()
    uri = f"data:image/{form.lower()};base64,{base64.b64encode(data).decode()}"
    image = Image.open(io.BytesIO(data))
    array = np.asarray(image.convert("RGB"))
    values = pixel_values([path, str(path), data, uri, array, image], clip())
    assert values.shape == (6, 3, 56, 56)
    assert values.dtype == np.float32
    assert (values == values[0]).all()
    assert np.array_equal(values[:1], expected(image, clip()))


@pytest.mark.export_extra
def test_the_first_frame_of_an_animation_is_taken() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(pixel_values([file.getvalue()], clip()), expected(frames[0], clip()))


@pytest.mark.export_extra
def test_an_image_smaller_than_the_crop_gets_black_borders() -> None:
    spec = clip(edge=9, crop=(30, 21))
    image = noise("RGB", 10, 13)
    assert np.array_equal(pixel_values([image], spec), expected(image, spec))


def test_no_images() -> None:
    assert pixel_values([], clip()).shape == (0, 3, 56, 56)


def test_a_mode_that_pillow_cannot_convert_is_refused() -> None:
    with pytest.raises(ImageError, match="mode La"):
        pixel_values([Image.new("La", (4, 4))], clip())


def test_a_very_thin_image_needs_little_memory() -> None:
    image = Image.new("RGB", (1, 60_000), "red")
    values = pixel_values([image], clip(336, (336, 336)))
    assert np.array_equal(values, pixel_values([Image.new("RGB", (336, 336), "red")], clip(336, (336, 336))))
