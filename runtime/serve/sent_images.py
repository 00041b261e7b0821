"""Images in requests: texts that hold them. Nothing is fetched here, and no file is ever looked at.

Enters: a data URI, or base64. Leaves: an encoded image's bytes, whose head was read: format and size are within the
limits, and not one pixel was decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pumice.errors import ImageError
from pumice.images.files import image_size
from pumice.serve.refusals import RefusalError, refusal_of

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_NONE: Mapping[str, bytes] = {}
_SLICE = 4 * 2**18
"""Letters of base64 decoded in one go, for others want to compute as well; a multiple of 4."""


@dataclass(frozen=True, kw_only=True)
class SentImage:
    """An encoded image, and its (height, width) upright."""

    data: bytes
    size: tuple[int, int]


def read_image(text: str, param: str, fetched: Mapping[str, bytes] = _NONE) -> SentImage:
    """The image that a text holds, or that was fetched from where it says; `param` is its place in the request.

    Raises:
        RefusalError: it holds none, or one that is not accepted.
    """
    scheme = _SCHEME.match(text[:64])
    if text in fetched:
        data = fetched[text]
    elif scheme is None:
        data = _decoded(text, param)
    elif scheme[1].lower() == "data":
        data = _of_uri(text, param)
    else:
        raise RefusalError(
            f"addresses are not fetched ({scheme[1]}:…): send the image itself, as data:image/jpeg;base64,…",
            param=param,
            code="invalid_image_url",
        )
    try:
        width, height = image_size(data)
    except ImageError as error:
        refusal = refusal_of(error)
        refusal.param = param
        raise refusal from None
    return SentImage(data=data, size=(height, width))


def _of_uri(text: str, param: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma or not re.fullmatch(r"\s*data:[^,]*;\s*base64\s*", head[:256], re.IGNORECASE):
        raise RefusalError(
            "expected a data URI of the form data:image/jpeg;base64,…",
            param=param,
            code="invalid_image_url",
        )
    return _decoded(unquote_to_bytes(body).decode("ascii", "replace") if "%" in body else body, param)


def _decoded(text: str, param: str) -> bytes:
    """The bytes of base64: with line breaks, with the letters of URLs, or without its padding as well."""
    letters = text if text.isascii() and "\n" not in text and " " not in text else "".join(text.split())
    letters = letters.replace("-", "+").replace("_", "/").rstrip("=")
    letters += "=" * (-len(letters) % 4)
    try:
        return b"".join(
            base64.b64decode(letters[start : start + _SLICE], validate=True)
            for start in range(0, len(letters), _SLICE)
        )
    except (binascii.Error, ValueError):
        raise RefusalError(
            "the image is neither a data URI nor valid base64: send data:image/jpeg;base64,…",
            param=param,
            code="invalid_base64",
        ) from None
