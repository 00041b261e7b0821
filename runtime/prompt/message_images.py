"""Images inside messages, as transformers and as OpenAI's API write them.

Enters: messages, and the images beside them. Leaves: the same messages with a bare `{"type": "image"}` at the place of
each image, and all images in the order of their places.

    {"type": "image", "image" | "url" | "path" | "base64": …}      transformers
    {"type": "image_url", "image_url": {"url": …} | …}             OpenAI
    {"type": "image"}                                              the next one of those beside the messages
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pumice.errors import PromptError
from pumice.images.addresses import names_file

_SOURCES = ("image", "url", "path", "base64")
_DETAILS = ("auto", "low", "high")
"""Of OpenAI's API; a model here has one resolution."""

_Change = Callable[[Mapping[str, Any], str], Any]


def gathered(prompt: Any, images: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """The prompt with bare places for its images, and the images: its own, and at bare places those of `images`.

    Raises:
        PromptError: an image's part has an unknown key, two images, or one that is no image; or some images are inside
            the messages, and the bare places are not as many as `images`.
    """
    found: list[Any] = []
    beside, own = iter(images), 0

    def bare(part: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        nonlocal own
        source = _source(part, where)
        own += source is not None
        found.append(next(beside, None) if source is None else source)
        return {"type": "image"}

    plain = _changed(prompt, bare)
    if not own:
        return plain, images
    if (places := len(found) - own) != len(images):
        raise PromptError(
            f"the messages have {own} {'image' if own == 1 else 'images'} of their own and {places} "
            f"{{'type': 'image'}} without one, but {len(images)} "
            f"{'image was' if len(images) == 1 else 'images were'} given beside them: they must be equal in number"
        )
    return plain, found


def in_folder(messages: Any, folder: Path) -> Any:
    """The messages with relative paths of images beginning at `folder`."""

    def moved(part: Mapping[str, Any], _: str) -> Mapping[str, Any]:
        return {
            key: value if key in ("type", "base64") else _moved(value, folder) for key, value in part.items()
        }

    return _changed(messages, moved)


def _moved(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(item, folder) if key == "url" else item for key, item in value.items()}
    return str(folder / value) if isinstance(value, str) and names_file(value, folder) else value


def _changed(prompt: Any, change: _Change) -> Any:
    """The messages with every image's part changed; what is not of this form is left for `as_messages` to refuse."""
    if not _is_list(prompt):
        return prompt
    return [
        {**message, "content": [_part(part, f"message {i}", change) for part in message["content"]]}
        if isinstance(message, Mapping) and _is_list(message.get("content"))
        else message
        for i, message in enumerate(prompt)
    ]


def _part(part: Any, where: str, change: _Change) -> Any:
    images = isinstance(part, Mapping) and part.get("type") in ("image", "image_url")
    return change(part, where) if images else part


def _source(part: Mapping[str, Any], where: str) -> Any:
    """The image of a part; None where it has none of its own."""
    openai = part["type"] == "image_url"
    known = ("image_url",) if openai else _SOURCES
    given = {key: value for key, value in part.items() if value is not None and key != "type"}
    if unknown := [key for key in given if key not in known]:
        raise PromptError(
            f"{where} has {_article(part)} with the unknown key {unknown[0]!r}; expected {', '.join(known)}"
        )
    if len(given) > 1:
        raise PromptError(f"{where} has an image part with both {' and '.join(given)}; expected one of them")
    if openai:
        return _of_url(given, where)
    ((key, value),) = given.items() or ((None, None),)
    if key in ("url", "base64") and not isinstance(value, str):
        raise PromptError(f"{where} has an image part whose {key} is a {type(value).__name__}, expected text")
    if key == "base64" and isinstance(value, str) and not value.lstrip()[:5].lower().startswith("data:"):
        return f"data:image/unknown;base64,{value}"
    return value


def _of_url(given: Mapping[str, Any], where: str) -> str:
    url = given.get("image_url")
    if isinstance(url, Mapping):
        given = {key: value for key, value in url.items() if value is not None}
        unknown = [key for key in given if key not in ("url", "detail")]
        if unknown or given.get("detail", "auto") not in _DETAILS:
            told = f"key {unknown[0]!r}" if unknown else f"detail {given['detail']!r}"
            raise PromptError(
                f"{where} has an image_url with the unknown {told}; expected url, and detail of {', '.join(_DETAILS)}"
            )
        url = given.get("url")
    if not isinstance(url, str):
        raise PromptError(
            f"{where} has an image_url of a {type(url).__name__}, expected {{'url': 'data:image/png;base64,…'}}"
        )
    return url


def _article(part: Mapping[str, Any]) -> str:
    return f"an {part['type']} part"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
