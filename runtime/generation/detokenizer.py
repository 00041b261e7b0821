"""Token ids become text piece by piece, as they are generated.

The pieces joined are `decode` of all ids, and no piece ends inside a character: a final replacement character is held
back (bytes that may yet become a character), and so is a run of byte-fallback tokens (a decoder judges such a run as a
whole). Only a window of the latest tokens is decoded, so a token costs the same at any position:

    ids    … a  b  c │ d  e  f          text of the window, minus what of it was shown = what is new
             ↑ window  ↑ shown up to here
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

_WINDOW = 24
"""Tokens after which the window moves on."""

_CONTEXT = 8
"""Tokens that stay: enough to absorb what decoders do to a text's first token, and a character cut at the window's
start."""


class Detokenizer:
    """Collects ids; gives out their text. One for each answer.

    `decode` turns ids into text without special tokens; `held_ids` are tokens that show no text of their own until
    another follows: single bytes (byte fallback), and special tokens, across which bytes may join.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], held_ids: Collection[int]) -> None:
        self._decode = decode
        self._held_ids = held_ids
        self._window: list[int] = []
        self._shown = ""

    def add(self, token_id: int) -> str:
        """Text that this token completes; empty while a character is unfinished."""
        self._window.append(token_id)
        if token_id in self._held_ids:
            return ""
        piece = self._show(self._stable(self._window))
        if len(self._window) >= _WINDOW:
            self._move_on()
        return piece

    def finish(self) -> str:
        """What was held back."""
        return self._show(self._decode(self._window))

    def _move_on(self) -> None:
        """Forget early tokens, up to one that begins nothing unfinished."""
        start = len(self._window) - _CONTEXT
        while start > 0 and self._window[start] in self._held_ids:
            start -= 1
        self._window = self._window[start:]
        self._shown = self._stable(self._window)

    def _stable(self, ids: Sequence[int]) -> str:
        text = self._decode(ids)
        return text[:-1] if text.endswith("\ufffd") else text

    def _show(self, text: str) -> str:
        """The part of the window's text that is new; a decoder may take back a space that ends it."""
        piece = text[len(self._shown) :]
        if piece:
            self._shown = text
        return piece
