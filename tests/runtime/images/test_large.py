"""What large images take: the resident memory of a process of its own that prepares one."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pumice.errors import ImageError
from pumice.images import files
from pumice.images.files import BYTES_PER_PIXEL, MAX_PHOTO_PIXELS, MAX_PIXELS, PIXELS_PER_BYTE, open_image
from pumice.images.preprocess import preprocess
from tests.runtime.images.test_preprocess import clip

BESIDES = 64
"""MiB that an image may take besides its decoded pixels: its file, bands, and what Pillow loads."""

MEASURE = """
import sys
from pathlib import Path
from PIL import Image
from pumice.images.preprocess import preprocess
from tests.runtime.images.test_preprocess import clip

def peak():  # not ru_maxrss, which begins with that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

small = Path(sys.argv[2])
Image.new("RGB", (64, 64)).save(small)
list(preprocess([small], clip(336, (336, 336))))
before = peak()
list(preprocess([Path(sys.argv[1])], clip(336, (336, 336))))
print(peak() - before)
"""


def rise(path: Path) -> int:
    """MiB by which a process grows while it prepares the image."""
    command = [sys.executable, "-c", MEASURE, str(path), str(path.with_suffix(".small.png"))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)


def photo(path: Path, width: int, height: int, orientation: int) -> Path:
    """A JPEG whose file is as large as a camera's, of few pixels repeated."""
    tile = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    pixels = np.tile(tile, (height // 500, width // 500, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=10, exif=exif)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_of_108_million_pixels_takes_its_own_size(tmp_path: Path, orientation: int) -> None:
    path = photo(tmp_path / "photo.jpg", 12_000, 9_000, orientation)
    assert rise(path) <= 12_000 * 9_000 * BYTES_PER_PIXEL // 2**20 + BESIDES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_the_largest_bomb_takes_at_most_300_mb(tmp_path: Path, mode: str) -> None:
    """Of a file of some 200 KB: laid on white, turned into RGB and resized without a second image of its size."""
    path = tmp_path / "bomb.png"
    Image.new(mode, (10_000, MAX_PIXELS // 10_000)).save(path, compress_level=6)
    assert path.stat().st_size < 400_000
    assert rise(path) <= min(300 * 10**6, MAX_PIXELS * BYTES_PER_PIXEL + BESIDES * 2**20) // 2**20


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("form", "options", "per_pixel"),
    [
        ("WEBP", {"lossless": True, "method": 0}, 16),  # the decoder keeps two canvases, Pillow a third
        ("JPEG", {"progressive": True, "subsampling": 0}, 10),  # and all coefficients, 16 bits each
    ],
)
def test_what_decoders_take_besides(
    tmp_path: Path, form: str, options: dict[str, Any], per_pixel: int
) -> None:
    path = tmp_path / "bomb"
    Image.new("RGB", (10_000, MAX_PIXELS // 10_000)).save(path, form, **options)
    assert rise(path) <= MAX_PIXELS * per_pixel // 2**20 + BESIDES


def jpeg(width: int, height: int, length: int, *, progressive: bool = False) -> bytes:
    """The headers of a JPEG of that size, in a file of that many bytes."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", progressive=progressive)
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data).ljust(length, b"\0")


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(data)
    return str(caught.value)


def test_only_what_a_camera_makes_may_have_more_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = 12_000, 9_000
    enough = width * height // PIXELS_PER_BYTE + 1
    decoded: list[bool] = []
    monkeypatch.setattr(files.JpegImageFile, "load", lambda image: decoded.append(True))
    open_image(jpeg(width, height, enough))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        Image.open(io.BytesIO(jpeg(width, height, 0))) as opened,
    ):
        open_image(opened)  # what the caller has opened without a word of its length
    assert decoded == [True, True]
    too_large = f"12000 × 9000 is too large: at most {MAX_PIXELS:,} pixels"
    assert too_large in refusal(jpeg(width, height, enough - 10))
    assert too_large in refusal(jpeg(width, height, enough, progressive=True))
    assert f"at most {MAX_PHOTO_PIXELS:,} pixels" in refusal(jpeg(12_000, 10_001, enough * 2))
    assert decoded == [True, True]


def test_a_photo_that_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory", lambda: 400 * 10**6)
    data = jpeg(12_000, 9_000, 12_000 * 9_000 // PIXELS_PER_BYTE + 1)
    assert "12000 × 9000 needs 432 MB, but 400 MB of memory are left" in refusal(data)


def test_a_pil_image_that_is_decoded_may_be_as_large_as_a_photo() -> None:
    image = Image.new("1", (12_000, 9_000), 1)
    assert (
        next(preprocess([image], clip()))[0] == next(preprocess([Image.new("1", (9, 9), 1)], clip()))[0]
    ).all()
    with pytest.raises(ImageError, match="too large"):
        open_image(Image.new("1", (12_001, 10_000)))


def test_a_pil_image_that_is_not_decoded_may_not(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    Image.new("1", (10_000, 5_001)).save(path)
    with Image.open(path) as image, pytest.raises(ImageError, match="at most 50,000,000"):
        open_image(image)
