"""Paths as people type them, and as terminals write them when a file is dropped.

Enters: what stands behind `/image`, or a question. Leaves: paths.

    ~/a.png   ./a.png   '/tmp/a b.png'   "/tmp/a b.png"   /tmp/a\\ b.png   file:///tmp/a%20b.png

A name with blanks that nobody quoted is found where such a file exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".heic", ".tif", ".tiff")
)
"""What a dropped file's name ends with to be taken for an image; whether it is one is seen when it is opened."""
LONGEST_LOOKED_AT = 10_000
"""Characters of a question in which dropped files are looked for."""

_MOST_WORDS = 12
"""Of a name that has blanks in it and no quotes around it."""
_ESCAPED = "" if os.name == "nt" else r"|\\."
"""A backslash parts folders on Windows, and quotes the next character elsewhere."""
_WORD = re.compile(rf"""(?:"[^"]*"|'[^']*'{_ESCAPED}|[^ \t\n])+""", re.DOTALL)
"""Only these three part words: macOS has other blanks in the names of its screenshots."""
_PIECE = re.compile(rf""""([^"]*)"|'([^']*)'{_ESCAPED}|[^ \t\n]""", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a text, without its quotes, and where it stands."""

    text: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """A text's words as a shell parts them; a quote that is never closed is a character like any other."""
    return [Word(text=_unquoted(m[0]), start=m.start(), end=m.end()) for m in _WORD.finditer(text)]


def as_path(word: str) -> str:
    """A word as a path: a file URI's, and with the home folder for `~`."""
    if word.lower().startswith("file://"):
        try:
            return unquote(urlsplit(word).path) or word
        except ValueError:  # not a host: file://[
            return word
    return os.path.expanduser(word)  # noqa: PTH111  # a Path would swallow what it thinks is too much: ./, //


def typed_paths(argument: str) -> list[str]:
    """The paths that a person typed, or dropped, behind a command."""
    whole = as_path(argument.strip())
    if is_file(whole):
        return [whole]
    return [path for path, _ in _joined(argument, words(argument), is_file)]


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A question without the images that were dropped into it; `first` says whether it began with one."""

    paths: list[str]
    question: str
    first: bool


def dropped_images(question: str) -> Dropped:
    """Existing images whose paths are words of a question.

    A path before or behind all words is taken out, one among them becomes the file's name.
    """
    if len(question) > LONGEST_LOOKED_AT:
        return Dropped(paths=[], question=question, first=False)
    parted = _joined(question, words(question), is_image_file)
    found = [(path, word) for path, word in parted if is_image_file(path)]
    edges, rest = _edges(question, [word for _, word in found]), question
    for path, word in reversed(found):
        name = "" if word in edges else Path(path).name
        rest = rest[: word.start] + name + rest[word.end :]
    first = bool(found) and not question[: found[0][1].start].strip()
    return Dropped(paths=[path for path, _ in found], question=rest.strip(), first=first)


def looks_like_path(word: str) -> bool:
    """Whether a word that begins with a slash is a path rather than a command."""
    return "/" in word[1:] or Path(word).suffix.lower() in IMAGE_SUFFIXES


def is_file(path: str) -> bool:
    """Whether there is such a thing, of whatever kind but a folder."""
    try:
        return os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112  # never raise
    except ValueError:  # a zero byte, before Python 3.12
        return False


def is_image_file(path: str) -> bool:
    """Whether there is a file of this name, which is an image's."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES and is_file(path)


def _joined(text: str, parted: list[Word], exists: Callable[[str], bool]) -> Iterator[tuple[str, Word]]:
    """Each word's path; words that are one existing file's name together are one."""
    index = 0
    while index < len(parted):
        path, word, index = _longest(text, parted, index, exists)
        yield path, word


def _longest(
    text: str, parted: list[Word], index: int, exists: Callable[[str], bool]
) -> tuple[str, Word, int]:
    first = parted[index]
    for last in range(min(len(parted), index + _MOST_WORDS) - 1, index, -1):
        end = parted[last].end
        path = as_path(text[first.start : end])
        if "\n" not in path and exists(path):
            return path, Word(text=path, start=first.start, end=end), last + 1
    bare = first.text.rstrip("?!.,;:)")
    if (
        exists(as_path(bare))
        and not exists(as_path(first.text))
        and text[first.start : first.end].startswith(bare)
    ):
        first = Word(text=bare, start=first.start, end=first.start + len(bare))
    return as_path(first.text), first, index + 1


def _edges(text: str, found: list[Word]) -> list[Word]:
    """Those of the words found that stand before all others, or behind all others."""
    leading, trailing, begin, end = [], [], 0, len(text)
    for word in found:
        if text[begin : word.start].strip():
            break
        leading.append(word)
        begin = word.end
    for word in reversed(found):
        if text[word.end : end].strip():
            break
        trailing.append(word)
        end = word.start
    return leading + trailing


def _unquoted(word: str) -> str:
    return "".join(_plain(piece) for piece in _PIECE.finditer(word))


def _plain(piece: re.Match[str]) -> str:
    for quoted in piece.groups():
        if quoted is not None:
            return quoted
    escaped = len(piece[0]) == 2 and piece[0][0] == "\\"
    return piece[0][1] if escaped else piece[0]
