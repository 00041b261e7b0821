import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pumice.errors import ImageError
from pumice.images import files as images
from pumice.images.files import open_image


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
        encoded("BMP"),
        encoded("TIFF"),
        encoded("ICO"),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_other_formats_and_damaged_files_are_refused(source: bytes) -> None:
    with pytest.raises(ImageError, match="cannot be read: expected an undamaged JPEG, PNG, WebP or GIF"):
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
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_of_other_kinds_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="array"):
        open_image(array)


@pytest.mark.parametrize("source", [None, 5, ["a.png"], {"url": "a.png"}, object()])
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
    with pytest.raises(ImageError, match="bytes is too large"):
        open_image(path)


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
