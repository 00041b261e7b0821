import base64
import io
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pumice.errors import ImageError
from pumice.images import files as images
from pumice.images.addresses import names_file
from pumice.images.files import image_size, open_image


def encoded(form: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"not an image",
        encoded()[:40],
        encoded("JPEG")[:40],
        b"BM and so on",
    ],
)
def test_damaged_files_are_refused(source: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read: expected an undamaged JPEG, PNG, WebP or GIF"):
        open_image(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (encoded("BMP"), "a BMP"),
        (encoded("TIFF"), "a TIFF"),
        (encoded("ICO", (32, 32)), "an icon"),
        (encoded("JPEG2000"), "a JPEG 2000"),
        (encoded("PPM"), "a PNM"),
        (encoded("QOI"), "a QOI"),
        (encoded("DDS"), "a DDS"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"\xff\x0a\x00\x10", "a JPEG XL"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg >', "an SVG"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_a_sound_file_of_another_format_is_told_as_such(source: bytes, told: str) -> None:
    expected = f"the image is {told}, expected JPEG, PNG, WebP or GIF: convert it"
    with pytest.raises(ImageError, match=re.escape(expected)):
        open_image(source)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "ftp://x/y", "HTTP://x"],
)
def test_addresses_are_refused(address: str) -> None:
    with pytest.raises(ImageError, match="remote images are not fetched"):
        open_image(address)


@pytest.mark.parametrize(
    "uri",
    [
        "data:,x",
        "data:text/html;base64,QQ==",
        "data:image/png;base64,***",
        "data:image/png,abc",
        "data:image/png;base64,",
    ],
)
def test_bad_data_uris_are_refused(uri: str) -> None:
    with pytest.raises(ImageError):
        open_image(uri)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 4, 2), np.uint8),
        np.zeros((2, 3, 4, 5), np.uint8),
        np.zeros((1, 1, 3, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((0, 3, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.float32(0.5),
        np.zeros((4, 5, 3), np.complex64),
        np.full((4, 5, 3), "a"),
        np.full((4, 5, 3), None),
    ],
)
def test_arrays_of_other_kinds_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="array"):
        open_image(array)


@pytest.mark.parametrize("source", [None, 5, True, ["a.png"], {"url": "a.png"}, object()])
def test_objects_of_other_kinds_are_refused(source: object) -> None:
    with pytest.raises(ImageError, match=f"given as {type(source).__name__}"):
        open_image(source)  # type: ignore[arg-type]


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        ("missing", "there is no image"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
    ]:
        with pytest.raises(ImageError, match=message):
            open_image(tmp_path / path)
    with pytest.raises(ImageError, match="zero byte"):
        open_image("a\0b")
    for surrogate in ("a\ud800.png", Path("a\ud800.png")):
        with pytest.raises(ImageError, match="lone surrogate"):
            open_image(surrogate)
    for nothing in ("", " \n"):
        with pytest.raises(ImageError, match="path is empty"):
            open_image(nothing)


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises width × height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 5_001), (65_536, 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_huge_images_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=r"too large|too long"):
        open_image(bomb(*size))


def test_large_files_are_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="bytes is too large: at most 20,971,520"):
        open_image(path)
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(images.MAX_PHOTO_BYTES + 1)
    with pytest.raises(ImageError, match="bytes is too large: at most 67,108,864"):
        open_image(path)
    with pytest.raises(ImageError, match="bytes is too large"):
        open_image(b"\0" * (images.MAX_BYTES + 1))


class Closed:
    """Ways in which a PIL image is closed before it was read."""

    @staticmethod
    def itself() -> Image.Image:
        image = Image.open(io.BytesIO(encoded("JPEG")))
        image.close()
        return image

    @staticmethod
    def once_read() -> Image.Image:
        image = Image.open(io.BytesIO(encoded("GIF")))
        image.load()
        image.close()
        return image

    @staticmethod
    def its_file() -> Image.Image:
        file = io.BytesIO(encoded())
        image = Image.open(file)
        file.close()
        return image

    @staticmethod
    def by_with() -> Image.Image:
        with Image.open(io.BytesIO(encoded())) as image:
            pass
        return image

    @staticmethod
    def made() -> Image.Image:
        image = Image.new("RGB", (4, 4))
        image.close()
        return image


@pytest.mark.parametrize(
    "way", [Closed.itself, Closed.once_read, Closed.its_file, Closed.by_with, Closed.made]
)
def test_a_closed_pil_image_is_told_as_such(way: Callable[[], Image.Image]) -> None:
    with pytest.raises(ImageError, match="a PIL image that is closed"):
        open_image(way())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_pil_image_of_a_cut_file_is_told_as_such(form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    data = file.getvalue()
    image = Image.open(io.BytesIO(data[:-2000] if form != "TIFF" else data[:6000]))
    with pytest.raises(ImageError, match="whose file is cut off or damaged"):
        open_image(image)


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text,
        lambda text: "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\r\n",
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
    ],
)
@pytest.mark.parametrize(
    "head", ["", "data:image/png;base64,", "DATA:image/PNG;BASE64,", " data:image/x; base64,"]
)
@pytest.mark.parametrize("form", images.FORMATS)
def test_base64_is_taken_however_it_is_spelt(form: str, head: str, spell: Callable[[str], str]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    expected = open_image(file.getvalue())
    text = spell(base64.b64encode(file.getvalue()).decode())
    assert np.array_equal(np.asarray(open_image(head + text)), np.asarray(expected))
    if head:
        escaped = head + quote(text)
        assert np.array_equal(np.asarray(open_image(escaped)), np.asarray(expected))


def test_a_path_that_looks_like_base64_is_a_path_where_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "iVBORw0K" + "A" * 60
    (tmp_path / name).write_bytes(encoded(size=(5, 6)))
    monkeypatch.chdir(tmp_path)
    assert open_image(name).size == (5, 6)
    assert names_file(name, tmp_path)
    assert not names_file(name, tmp_path / "elsewhere")


def test_a_text_of_any_length_makes_a_short_message() -> None:
    for text in (
        "A" * 100_000,
        "/a" * 20_000 + ".png",
        "x.png" * 70,
        base64.b64encode(encoded("BMP") * 30).decode(),
    ):
        with pytest.raises(ImageError) as caught:
            open_image(text)
        assert len(str(caught.value)) < 260
    assert "is a BMP" in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(images.FORMATS),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 400),
)
def test_damaged_images_open_or_raise_one_short_line(
    form: str, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encoded(form, (23, 17)))
    for position, value in edits:
        data[position % len(data)] = value
    try:
        open_image(bytes(data[: len(data) - cut % 40]))
    except ImageError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    assert "0x" not in message
    assert len(message) < 120


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_by_the_head_is_the_opened_images(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(file, form, **({} if form == "GIF" else {"exif": exif}))
    data = file.getvalue()
    assert image_size(data) == open_image(data).size


def test_the_size_is_known_without_a_pixel() -> None:
    for form in ("PNG", "JPEG"):
        file = io.BytesIO()
        Image.effect_noise((400, 300), 90).save(file, form)
        half = file.getvalue()[: len(file.getvalue()) // 2]
        assert image_size(half) == (400, 300)
        with pytest.raises(ImageError):
            open_image(half)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cannot be read"),
        (encoded()[:20], "cannot be read"),
        (encoded("BMP"), "a BMP, expected"),
        (encoded(size=(8000, 8000)), "too large"),
        (encoded(size=(70_000, 2)), "too long"),
    ],
)
def test_heads_that_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        image_size(data)
