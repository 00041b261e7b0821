"""Which layout a model's images have, and the manifest's fields that say so.

Enters: a model's config and its processor. Leaves: the fields of `image` and `image_tokens` in which layouts differ;
what happens to single pixels, and the placeholder, are alike in all. A new layout is one `LayoutSource` more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pumice.errors import CheckpointError
from pumice.models.config import LlavaConfig

_LARGEST_EDGE = 1 << 14
"""Pixels; an image resized to more would fill the memory before it is cropped."""


@dataclass(frozen=True, kw_only=True)
class LayoutSource:
    """Where a layout's fields come from.

    `processors` are transformers' image processors that make such images; `steps` gives fields of `ImageProcessing`,
    of an image processor, and `tokens` of `ImageTokens`, of a whole one. Both raise CheckpointError.
    """

    processors: tuple[str, ...]
    steps: Callable[[Any, Path, LlavaConfig], dict[str, Any]]
    tokens: Callable[[Any, Path, LlavaConfig], dict[str, Any]]


def layout_source(config: LlavaConfig) -> LayoutSource:
    """That of a model's images."""
    if config.image_grid_pinpoints is None:
        return _SOURCES[config.vision.tower]
    return _TILES if config.anyres_max is None else _TILES_OR_SQUARES


def _fixed_steps(processor: Any, path: Path, config: LlavaConfig) -> dict[str, Any]:
    """Where every image ends in the size that the tower takes."""
    if processor.do_pad:
        raise refused(path, "has do_pad: padding images is not supported yet")
    edge, to = _resized(processor.size, path) if processor.do_resize else (None, None)
    crop = _sides(processor.crop_size or processor.size) if processor.do_center_crop else None
    for does, sides in (("resizes", to or (edge or 0,)), ("crops", crop or (0,))):
        if max(sides) > _LARGEST_EDGE:
            raise refused(path, f"{does} to {max(sides):,} pixels: at most {_LARGEST_EDGE:,} are supported")
    final, taken = crop or to, (config.vision.image_size, config.vision.image_size)
    if final != taken:
        raise refused(
            path,
            f"makes images of {final or 'any size'}, but the vision tower takes {taken} (height, width)",
        )
    return {"resize_shortest_edge": edge, "resize_to": to, "crop_to": crop, "size": final}


def _fixed_tokens(_processor: Any, _path: Path, config: LlavaConfig) -> dict[str, Any]:
    return {"per_image": config.tokens_per_image}


