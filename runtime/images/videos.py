"""Videos as people give them become frames, of which there are as many as were asked for.

Enters: a list of images, an array [frames, height, width, 3], a file, its bytes, a `data:` URI, or a `Video`, which
says how many frames are taken too. Leaves: `OpenedVideo`: how many frames there are, known before one is decoded, and
the frames one by one, each as RGB bytes.

Frames are taken evenly: number i of n is frame ⌊i · total / n⌋ of the video, as transformers' `sample_frames`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pumice.errors import ImageError, UsageError, VideoError
from pumice.images.addresses import video_address
from pumice.images.arrays import SupportsArray, as_array, rgb_values
from pumice.images.files import MAX_PIXELS, ImageInput, check_array, image_list, open_image
from pumice.images.passes import to_rgb
from pumice.images.video_files import DEFAULT_FRAMES, VideoFile
from pumice.manifest import MOST_FRAMES

VideoInput: TypeAlias = (
    "Video | str | os.PathLike[str] | bytes | np.ndarray | SupportsArray | Sequence[ImageInput]"
)
Frame: TypeAlias = NDArray[np.uint8]
"""RGB, shape = (height, width, 3)."""

_BYTES = (bytes, bytearray, memoryview)
_FILE = (str, os.PathLike, *_BYTES)


@dataclass(frozen=True, eq=False)
class Video:
    """A video, and how many of its frames are taken: `num_frames` of them evenly, or `fps` a second.

    Of a file 8 are taken where neither is given, or all if it has fewer; of frames all.

    Raises:
        UsageError: both numbers, or one that is not above 0.
    """

    source: Any
    num_frames: int | None = field(default=None, kw_only=True)
    fps: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.fps is not None:
            raise UsageError("a video was given both num_frames and fps, expected one of them")
        frames, fps = self.num_frames, self.fps
        if frames is not None and (type(frames) is not int or not 1 <= frames <= MOST_FRAMES):
            raise UsageError(f"a video's num_frames is {frames!r}, expected 1 to {MOST_FRAMES}")
        if fps is not None and (type(fps) not in (int, float) or not 0 < fps < float("inf")):
            raise UsageError(f"a video's fps is {fps!r}, expected frames a second, above 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedVideo:
    """A video of so many frames; `frames` gives them in order, and raises VideoError where one cannot be read."""

    count: int
    frames: Callable[[], Iterator[Frame]]


def video_list(videos: Any) -> list[Any]:
    """A list of videos, given as one, as a list, as an array [videos, frames, …], or as None.

    A list of images is one video, a list of paths, of lists or of arrays [frames, …] are several.
    """
    if videos is None:
        return []
    if getattr(videos, "ndim", None) == 5 and isinstance(videos, SupportsArray):
        return [Video(videos[i]) for i in range(videos.shape[0])]
    if not isinstance(videos, (list, tuple)) or (videos and _is_frame(videos[0])):
        return [_video(videos)]
    return [_video(video) for video in videos]


def media_list(images: Any, videos: Any) -> list[Any]:
    """Images and videos in one list, in which a video is a `Video`, or prepared already; each kind in its order."""
    return [*image_list(images), *video_list(videos)]


def is_video(given: object) -> bool:
    """Whether one of such a list is a video."""
    return isinstance(given, Video) or isinstance(getattr(given, "frames", None), int)


def open_video(video: Video) -> OpenedVideo:
    """The frames of a video; of a file the head is read.

    Raises:
        VideoError: it cannot be read, has no frames or fewer than were asked for, or is too large.
        UsageError: frames a second of a video that was given by its frames, whose time nobody knows.
    """
    source = video.source
    if isinstance(source, str):
        source = video_address(source)
    if isinstance(source, _FILE):
        file = VideoFile(bytes(source) if isinstance(source, _BYTES) else source)
        count = _asked(video, file.frames, file.fps)
        taken = _evenly(count, file.frames)
        return OpenedVideo(count=count, frames=lambda: file.decoded(taken))
    if video.fps is not None:
        raise UsageError("a video was given by its frames, and fps: expected num_frames, or a file")
    frames = _frames(source)
    if not len(frames):
        raise VideoError("a video without frames was given")
    count = len(frames) if video.num_frames is None else _asked(video, len(frames), None)
    _check_count(count)
    taken = _evenly(count, len(frames))
    return OpenedVideo(count=count, frames=lambda: (_rgb(frames[i], i) for i in taken))


def _video(given: Any) -> Any:
    """A video as the rest of the house has it."""
    return given if is_video(given) else Video(given)


def _is_frame(given: object) -> bool:
    return isinstance(given, Image.Image) or (
        isinstance(given, SupportsArray) and getattr(given, "ndim", None) in (2, 3)
    )


def _asked(video: Video, total: int, fps: float | None) -> int:
    """How many frames are taken of `total`."""
    count = video.num_frames
    if video.fps is not None:
        if not fps:
            raise VideoError(
                "a video does not say how many frames a second it has: give num_frames in place of fps"
            )
        count = max(1, int(total / fps * video.fps))
    elif count is None:
        count = min(DEFAULT_FRAMES, total)
    if count > total:
        raise VideoError(f"{count} frames were asked of a video of {total}: ask for fewer")
    _check_count(count)
    return count


def _check_count(count: int) -> None:
    if count > MOST_FRAMES:
        raise VideoError(
            f"a video of {count:,} frames was given, expected {MOST_FRAMES} at most: give num_frames, or fewer"
        )


def _evenly(count: int, total: int) -> list[int]:
    return [i * total // count for i in range(count)]


def _frames(source: Any) -> Any:
    """What has a length and gives frames by their number."""
    if isinstance(source, (list, tuple)):
        return source
    array = as_array(source) if isinstance(source, SupportsArray) else None
    if array is None:
        raise VideoError(
            f"a video was given as {type(source).__name__}, expected a list of images, an array "
            "[frames, height, width, 3], a path, bytes or a data URI"
        )
    if array.ndim != 4:
        raise VideoError(
            f"a video was given as an array of {array.ndim} axes, expected four: [frames, height, width, 3]"
        )
    return array


def _rgb(frame: ImageInput, number: int) -> Frame:
    """A frame that was given; of numbers other than bytes nobody knows whether they are 0 … 1 or 0 … 255."""
    try:
        array = as_array(frame)
        if array is None:
            image = open_image(frame)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"an image of {image.width} × {image.height} is too large")
            return np.asarray(to_rgb(image))
        if array.dtype != np.uint8:
            raise ImageError(f"an image was given as an array of {array.dtype}, expected uint8 in a video")
        return rgb_values(check_array(array))
    except ImageError as error:
        raise VideoError(f"frame {number} of a video: {error}") from None
