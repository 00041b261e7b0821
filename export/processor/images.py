"""transformers' image processors as the manifest's steps: CLIP's, SigLIP's, LLaVA's of all kinds and Pixtral's.

Enters: an image processor with a checkpoint's settings, and the model's config. Leaves: `ImageProcessing`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pumice.errors import CheckpointError
from pumice.export.processor.layout import layout_source, refused
from pumice.export.processor.load import image_processor_settings
from pumice.manifest import ImageProcessing
from pumice.models.config import LlavaConfig

_HARMLESS = {
    "_name_or_path",
    "_processor_class",
    "_valid_processor_keys",
    "aspect_ratio_setting",
    "chat_template",
    "feature_extractor_type",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "image_processor_type",
    "image_token",
    "name_or_path",
    "num_additional_image_tokens",
    "num_image_tokens",
    "patch_size",
    "processor_class",
    "spatial_merge_size",
    "tokenizer_class",
    "transformers_version",
    "video_token",
    "vision_aspect_ratio",
    "vision_feature_select_strategy",
}
"""Names of classes and versions, what the whole processor reads from its own file and from the model's config, and what
the original LLaVA's trainer leaves: transformers' image processors for the supported towers read none of them, but
Pixtral's the size of its patches, which its own fields have."""
_OFF = (
    "do_align_long_axis",
    "do_flip_channel_order",
    "do_image_splitting",
    "do_pan_and_scan",
    "do_reduce_labels",
    "do_thumbnail",
)
"""Steps of other image processors: no step where they are false."""
_LARGEST_VALUE = 1_000_000
"""Of means, deviations and factors: pixels are 0 … 255 before them, and float32 has to hold what squares them after."""
_SHOWN = 12
"""Of unknown settings, in one message."""
_BILINEAR = 2
"""What transformers resizes with where `resample` is null."""


def describe_image_processor(processor: Any, path: Path, config: LlavaConfig) -> ImageProcessing:
    """The steps of a processor loaded from the checkpoint in `path`.

    Raises:
        CheckpointError: another processor than those above, a setting that is not supported, or images that the
            vision tower does not take.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    layout = layout_source(config)
    supported = layout.processors
    if name not in supported:
        raise CheckpointError(
            f"{path} has the image processor {name}: supported for this model "
            f"{'is' if len(supported) == 1 else 'are'} {', '.join(supported)}"
        )
    _refuse_unknown(processor, path)
    try:
        values = _values(processor, path)
        steps = layout.steps(processor, path, config)
        return msgspec.convert({**steps, **values}, ImageProcessing)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the image processor in {path} has settings that make no sense: {reason}"
        ) from None


def _refuse_unknown(processor: Any, path: Path) -> None:
    known = set(processor.valid_kwargs.__annotations__) | _HARMLESS
    settings = image_processor_settings(path)
    unknown = [
        f"{json.dumps(value)[:60]} for {key[:80]}"
        for key, value in sorted(settings.items())
        if key not in known and value is not None and not (key in _OFF and value is False)
    ]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        said = "".join(c if c.isprintable() else " " for c in ", ".join(unknown[:_SHOWN]) + more)
        raise refused(
            path, f"has settings that are not known: {said}; remove what changes nothing about an image"
        )


def _values(processor: Any, path: Path) -> dict[str, Any]:
    """What happens to single pixels, and the filter between them."""
    mean = _channels(processor.image_mean) if processor.do_normalize else None
    std = _channels(processor.image_std) if processor.do_normalize else None
    factor = float(processor.rescale_factor) if processor.do_rescale else None
    for key, values in (("image_mean", mean), ("image_std", std), ("rescale_factor", factor and (factor,))):
        if values and not all(abs(value) <= _LARGEST_VALUE for value in values):  # NaN is not
            raise refused(path, f"has {key} {list(values)}: expected numbers of at most {_LARGEST_VALUE:,}")
    if std is not None and any(abs(value) < 1 / _LARGEST_VALUE for value in std):
        raise refused(path, f"has image_std {list(std)}: images would be divided by zero")
    return {
        "convert_rgb": True,  # images always become RGB; earlier readers miss the field otherwise
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


def _channels(value: Any) -> tuple[float, ...]:
    """One value for each channel; a single one is for all."""
    values = (value,) * 3 if isinstance(value, int | float) else value
    return tuple(float(channel) for channel in values)
