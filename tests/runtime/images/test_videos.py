"""Videos as they may be given, how many frames are taken of one, and files of all kinds. Oracle: the rules.

`tests/export/test_video_files.py` holds files against transformers' reader.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pumice.errors import UsageError, VideoError
from pumice.images import video_files
from pumice.images.videos import Video, is_video, open_video, video_list

av = pytest.importorskip("av")

FRAMES = [Image.new("RGB", (8, 6), (n, 2 * n, 3 * n)) for n in range(10)]
ARRAY = np.stack([np.asarray(image) for image in FRAMES])


def encoded(
    path: Path, codec: str = "mpeg4", count: int = 25, rate: int = 10, size: tuple[int, int] = (64, 48)
) -> Path:
    """A file whose frame number n is of the level 10·n, about."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            levels = np.full((size[1], size[0], 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded(tmp_path_factory.mktemp("videos") / "a.mp4")


def taken(video: Video) -> list[int]:
    """The first channel of the middle of each frame."""
    opened = open_video(video)
    frames = [int(frame[frame.shape[0] // 2, frame.shape[1] // 2, 0]) for frame in opened.frames()]
    assert len(frames) == opened.count
    return frames


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (None, 0),
        ([], 0),
        (FRAMES, 1),
        ([FRAMES], 1),
        ([FRAMES, FRAMES[:2]], 2),
        (ARRAY, 1),
        ([ARRAY, ARRAY], 2),
        (list(ARRAY), 1),
        (np.stack([ARRAY, ARRAY]), 2),
        ("a.mp4", 1),
        (["a.mp4", Path("b.mp4")], 2),
        ([["a.png", "b.png"]], 1),
        (Video(FRAMES, num_frames=2), 1),
        ([Video(FRAMES), "a.mp4"], 2),
    ],
)
def test_one_video_or_several(given: Any, count: int) -> None:
    videos = video_list(given)
    assert len(videos) == count
    assert all(map(is_video, videos))


def test_frames_are_taken_evenly() -> None:
    """Number i of n is frame ⌊i · total / n⌋."""
    assert taken(Video(FRAMES)) == taken(Video(ARRAY)) == list(range(10))
    assert taken(Video(FRAMES, num_frames=4)) == [0, 2, 5, 7]
    assert taken(Video(ARRAY, num_frames=3)) == [0, 3, 6]
    assert taken(Video(FRAMES, num_frames=1)) == [0]


def test_frames_of_all_kinds(tmp_path: Path) -> None:
    FRAMES[3].save(tmp_path / "a.png")
    mixed = [
        FRAMES[1],
        ARRAY[2],
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        FRAMES[4].convert("RGBA"),
    ]
    assert taken(Video(mixed)) == [1, 2, 3, 3, 4]
    jpegs = []
    for image in FRAMES[5:7]:
        buffer = BytesIO()
        image.convert("L").save(buffer, "JPEG")
        jpegs.append(b64encode(buffer.getvalue()).decode())
    assert len(taken(Video("data:video/jpeg;base64," + ",".join(jpegs)))) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "without frames"),
        (5, "given as int, expected a list of images"),
        (ARRAY[0], "an array of 3 axes, expected four"),
        (ARRAY.astype(np.float32) / 255, "frame 0 of a video: .* float32, expected uint8"),
        ([FRAMES[0], "nowhere.png"], "frame 1 of a video: there is no image 'nowhere.png'"),
        (FRAMES * 26, "260 frames was given, expected 256 at most"),
        ("nowhere.mp4", "there is no video 'nowhere.mp4'"),
        ("https://a/b.mp4", "remote videos are not fetched"),
        ("", "path is empty"),
        ("a\0b", "path is not valid"),
        ("data:image/png;base64,AAAA", "expected a data URI of the form data:video/mp4;base64"),
        ("data:video/mp4;base64,?", "not valid base64"),
        (b"", "cannot be read: expected an undamaged MP4"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "cannot be read: expected an undamaged MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "cannot be read"),
        (b"%PDF-1.7", "is a PDF, expected MP4"),
        (b"\0\0\0\x18ftypisom" + b"\0" * 200, "cannot be read: expected an undamaged MP4"),
    ],
)
def test_what_is_no_video(given: Any, told: str) -> None:
    with pytest.raises(VideoError, match=told):
        taken(Video(given))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_frames": 2, "fps": 1}, "both num_frames and fps"),
        ({"num_frames": 0}, "num_frames is 0, expected 1 to 256"),
        ({"num_frames": True}, "num_frames is True"),
        ({"num_frames": 257}, "expected 1 to 256"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("inf")}, "fps is inf"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Video(FRAMES, **options)


