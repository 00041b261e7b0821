"""Plain text files become windows of token ids, on which a bundle is scored beside its checkpoint.

Enters: UTF-8 files, and a bundle's tokenizer. Leaves: `Windows`, which both models read alike:

    text ─tokenizer─▶ a b c d e f g h …      no special token comes of the text's words
    windows           [BOS a b c d] [BOS e f g h] …      each is read anew
    scored                   c d           g h           the first tokens of each are context only
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pumice import TextTokenizer
from pumice.errors import UsageError
from pumice.manifest.regular_file import named

WINDOW, LIMIT = 1024, 8192
"""Tokens of a window, and of a file, unless others are asked for."""
LEAST_WINDOW = 16
CONTEXT = 64
"""Tokens at the beginning of a window that are not scored; a quarter of a window of less than 256."""

_TOKEN_CHARACTERS = 32
"""Of a file, at most so many characters are read for each token that is wanted."""


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text file's beginning: as much of it as its tokens can come from."""

    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A text's windows, each int64 [T], of whose T − `context` tokens at the end each is scored."""

    name: str
    windows: tuple[NDArray[np.int64], ...]
    context: int


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts to score by: at most `limit` tokens of each, at most `window` tokens at a time."""

    files: tuple[TextFile, ...]
    window: int = WINDOW
    limit: int = LIMIT

    def windows(self, tokenizer: TextTokenizer, context_length: int) -> list[Windows]:
        """Each text in windows that a model of that context takes.

        Raises:
            UsageError: a text of which no token would be scored.
        """
        window = min(self.window, context_length)
        return [
            cut(file.name, tokenizer.encode(file.content)[: self.limit], tokenizer.start, window)
            for file in self.files
        ]


def read_texts(paths: Sequence[Path], *, window: int = WINDOW, limit: int = LIMIT) -> Texts:
    """The beginnings of text files.

    Raises:
        UsageError: a file that cannot be read or is not UTF-8 text; a window or limit that is too small.
    """
    for name, value in (("window", window), ("limit", limit)):
        if value < LEAST_WINDOW:
            raise UsageError(f"the text {name} is {value} tokens, expected {LEAST_WINDOW} or more")
    paths = [named(path) for path in paths]
    names = [path.name for path in paths]
    files = [
        TextFile(
            name=name if names.count(name) == 1 else str(path), content=_read(path, _TOKEN_CHARACTERS * limit)
        )
        for name, path in zip(names, paths, strict=True)
    ]
    return Texts(files=tuple(files), window=window, limit=limit)


def _read(path: Path, characters: int) -> str:
    """Line ends stay as they are; a byte order mark does not."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path} is a pipe or a device: expected a text file")
        with path.open(encoding="utf-8-sig", newline="") as file:
            content = file.read(characters)
    except OSError as error:
        raise UsageError(f"cannot read the text {path}: {error.strerror}") from None
    except UsageError:
        raise
    except ValueError:  # among them UnicodeDecodeError, and a path with a zero byte
        raise UsageError(f"{path} is not a text: expected UTF-8") from None
    if "\0" in content:
        raise UsageError(f"{path} is not a text: it has zero bytes")
    return content


def cut(name: str, words: Sequence[int], start: Sequence[int], window: int) -> Windows:
    """Windows of at most `window` tokens, `start` at the beginning of each; a rest with nothing to score is left out.

    Raises:
        UsageError: nothing is left.
    """
    context = min(CONTEXT, window // 4)
    step = window - len(start)
    parts = [np.array([*start, *words[at : at + step]], np.int64) for at in range(0, len(words), step)]
    scored = tuple(part for part in parts if len(part) > context)
    if not scored:
        raise UsageError(
            f"the text {name} has {len(words)} tokens: nothing to score behind the first {context}, which are context"
        )
    return Windows(name=name, windows=scored, context=context)
