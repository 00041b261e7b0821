"""What a text means that stands for an image or a video: a path, base64, a data URI, or an address that is not fetched.

Enters: text. Leaves: the encoded bytes, or the path of the file. A text that could be both a path and base64 is
a path where there is such a file, as in transformers.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pumice.errors import ImageError, VideoError

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+)://")
_DATA = re.compile(r"\s*data:", re.IGNORECASE)
_DATA_IMAGE = re.compile(r"\s*data:image/[\w.+-]+(\s*;\s*[\w=.-]+)*\s*;\s*base64\s*", re.IGNORECASE)
_DATA_VIDEO = re.compile(r"\s*data:video/([\w.+-]+)(?:\s*;\s*[\w=.-]+)*\s*;\s*base64\s*", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\s-]+")
_SHORTEST = 40
"""Characters; no image's base64 is shorter."""
_NO_PATH = 4096
"""Characters that no path has."""
_BEGINNINGS = ("/9j/", "_9j_", "iVBORw0K", "R0lGOD", "UklGR")
"""Of base64 of JPEG, PNG, GIF and WebP."""
_SHOWN = 120


def image_address(text: str) -> bytes | Path:
    """The bytes that a text holds, or the path that it is.

    Raises:
        ImageError: an address that would have to be fetched, or base64 that is damaged.
    """
    if _DATA.match(text):
        return _data_uri(text)
    if scheme := _SCHEME.match(text):
        raise ImageError(
            f"remote images are not fetched ({scheme[1]}://…): download it and pass a file or its bytes"
        )
    if not text.strip():
        raise ImageError("an image's path is empty")
    if _looks_like_base64(text) and not _is_file(Path(text)):
        return decoded(text, "the image")
    return Path(text)


def video_address(text: str) -> bytes | list[bytes] | Path:
    """The bytes that a text holds, the images that its frames are, or the path that it is.

    Raises:
        VideoError: an address that would have to be fetched, or a data URI that is damaged.
    """
    if _DATA.match(text):
        head, comma, body = text.partition(",")
        found = _DATA_VIDEO.fullmatch(head)
        if not comma or not found:
            raise VideoError("expected a data URI of the form data:video/mp4;base64,…")
        try:
            if found[1].lower() == "jpeg":  # as vLLM has it: frames behind one another
                return [decoded(frame, "a frame of the data URI") for frame in body.split(",")]
            return decoded(body, "the data URI")
        except ImageError as error:
            raise VideoError(str(error)) from None
    if scheme := _SCHEME.match(text):
        raise VideoError(
            f"remote videos are not fetched ({scheme[1]}://…): download it and pass a file or its bytes"
        )
    if not text.strip():
        raise VideoError("a video's path is empty")
    return Path(text)


def names_file(text: str, folder: str | os.PathLike[str] = "") -> bool:
    """Whether a text is taken for the path of a file, relative to `folder`."""
    if _DATA.match(text) or _SCHEME.match(text):
        return False
    return not _looks_like_base64(text) or _is_file(Path(folder, text))


def decoded(text: str, what: str) -> bytes:
    """The bytes of base64, with line breaks, with the letters of URLs, or without its padding as well.

    Raises:
        ImageError: it is not base64; `what` is not valid then.
    """
    letters = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(f"{what} is not valid base64") from None


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: quoted, and not longer than a line."""
    text = os.fspath(path)
    return repr(text) if len(text) <= _SHOWN else f"{text[: _SHOWN - 40]!r}…{text[-30:]!r}"


def _is_file(path: Path) -> bool:
    """Whether there is such a file; what is too long for a path, or none for another reason, is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _looks_like_base64(text: str) -> bool:
    return (
        len(text) >= _SHORTEST
        and (len(text) >= _NO_PATH or text.lstrip().startswith(_BEGINNINGS))
        and _BASE64.fullmatch(text) is not None
    )


def _data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not _DATA_IMAGE.fullmatch(head):
        raise ImageError("expected a data URI of the form data:image/png;base64,…")
    if "%" in body:
        body = unquote_to_bytes(body).decode("ascii", "replace")
    return decoded(body, "the data URI")