def _rows_steps(processor: Any, path: Path, config: LlavaConfig) -> dict[str, Any]:
    """Where images keep their aspect, within what the tower has positions for."""
    if not processor.do_resize:
        raise refused(path, "has do_resize false: images could be larger than the vision tower takes")
    if processor.do_center_crop:
        raise refused(path, "has do_center_crop: it is not supported for Pixtral")
    given = _given(processor.size)
    edge = given.get("longest_edge") or given.get("height")
    if set(given) - {"longest_edge"} and not (given.keys() == {"height", "width"} and given["width"] == edge):
        raise refused(path, f"resizes to {given}: supported for Pixtral is longest_edge")
    vision, side = config.vision, config.token_side
    patches = (-(-edge // side) * side if edge else 0) // vision.patch_size
    if not edge or patches > vision.image_size // vision.patch_size:
        raise refused(
            path, f"makes images of {edge} pixels, but the vision tower takes {vision.image_size} at most"
        )
    return {
        "resize_shortest_edge": None,
        "resize_to": None,
        "resize_longest_edge": edge,
        "multiple_of": side,
        "crop_to": None,
        "size": None,
    }


def _rows_tokens(processor: Any, path: Path, config: LlavaConfig) -> dict[str, Any]:
    """Patches in rows, or squares of them that are merged, as processor and model agree upon."""
    vocabulary = processor.tokenizer.get_vocab()
    patch, merge, side = processor.patch_size, processor.spatial_merge_size, config.token_side
    if patch != config.vision.patch_size or merge != (config.merge or 1):
        raise CheckpointError(
            f"{path}: the processor has patch_size {patch!r} and spatial_merge_size {merge!r}, but the vision tower "
            f"makes a token of {side} × {side} pixels"
        )
    between = {"break": processor.image_break_token, "end": processor.image_end_token}
    for text in between.values():
        if not isinstance(text, str) or text not in vocabulary:
            raise CheckpointError(
                f"{path}: the tokenizer lacks {text!r}, which the processor writes between patches"
            )
    return {
        "per_image": None,
        "patch_size": side,
        **({"merge_size": merge} if merge > 1 else {}),
        "break_token": between["break"],
        "break_token_id": vocabulary[between["break"]],
        "end_token": between["end"],
        "end_token_id": vocabulary[between["end"]],
    }


def _tiles_steps(processor: Any, path: Path, config: LlavaConfig) -> dict[str, Any]:
    """Where images are fitted into one of several sizes and cut, each tile as the tower takes it."""
    tile = (config.vision.image_size, config.vision.image_size)
    edge, to = _resized(processor.size, path)
    crop = _sides(processor.crop_size) if processor.crop_size else to or (edge, edge)
    if (to or (edge, edge)) != tile or crop != tile:
        raise refused(
            path,
            f"makes tiles of {crop} and a whole image of {to or (edge, edge)}, but the vision tower takes {tile}",
        )
    if not processor.do_pad:
        raise refused(path, "has do_pad false: several images of different sizes could not be given")
    pinpoints = tuple(tuple(pair) for pair in processor.image_grid_pinpoints)
    if pinpoints != config.image_grid_pinpoints:
        raise refused(
            path,
            f"has image_grid_pinpoints {list(pinpoints)}, "
            f"but config.json has {list(config.image_grid_pinpoints or ())}",
        )
    steps = {"resize_shortest_edge": None, "resize_to": tile, "crop_to": None, "size": tile}
    return {**steps, "tiles": {"pinpoints": config.pinpoints}}


def _tiles_or_squares_steps(processor: Any, path: Path, config: LlavaConfig) -> dict[str, Any]:
    """As `_tiles_steps` for an image that is alone in its prompt; beside others it is padded to a square."""
    steps = _tiles_steps(processor, path, config)
    if not processor.do_resize:
        raise refused(path, "has do_resize false: several images could not be given")
    mean = processor.image_mean
    fill = [int(channel * 255) for channel in mean] if isinstance(mean, list | tuple) else []
    if len(fill) != 3 or not all(0 <= level <= 255 for level in fill):
        raise refused(
            path, f"has image_mean {mean}: expected three numbers from 0 to 1, the colour of borders"
        )
    tiles = {**steps["tiles"], "shrink_to": config.anyres_max, "square_fill": tuple(fill)}
    return {**steps, "tiles": tiles}


def _resized(size: Any, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """(shortest edge, None) or (None, (height, width)), in pixels."""
    given = _given(size)
    if given.keys() == {"shortest_edge"}:
        return given["shortest_edge"], None
    if given.keys() == {"height", "width"}:
        return None, _sides(size)
    raise refused(path, f"resizes to {given}: supported are shortest_edge, or height and width")


def _given(size: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(size).items() if value is not None}


def _sides(size: Any) -> tuple[int, int]:
    return size.height, size.width


def refused(path: Path, reason: str) -> CheckpointError:
    """The error for an image processor's settings that cannot be had."""
    return CheckpointError(f"the image processor in {path} {reason}")


_FIXED = LayoutSource(
    processors=("CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor", "SiglipImageProcessor"),
    steps=_fixed_steps,
    tokens=_fixed_tokens,
)
_ROWS = LayoutSource(processors=("PixtralImageProcessor",), steps=_rows_steps, tokens=_rows_tokens)
_TILES = LayoutSource(processors=("LlavaNextImageProcessor",), steps=_tiles_steps, tokens=_fixed_tokens)
_TILES_OR_SQUARES = LayoutSource(
    processors=("LlavaOnevisionImageProcessor",), steps=_tiles_or_squares_steps, tokens=_fixed_tokens
)
_SOURCES = {"clip": _FIXED, "siglip": _FIXED, "pixtral": _ROWS}
"""By vision tower, where images are not cut into tiles."""
