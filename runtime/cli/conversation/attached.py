"""Images of a conversation: looked at when they are added.

Enters: a path, or a data URI. Leaves: an `AttachedImage`, decoded, checked and prepared, with its file's bytes, so that
what happens to the file afterwards changes nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from pumice.errors import ImageError
from pumice.images.files import MAX_BYTES
from pumice.images.prepared import PromptImage
from pumice.prompt.builder import PromptBuilder

_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


@dataclass(frozen=True, kw_only=True, eq=False)
class AttachedImage:
    """An image: what the person calls it, its file's bytes, and as the model takes it."""

    name: str
    data: bytes
    prepared: PromptImage

    @property
    def described(self) -> str:
        """Its name, and what it costs."""
        return f"{shown(self.name)} ({self.prepared.tokens:,} tokens)"

    @property
    def data_uri(self) -> str:
        """The file in a text; decoders look at the bytes and not at what is said of them."""
        kind = next((kind for head, kind in _KINDS if self.data.startswith(head)), "png")
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


def attached(path: str, builder: PromptBuilder) -> AttachedImage:
    """The image of a file.

    Raises:
        ImageError: it cannot be read, or used.
    """
    (prepared,) = builder.images([path])
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(f"the image {path!r} cannot be opened: {error.strerror}") from None
    return AttachedImage(name=Path(path).name, data=data, prepared=prepared)


def embedded(uri: str, name: str, builder: PromptBuilder) -> AttachedImage:
    """The image of a data URI. Raises as `attached`."""
    (prepared,) = builder.images([uri])
    data = base64.b64decode(uri.partition(",")[2])
    return AttachedImage(name=name, data=data, prepared=prepared)


def shown(text: str) -> str:
    """A name as a terminal may show it: nothing in it steers the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
