"""A checkpoint's videos, as the manifest has them: transformers' video processors as steps.

Enters: a checkpoint's processor and its files, and the model's config. Leaves: `VideoProcessing`; or the config without
videos, with a warning, where transformers would take none or pumice cannot prepare them: images are as good as before.

transformers' video processors compute with torchvision, and are not made without it. What they do is in their settings:
those of the first file that has them, in transformers' order, and for the rest those of their class.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.checkpoint.json_file import read_json
from pumice.export.processor.load import load_processor, processor_settings
from pumice.manifest import VideoProcessing
from pumice.manifest.videos import Pooling, pooled_side
from pumice.models.config import LlavaConfig

_BICUBIC = 3
_CLASSES = {
    "LlavaOnevisionVideoProcessor": "llava_onevision.video_processing_llava_onevision",
    "LlavaNextVideoVideoProcessor": "llava_next_video.video_processing_llava_next_video",
}
"""Classes of video processors, by name, and where transformers has them."""
_LARGEST_EDGE = 1 << 12


class _UnsupportedError(CheckpointError):
    """Why videos are left out."""


def with_known_videos(checkpoint: Checkpoint, config: LlavaConfig) -> LlavaConfig:
    """The config, without videos where they cannot be had: then a line says why. Raises as `load_processor`."""
    if config.video is None:
        return config
    try:
        describe_videos(load_processor(checkpoint.path, config), checkpoint.path, config)
    except _UnsupportedError as error:
        logging.getLogger("pumice").warning("%s: exported for images alone: %s", checkpoint.path, error)
        return replace(config, video=None)
    return config


def describe_videos(processor: Any, path: Path, config: LlavaConfig) -> VideoProcessing | msgspec.UnsetType:
    """The manifest's `video`, where the config has videos. Raises CheckpointError: they cannot be had."""
    video = config.video
    if video is None:
        return msgspec.UNSET
    token, known = processor.video_token, processor.tokenizer.get_vocab()
    if not isinstance(token, str) or known.get(token) != video.token_id or token == processor.image_token:
        raise _UnsupportedError(
            f"the video token {token!r} has id {known.get(token) if isinstance(token, str) else None} in the "
            f"tokenizer and {video.token_id} in config.json"
        )
    pooling: Pooling = "bilinear" if video.pooling == "bilinear" else "encoder"
    side = config.vision.image_size // config.vision.patch_size
    return VideoProcessing(
        token=token,
        token_id=video.token_id,
        tokens_per_frame=pooled_side(side, pooling) ** 2,
        pooling=pooling,
        newline=pooling == "bilinear",
        **_steps(_settings(path, config), config.vision.image_size),
    )


def checked_videos(processor: Any, path: Path, config: LlavaConfig) -> VideoProcessing:
    """The videos of a checkpoint that has to have some. Raises CheckpointError."""
    try:
        found = describe_videos(processor, path, config)
    except _UnsupportedError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if found is msgspec.UNSET:
        raise CheckpointError(f"{path} takes no videos, as the bundle does")
    return found


def _settings(path: Path, config: LlavaConfig) -> dict[str, Any]:
    """The video processor's settings: the file's, and the class's for what it leaves out."""
    given = processor_settings(path).get("video_processor")
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if given is None and (path / name).is_file():
            given = read_json(path / name)
    if not isinstance(given, dict):
        raise _UnsupportedError("there are no settings of a video processor")
    expected = list(_CLASSES)[0 if config.anyres_max is not None else 1]
    name = given.get("video_processor_type", expected)
    if name not in _CLASSES:
        raise _UnsupportedError(f"the video processor is {name!r:.80}, expected {' or '.join(_CLASSES)}")
    module = importlib.import_module(f"transformers.models.{_CLASSES[name]}")
    kind = getattr(module, name)
    keys = ("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor")
    values = {
        key: getattr(kind, key, None) if given.get(key) is None else given[key]
        for key in (*keys, "do_normalize", "image_mean", "image_std")
    }
    if given.get("do_pad") and "image_grid_pinpoints" not in given:  # of images where it is their file
        raise _UnsupportedError("the video processor has do_pad")
    return values


def _steps(settings: dict[str, Any], side: int) -> dict[str, Any]:
    """The steps as `VideoProcessing` has them; the frames that they make are what the tower takes."""
    edge, to = _size(settings["size"]) if settings["do_resize"] else (None, None)
    crop = _size(settings["crop_size"], square=True)[1] if settings["do_center_crop"] else None
    if (crop or to) != (side, side) or max(edge or 0, *(to or (0,))) > _LARGEST_EDGE:
        raise _UnsupportedError(
            f"frames are resized to {settings['size']} and cropped to {crop}, but the tower takes {side} × {side}"
        )
    if settings["do_resize"] and settings["resample"] != _BICUBIC:
        raise _UnsupportedError(
            f"frames are resized by resample {settings['resample']!r}, expected {_BICUBIC} (bicubic)"
        )
    normalised = settings["do_normalize"]
    mean = _channels(settings["image_mean"]) if normalised else None
    std = _channels(settings["image_std"]) if normalised else None
    if std is not None and min(std) <= 0:
        raise _UnsupportedError(f"image_std is {std}, expected numbers above 0")
    return {
        "resize_shortest_edge": edge,
        "resize_to": to,
        "crop_to": crop,
        "rescale_factor": settings["rescale_factor"] if settings["do_rescale"] else None,
        "mean": mean,
        "std": std,
    }


def _size(size: Any, *, square: bool = False) -> tuple[int | None, tuple[int, int] | None]:
    """(shortest edge, None) or (None, (height, width)), in pixels."""
    given = {"shortest_edge": size} if isinstance(size, int) and not square else size
    given = {"height": size, "width": size} if isinstance(size, int) and square else given
    given = (
        {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
    )
    whole = all(type(value) is int and value > 0 for value in given.values())
    if whole and given.keys() == {"shortest_edge"}:
        return given["shortest_edge"], None
    if whole and given.keys() == {"height", "width"}:
        return None, (given["height"], given["width"])
    raise _UnsupportedError(f"frames have the size {size!r:.80}, expected shortest_edge, or height and width")


def _channels(value: Any) -> tuple[float, ...]:
    """One value for each channel; a single one is for all."""
    values = (value,) * 3 if isinstance(value, int | float) else value
    try:
        found = tuple(float(channel) for channel in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(abs(channel) < 1e6 for channel in found):
        raise _UnsupportedError(f"image_mean or image_std is {value!r:.80}, expected three numbers")
    return found
