"""A video's file becomes frames, by PyAV (`pip install 'pumice[video]'`), which is imported when it is needed.

Enters: a path, or bytes, and numbers of frames. Leaves: how many frames it has, and those of these numbers, as RGB
bytes in the size in which they are stored: as transformers' `read_video_pyav` has them.

A file is hostile until shown otherwise. Only the containers and codecs below are opened, by their first bytes and
never by a name; nothing that a container points to is followed; and limits hold for bytes, for length, for a frame's
pixels and for all that is decoded on the way to the last frame. FFmpeg's own messages are never passed on.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pumice.errors import VideoError
from pumice.images.addresses import shown
from pumice.images.formats import LOOKED_AT, other_format
from pumice.manifest.regular_file import named

DEFAULT_FRAMES = 8
"""Taken where nobody says how many."""
MAX_VIDEO_BYTES = 2**30
MAX_SECONDS = 3600
MAX_VIDEO_FRAMES = 120_000
"""An hour of 33 a second."""
MAX_FRAME_PIXELS = 35_400_000
"""8192 × 4320."""
MAX_DECODED_PIXELS = 250_000_000_000
"""Of all frames up to the last that is taken: an hour of 1920 × 1080."""

Frame: TypeAlias = NDArray[np.uint8]

_CONTAINERS = {
    "mov": re.compile(rb".{4}ftyp", re.DOTALL),
    "matroska": re.compile(rb"\x1aE\xdf\xa3"),
    "avi": re.compile(rb"RIFF.{4}AVI ", re.DOTALL),
}
"""By FFmpeg's names; mov is MP4 too, and matroska WebM."""
_CODECS = ("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "mjpeg")
"""By FFmpeg's names of decoders."""
_NOTHING_FOLLOWED = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_CODECS)}
_UNREADABLE = (
    "cannot be read: expected an undamaged MP4, MOV, MKV, WebM or AVI with video in H.264, H.265, AV1 or VP9"
)


class VideoFile:
    """A file, of which the head was read. `frames` it has in all, and `fps` a second, 0 where it does not say.

    Raises:
        VideoError: no PyAV, no video, damaged, or larger than the limits above.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        self._source = source if isinstance(source, bytes) else named(Path(os.fsdecode(source)))
        self._name = f"the video {'' if isinstance(source, bytes) else shown(source)}".rstrip()
        with self._opened() as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / 1_000_000
            if seconds > MAX_SECONDS:
                raise VideoError(f"{self._name} is {seconds:,.0f} s long, expected {MAX_SECONDS:,} s at most")
            self._pixels = int(stream.codec_context.width) * int(stream.codec_context.height)
            self._check_frame(self._pixels)
            self.fps = float(stream.average_rate or 0)
            self.frames = int(stream.frames) or self._counted(container)
        if not 1 <= self.frames <= MAX_VIDEO_FRAMES:
            raise VideoError(f"{self._name} has {self.frames:,} frames, expected 1 to {MAX_VIDEO_FRAMES:,}")

    def decoded(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """The frames of these numbers, which rise, one by one."""
        most, wanted = self._pixels * (numbers[-1] + 1), iter(numbers)
        if most > MAX_DECODED_PIXELS:
            raise VideoError(
                f"{self._name} has {most:,} pixels up to frame {numbers[-1]:,}, "
                f"expected {MAX_DECODED_PIXELS:,} at most: make it shorter or smaller"
            )
        with self._opened() as container:
            number: int | None = next(wanted)
            for index, frame in enumerate(container.decode(video=0)):
                self._check_frame(frame.width * frame.height)
                if index != number:
                    continue
                yield frame.to_ndarray(format="rgb24")
                number = next(wanted, None)
                if number is None:
                    return
        raise VideoError(f"{self._name} promises {self.frames:,} frames and ends before frame {number}")

    def _counted(self, container: Any) -> int:
        """Of a file that does not say it: one frame a packet."""
        count = 0
        for packet in container.demux(video=0):
            count += packet.size > 0
            if count > MAX_VIDEO_FRAMES:
                break
        return count

    def _check_frame(self, pixels: int) -> None:
        if not 1 <= pixels <= MAX_FRAME_PIXELS:
            raise VideoError(
                f"{self._name} has frames of {pixels:,} pixels, expected 1 to {MAX_FRAME_PIXELS:,}"
            )

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The container, at its beginning."""
        av = _av()
        with self._bytes() as file:
            head = file.read(LOOKED_AT)
            file.seek(0)
            kind = next((name for name, magic in _CONTAINERS.items() if magic.match(head)), None)
            if kind is None:
                other = other_format(head)
                told = f"is {other}, expected MP4, MOV, MKV, WebM or AVI" if other else _UNREADABLE
                raise VideoError(f"{self._name} {told}")
            try:
                with av.open(file, "r", format=kind, options=_NOTHING_FOLLOWED) as container:
                    if not container.streams.video:
                        raise VideoError(f"{self._name} has no pictures, only sound")
                    codec = container.streams.video[0].codec_context
                    if codec is None or codec.name not in _CODECS:
                        raise VideoError(f"{self._name} {_UNREADABLE}")
                    yield container
            except VideoError:
                raise
            except (av.FFmpegError, OSError, ValueError, EOFError, IndexError, ArithmeticError):
                raise VideoError(f"{self._name} {_UNREADABLE}") from None

    @contextmanager
    def _bytes(self) -> Iterator[BinaryIO]:
        """A regular file that is not too large; pipes and devices could block or never end."""
        if isinstance(self._source, bytes):
            self._check_bytes(len(self._source))
            yield BytesIO(self._source)
            return
        try:
            status = self._source.stat()
            if not stat.S_ISREG(status.st_mode):
                raise VideoError(f"{self._name} is not a file")
            self._check_bytes(status.st_size)
            file = self._source.open("rb")
        except FileNotFoundError:
            raise VideoError(f"there is no video {shown(self._source)}") from None
        except OSError as error:
            raise VideoError(f"{self._name} cannot be opened: {error.strerror}") from None
        except ValueError:  # a zero byte, or a lone surrogate
            raise VideoError("a video's path is not valid") from None
        with file:
            yield file

    def _check_bytes(self, size: int) -> None:
        if size > MAX_VIDEO_BYTES:
            raise VideoError(
                f"a video of {size:,} bytes is too large: at most {MAX_VIDEO_BYTES:,} are accepted"
            )


def _av() -> Any:
    """PyAV."""
    try:
        import av
    except ImportError:
        raise VideoError(
            "reading a video's file needs PyAV: pip install 'pumice[video]', or give the video as a list of images"
        ) from None
    return av
