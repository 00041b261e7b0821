"""What one input asks of the engine.

Enters: the fields of a record, and what holds for records that do not say otherwise. Leaves: a `BatchItem`; or a typed
error, which becomes the record's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pumice.errors import UsageError
from pumice.generation.options import NAMES
from pumice.images.addresses import names_file
from pumice.images.videos import Video
from pumice.prompt.message_images import in_folder

_OPTIONS = frozenset(NAMES)
_FIELDS = frozenset({"id", "prompt", "messages", "image", "images", "video", "videos", "num_frames", "raw"})
_CONSTRAINTS = ("json_schema", "regex")
"""At most one of them holds, so a record that names one names both."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds for records that do not say otherwise; `folder` is where their relative paths begin."""

    prompt: str | None = None
    raw: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """Arguments of `Engine.submit` for input number `index`."""

    index: int
    id: str
    prompt: Any
    images: tuple[Any, ...]
    """And videos behind them."""
    raw: bool
    options: Mapping[str, Any]
    where: str | None = None
    """Where its errors say that it stands."""


def make_item(
    index: int, record_id: str, fields: Mapping[str, Any], defaults: Defaults, where: str | None = None
) -> BatchItem:
    """Read a record's fields; those that are None count as left out.

    Raises:
        UsageError: an unknown field, one of a wrong type, or fields that contradict each other.
    """
    if unknown := sorted(map(str, set(fields) - _FIELDS - _OPTIONS)):
        raise UsageError(
            f"the record has the unknown field {unknown[0]!r}; "
            "expected id, prompt or messages, image or images, video or videos, num_frames, raw, and options of "
            "generate"
        )
    raw = defaults.raw if fields.get("raw") is None else fields["raw"]
    if not isinstance(raw, bool):
        raise UsageError(f"the record's raw is of type {type(raw).__name__}, expected true or false")
    return BatchItem(
        index=index,
        id=record_id,
        prompt=_prompt(fields, defaults),
        images=(*_media(fields, "image", defaults.folder), *_videos(fields, defaults.folder)),
        raw=raw,
        options=_options(fields, defaults, record_id),
        where=where,
    )


def record_id(fields: Mapping[str, Any], default: str) -> str:
    """A record's id, as text.

    Raises:
        UsageError: it is neither text nor a whole number.
    """
    given = fields.get("id")
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise UsageError(
            f"the record's id is of type {type(given).__name__}, expected text or a whole number"
        )
    if isinstance(given, int) and abs(given) >= 2**63:
        raise UsageError("the record's id is a number of more than 64 bits, expected text or a smaller one")
    return str(given)


def seed_of(seed: int, record_id: str) -> int:
    """A record's own seed of the batch's: the same wherever the record stands, and on whichever machine."""
    digest = hashlib.blake2b(f"{seed}:{record_id}".encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _prompt(fields: Mapping[str, Any], defaults: Defaults) -> Any:
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if prompt is not None and messages is not None:
        raise UsageError("the record has both prompt and messages; expected one of them")
    if messages is not None:
        if not isinstance(messages, (list, tuple)):
            raise UsageError(f"the record's messages are of type {type(messages).__name__}, expected a list")
        return messages if defaults.folder is None else in_folder(messages, defaults.folder)
    if prompt is None:
        prompt = defaults.prompt
    if prompt is None:
        raise UsageError(
            "the record has neither prompt nor messages: add one, or give a prompt for all (--prompt)"
        )
    if not isinstance(prompt, str):
        raise UsageError(f"the record's prompt is of type {type(prompt).__name__}, expected text")
    return prompt


def _media(fields: Mapping[str, Any], one: str, folder: Path | None) -> tuple[Any, ...]:
    """A record's images, or its videos."""
    alone, several = fields.get(one), fields.get(f"{one}s")
    if alone is not None and several is not None:
        raise UsageError(f"the record has both {one} and {one}s; expected one of them")
    if alone is not None:
        several = [alone]
    if several is None:
        return ()
    if not isinstance(several, (list, tuple)):
        raise UsageError(f"the record's {one}s are of type {type(several).__name__}, expected a list")
    return tuple(_placed(item, folder) for item in several)


def _videos(fields: Mapping[str, Any], folder: Path | None) -> list[Video]:
    frames = fields.get("num_frames")
    videos = [Video(video, num_frames=frames) for video in _media(fields, "video", folder)]
    if frames is not None and not videos:
        raise UsageError("the record has num_frames and no video")
    return videos


def _placed(image: Any, folder: Path | None) -> Any:
    """A path is made to begin at `folder`, and those of a video's frames; all else is as it was."""
    if isinstance(image, (list, tuple)):
        return [_placed(frame, folder) for frame in image]
    if folder is None or not isinstance(image, str) or not names_file(image, folder):
        return image
    return str(folder / image)


def _options(fields: Mapping[str, Any], defaults: Defaults, record_id: str) -> dict[str, Any]:
    given = {name: fields[name] for name in fields if name in _OPTIONS}
    options = dict(defaults.options)
    if any(name in given for name in _CONSTRAINTS):
        options |= dict.fromkeys(_CONSTRAINTS)
    if isinstance(seed := options.get("seed"), int) and 0 <= seed < 2**64:  # others are refused as they are
        options["seed"] = seed_of(seed, record_id)
    options |= given
    return {name: value for name, value in options.items() if value is not None}
