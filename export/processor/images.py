"""transformers' image processors as the manifest's steps: CLIP's, SigLIP's, LLaVA's and Pixtral's.

Enters: an image processor with a checkpoint's settings, and the vision tower's config. Leaves: `ImageProcessing`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pumice.errors import CheckpointError
from pumice.export.processor.load import image_processor_settings
from pumice.manifest import ImageProcessing
from pumice.models.config import VisionConfig

_ONE_SIZE = (
    "CLIPImageProcessor",
    "CLIPFeatureExtractor",
    "LlavaImageProcessor",
    "SiglipImageProcessor",
)
_VARIED = "PixtralImageProcessor"
_LABELS = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
}
_LARGEST_EDGE = 1 << 14
"""Pixels; an image resized to more would fill the memory before it is cropped."""
_LARGEST_VALUE = 1_000_000
"""Of means, deviations and factors: pixels are 0 … 255 before them, and float32 has to hold what squares them after."""
_BILINEAR = 2
"""What transformers resizes with where `resample` is null."""


def describe_image_processor(processor: Any, path: Path, vision: VisionConfig) -> ImageProcessing:
    """The steps of a processor loaded from the checkpoint in `path`.

    Raises:
        CheckpointError: another processor than those above, a setting that is not supported, or images that the
            vision tower does not take.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    supported = (_VARIED,) if vision.tower == "pixtral" else _ONE_SIZE
    if name not in supported:
        raise CheckpointError(
            f"{path} has the image processor {name}: supported for a {vision.tower} vision tower "
            f"{'is' if len(supported) == 1 else 'are'} {', '.join(supported)}"
        )
    _refuse_unknown(processor, path)
    try:
        values = _values(processor, path)
        shape = _varied(processor, path, vision) if name == _VARIED else _one_size(processor, path, vision)
        return msgspec.convert({**shape, **values}, ImageProcessing)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the image processor in {path} has settings that make no sense: {reason}"
        ) from None


def _refuse_unknown(processor: Any, path: Path) -> None:
    known = set(processor.valid_kwargs.__annotations__) | _LABELS
    settings = image_processor_settings(path)
    unknown = sorted(key for key, value in settings.items() if key not in known and value is not None)
    if unknown:
        raise CheckpointError(
            f"the image processor in {path} has settings that are not known: {', '.join(unknown)}"
        )


def _one_size(processor: Any, path: Path, vision: VisionConfig) -> dict[str, Any]:
    """Where every image ends in the size that the tower takes."""
    if processor.do_pad:
        raise _refused(path, "has do_pad: padding images is not supported yet")
    edge, to = _resized(processor.size, path) if processor.do_resize else (None, None)
    if max([edge or 0, *(to or ())]) > _LARGEST_EDGE:
        raise _refused(path, f"resizes to {edge or to} pixels: at most {_LARGEST_EDGE:,} are supported")
    crop = _sides(processor.crop_size or processor.size) if processor.do_center_crop else None
    final, taken = crop or to, (vision.image_size, vision.image_size)
    if final != taken:
        raise _refused(
            path,
            f"makes images of {final or 'any size'}, but the vision tower takes {taken} (height, width)",
        )
    return {"resize_shortest_edge": edge, "resize_to": to, "crop_to": crop, "size": final}


def _varied(processor: Any, path: Path, vision: VisionConfig) -> dict[str, Any]:
    """Where images keep their aspect, within what the tower has positions for."""
    if not processor.do_resize:
        raise _refused(path, "has do_resize false: images could be larger than the vision tower takes")
    if processor.do_center_crop:
        raise _refused(path, "has do_center_crop: it is not supported for Pixtral")
    given = _given(processor.size)
    edge = given.get("longest_edge") or given.get("height")
    if set(given) - {"longest_edge"} and not (given.keys() == {"height", "width"} and given["width"] == edge):
        raise _refused(path, f"resizes to {given}: supported for Pixtral is longest_edge")
    patch = vision.patch_size
    if not edge or -(-edge // patch) > vision.image_size // patch:
        raise _refused(
            path, f"makes images of {edge} pixels, but the vision tower takes {vision.image_size} at most"
        )
    return {
        "resize_shortest_edge": None,
        "resize_to": None,
        "resize_longest_edge": edge,
        "multiple_of": patch,
        "crop_to": None,
        "size": None,
    }


def _values(processor: Any, path: Path) -> dict[str, Any]:
    """What happens to single pixels, and the filter between them."""
    mean = _channels(processor.image_mean) if processor.do_normalize else None
    std = _channels(processor.image_std) if processor.do_normalize else None
    factor = float(processor.rescale_factor) if processor.do_rescale else None
    for key, values in (("image_mean", mean), ("image_std", std), ("rescale_factor", factor and (factor,))):
        if values and not all(abs(value) <= _LARGEST_VALUE for value in values):  # NaN is not
            raise _refused(path, f"has {key} {list(values)}: expected numbers of at most {_LARGEST_VALUE:,}")
    if std is not None and any(abs(value) < 1 / _LARGEST_VALUE for value in std):
        raise _refused(path, f"has image_std {list(std)}: images would be divided by zero")
    return {
        "convert_rgb": bool(processor.do_convert_rgb),
        "resample": _BILINEAR if processor.resample is None else _filter(processor.resample),
        "rescale_factor": factor,
        "mean": mean,
        "std": std,
    }


def _filter(resample: Any) -> int:
    """PIL's number, which is an enumeration's as a rule. Raises ValueError."""
    if not isinstance(resample, int):
        raise ValueError(f"resample is {resample!r}, expected a number of PIL's filters")
    return int(resample)


def _resized(size: Any, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """(shortest edge, None) or (None, (height, width)), in pixels."""
    given = _given(size)
    if given.keys() == {"shortest_edge"}:
        return given["shortest_edge"], None
    if given.keys() == {"height", "width"}:
        return None, _sides(size)
    raise _refused(path, f"resizes to {given}: supported are shortest_edge, or height and width")


def _given(size: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(size).items() if value is not None}


def _sides(size: Any) -> tuple[int, int]:
    return size.height, size.width


def _channels(value: Any) -> tuple[float, ...]:
    """One value for each channel; a single one is for all."""
    values = (value,) * 3 if isinstance(value, int | float) else value
    return tuple(float(channel) for channel in values)


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"the image processor in {path} {reason}")
