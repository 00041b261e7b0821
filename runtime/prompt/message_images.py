"""Images and videos inside messages, as transformers, OpenAI's API and vLLM write them.

Enters: messages, and the images and videos beside them. Leaves: the same messages with a bare `{"type": "image"}` or
`{"type": "video"}` at the place of each, and all of them in the order of their places.

    {"type": "image", "image" | "url" | "path" | "base64": …}      transformers
    {"type": "image_url", "image_url": {"url": …} | …}             OpenAI
    {"type": "image"}                                              the next one of those beside the messages

Videos likewise: `video`, and `video_url`. A part of a video may have `num_frames` or `fps` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pumice.errors import PromptError
from pumice.images.addresses import names_file
from pumice.images.videos import Video, is_video
from pumice.prompt.messages import Medium

_SOURCES = ("url", "path", "base64")
_SAMPLING = ("num_frames", "fps")
_TYPES = {kind: medium for medium in Medium for kind in (medium.value, f"{medium.value}_url")}
_DETAILS = ("auto", "low", "high")
"""Of OpenAI's API; a model here has one resolution."""

_Change = Callable[[Mapping[str, Any], str], Any]


def gathered(prompt: Any, given: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """The prompt with bare places, and what they are for: its own, and at bare places what is `given` of their kind.

    Raises:
        PromptError: an image's part has an unknown key, two images, or one that is no image; or some images are inside
            the messages, and the bare places are not as many as those given. Of videos likewise.
    """
    found: list[Any] = []
    apart = {medium: [one for one in given if is_video(one) == (medium is Medium.VIDEO)] for medium in Medium}
    beside = {medium: iter(ones) for medium, ones in apart.items()}
    own, places = dict.fromkeys(Medium, 0), dict.fromkeys(Medium, 0)

    def bare(part: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        medium = _TYPES[part["type"]]
        source = _source(part, where, medium)
        (places if source is None else own)[medium] += 1
        found.append(next(beside[medium], None) if source is None else source)
        return {"type": medium.value}

    plain = _changed(prompt, bare)
    if not any(own.values()):
        return plain, given
    for medium, ones in apart.items():
        if places[medium] != len(ones):
            raise _other_number(medium, own[medium], places[medium], len(ones))
    return plain, found


def _other_number(medium: Medium, own: int, places: int, given: int) -> PromptError:
    name = medium.value
    return PromptError(
        f"the messages have {own} {name if own == 1 else f'{name}s'} of their own and {places} "
        f"{{'type': '{name}'}} without one, but {given} "
        f"{f'{name} was' if given == 1 else f'{name}s were'} given beside them: they must be equal in number"
    )


def in_folder(messages: Any, folder: Path) -> Any:
    """The messages with relative paths of images beginning at `folder`."""

    def moved(part: Mapping[str, Any], _: str) -> Mapping[str, Any]:
        return {
            key: value if key in ("type", "base64", *_SAMPLING) else _moved(value, folder)
            for key, value in part.items()
        }

    return _changed(messages, moved)


def _moved(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(item, folder) if key == "url" else item for key, item in value.items()}
    if isinstance(value, list):  # a video's frames
        return [_moved(item, folder) for item in value]
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
    media = isinstance(part, Mapping) and isinstance(part.get("type"), str) and part["type"] in _TYPES
    return change(part, where) if media else part


def _source(part: Mapping[str, Any], where: str, medium: Medium) -> Any:
    """The image or video of a part; None where it has none of its own."""
    name, by_url = medium.value, part["type"] != medium.value
    known: tuple[str, ...] = (f"{name}_url",) if by_url else (name, *_SOURCES)
    sampling = _SAMPLING if medium is Medium.VIDEO else ()
    given = {key: value for key, value in part.items() if value is not None and key != "type"}
    taken = {key: given.pop(key) for key in sampling if key in given}
    if unknown := [key for key in given if key not in known]:
        raise PromptError(
            f"{where} has {_article(part['type'])} part with the unknown key {unknown[0]!r}; "
            f"expected {', '.join((*known, *sampling))}"
        )
    if len(given) > 1:
        raise PromptError(
            f"{where} has {_article(name)} part with both {' and '.join(given)}; expected one of them"
        )
    found = _of_url(given, where, name) if by_url else _of_key(given, where, name)
    if found is None or medium is Medium.IMAGE or is_video(found):
        if taken:
            raise PromptError(
                f"{where} has a video part with {next(iter(taken))} and no video that it could be for"
            )
        return found
    return Video(found, **taken)


def _of_key(given: Mapping[str, Any], where: str, name: str) -> Any:
    ((key, value),) = given.items() or ((None, None),)
    if key in ("url", "base64") and not isinstance(value, str):
        raise PromptError(
            f"{where} has {_article(name)} part whose {key} is a {type(value).__name__}, expected text"
        )
    if key == "base64" and isinstance(value, str) and not value.lstrip()[:5].lower().startswith("data:"):
        return f"data:{name}/unknown;base64,{value}"
    return value


def _of_url(given: Mapping[str, Any], where: str, name: str) -> str:
    key, known = f"{name}_url", {"image": ("url", "detail"), "video": ("url",)}[name]
    url = given.get(key)
    if isinstance(url, Mapping):
        given = {key: value for key, value in url.items() if value is not None}
        unknown = [key for key in given if key not in known]
        if unknown or given.get("detail", "auto") not in _DETAILS:
            told = f"key {unknown[0]!r}" if unknown else f"detail {given['detail']!r}"
            details = f", and detail of {', '.join(_DETAILS)}" if "detail" in known else ""
            raise PromptError(f"{where} has {_article(key)} with the unknown {told}; expected url{details}")
        url = given.get("url")
    if not isinstance(url, str):
        raise PromptError(
            f"{where} has {_article(key)} of a {type(url).__name__}, expected "
            f"{{'url': 'data:{'image/png' if name == 'image' else 'video/mp4'};base64,…'}}"
        )
    return url


def _article(name: str) -> str:
    return f"{'an' if name.startswith('image') else 'a'} {name}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
