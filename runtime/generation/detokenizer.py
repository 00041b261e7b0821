"""Token ids become text piece by piece, as they are generated.

The pieces joined are `decode` of all ids, and no piece ends inside a character: its bytes are held back until the last
one is there. Only a window of the latest tokens is decoded, so a token costs the same at any position:

    ids    … a  b  c │ d  e  f          text of the window, minus what of it was shown = what is new
             ↑ window  ↑ shown up to here
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol

_WINDOW = 24
"""Tokens after which the window moves on."""

_CONTEXT = 8
"""Tokens that stay: enough to absorb what decoders do to a text's first token, and a character cut at the window's
start."""


class Tokenizer(Protocol):
    """What text asks of a tokenizer; `PromptTokenizer` is one."""

    @property
    def byte_values(self) -> Mapping[int, int]:
        """The byte that a token stands for, of those that stand for one (byte fallback)."""
        ...

    def is_hidden(self, token_id: int) -> bool:
        """Whether it has no text: a special token, or an id without a token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; of bytes, every character of theirs, and � for each that belongs to none."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What stop strings are compared with: a token's text within a text, of special ones their names."""
        ...


class Detokenizer:
    """Collects ids; gives out their text. One for each answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._character = b""  # the bytes of one that is not complete
        self._shown = ""

    def add(self, token_id: int) -> str:
        """Text that this token completes; empty while a character is unfinished."""
        if self._tokenizer.is_hidden(token_id):
            return ""
        self._window.append(token_id)
        byte = self._tokenizer.byte_values.get(token_id)
        self._character = b"" if byte is None else _unfinished(self._character + bytes([byte]))
        if self._character:
            return ""
        piece = self._show(self._stable(self._window))
        if len(self._window) >= _WINDOW:
            self._window = self._window[-_CONTEXT:]
            self._shown = self._stable(self._window)
        return piece

    def finish(self) -> str:
        """What was held back."""
        return self._show(self._tokenizer.decode(self._window))

    def _stable(self, ids: Sequence[int]) -> str:
        """The text without what may yet become another character, where letters stand for bytes (GPT-2, Qwen)."""
        text = self._tokenizer.decode(ids)
        return text[:-1] if text.endswith("\ufffd") and not self._tokenizer.byte_values else text

    def _show(self, text: str) -> str:
        """The part of the window's text that is new; a decoder may take back a space that ends it."""
        piece = text[len(self._shown) :]
        if piece:
            self._shown = text
        return piece


def _unfinished(data: bytes) -> bytes:
    """The end of `data` that may yet become a character."""
    for start in range(len(data)):
        try:
            _, used = codecs.utf_8_decode(data[start:], "strict", False)
        except UnicodeDecodeError:
            continue
        return data[start + used :]
    return b""