def test_more_frames_than_there_are_and_seconds_of_frames() -> None:
    with pytest.raises(VideoError, match="11 frames were asked of a video of 10"):
        open_video(Video(FRAMES, num_frames=11))
    with pytest.raises(UsageError, match="given by its frames, and fps"):
        open_video(Video(FRAMES, fps=2))


def near(levels: list[int], numbers: list[int]) -> bool:
    return np.abs(np.array(levels) - 10 * np.array(numbers)).max() <= 8


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_files(name: str, tmp_path: Path) -> None:
    path = encoded(tmp_path / name)
    assert near(taken(Video(path)), [i * 25 // 8 for i in range(8)])
    assert near(taken(Video(str(path), num_frames=3)), [0, 8, 16])
    assert near(taken(Video(path.read_bytes(), fps=2)), [0, 5, 10, 15, 20])
    uri = "data:video/mp4;base64," + b64encode(path.read_bytes()).decode()
    assert near(taken(Video(uri, num_frames=25)), list(range(25)))


def test_a_file_that_does_not_say_how_many_frames_it_has(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.webm", "libvpx")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames in (0, 25)
    assert near(taken(Video(path, num_frames=5)), [0, 5, 10, 15, 20])


def test_a_short_file_gives_all_its_frames(tmp_path: Path) -> None:
    assert len(taken(Video(encoded(tmp_path / "a.mp4", count=3)))) == 3


def test_a_codec_that_is_not_listed(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="expected an undamaged MP4"):
        taken(Video(encoded(tmp_path / "a.mkv", "ffv1", count=2)))


def test_damaged_files_end_in_a_typed_error(file: Path) -> None:
    """Or in frames."""
    data, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            damaged[place] = rng.integers(0, 256)
        with suppress(VideoError):
            taken(Video(bytes(damaged)))


def test_a_file_that_is_cut_off(file: Path) -> None:
    data = file.read_bytes()
    for cut in range(20, data.index(b"stsz"), 97):
        with pytest.raises(VideoError, match=r"cannot be read|has no pictures|has 0 frames|has frames of 0"):
            taken(Video(data[:cut]))


@pytest.mark.parametrize(
    ("limit", "value", "told"),
    [
        ("MAX_VIDEO_BYTES", 100, r"bytes is too large: at most 100"),
        ("MAX_SECONDS", 1, r"is 2 s long, expected 1 s at most"),
        ("MAX_VIDEO_FRAMES", 24, r"has 25 frames, expected 1 to 24"),
        ("MAX_FRAME_PIXELS", 3071, r"has frames of 3,072 pixels, expected 1 to 3,071"),
        ("MAX_DECODED_PIXELS", 3072, r"pixels up to frame 21, expected 3,072 at most"),
    ],
)
def test_limits(file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, told: str) -> None:
    monkeypatch.setattr(video_files, limit, value)
    for source in (file, file.read_bytes()):
        with pytest.raises(VideoError, match=told):
            taken(Video(source))


def test_sound_without_pictures_and_folders(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(VideoError, match="has no pictures, only sound"):
        taken(Video(tmp_path / "a.mp4"))
    with pytest.raises(VideoError, match="is not a file"):
        taken(Video(tmp_path))


def test_without_pyav(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        VideoError, match=r"needs PyAV: pip install 'pumice\[video\]', or give the video as a list"
    ):
        open_video(Video(file))
    assert taken(Video(FRAMES)) == list(range(10))
