"""Blanks in constrained JSON stand where printers put them: behind `[ { , :` and before `] }`, nowhere else.

Enters: the tokens that JSON's grammar allows next, which may have blanks between any two parts. Leaves: those of them
that keep to this and can still be completed.

llguidance has one pattern for the blanks of all places, so the text is followed here, byte by byte:

    state     is entered by                   may go on with
    OPEN      [ { , : and blanks behind them  anything
    STRING    a quote                         anything; ESCAPE is the byte behind a backslash
    VALUE     anything else                   anything; a blank makes it CLOSING
    CLOSING   blanks behind a value or a key  blanks and ] }, so the grammar has to allow one of them where they begin
    WRONG     something else behind CLOSING   nothing
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_OPEN, _STRING, _ESCAPE, _VALUE, _CLOSING, _WRONG = range(6)
_BLANKS, _OPENERS, _CLOSERS = b" \n\t", b"[{,:", b"]}"


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """What tokens do in one state; V is the tokenizer's vocabulary."""

    after: NDArray[np.uint8]
    """The state behind each, shape = (V,)."""
    right: NDArray[np.bool_]
    """Whether that is not WRONG, shape = (V,)."""
    blank: NDArray[np.intp]
    """Those of nothing but blanks that lead to CLOSING."""
    ending: NDArray[np.intp]
    """The others that lead to CLOSING: they end a value, and blanks follow."""


class BlankTable:
    """What each token of a vocabulary does in each state, from the tokens' bytes. Can be shared by threads."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        blank_V = np.array([bool(text) and not text.strip(_BLANKS) for text in texts], np.bool_)
        self.states = [_tokens(after_V, blank_V) for after_V in _states_behind(texts)]
        self.closers = [i for i, text in enumerate(texts) if len(text) == 1 and text in _CLOSERS]


class BlankFollower:
    """Follows one text. `count_valid` says how many of some tokens the grammar allows one after another from here."""

    def __init__(self, table: BlankTable, count_valid: Callable[[list[int]], int]) -> None:
        self._table, self._count_valid = table, count_valid
        self._state = _OPEN  # nothing to stand behind; the grammar itself has no blanks before its first part

    def restrict(self, allowed_V: NDArray[np.bool_]) -> None:
        """Take away tokens that put blanks where none belong, in place; what pads the vocabulary is left alone."""
        tokens = self._tokens
        size = min(len(allowed_V), len(tokens.right))
        allowed_V[:size] &= tokens.right[:size]
        blank = tokens.blank[tokens.blank < size]
        if allowed_V[blank].any() and not self._may_be_blank():
            allowed_V[blank] = False
        ending = tokens.ending[tokens.ending < size]
        for token in ending[allowed_V[ending]].tolist():
            allowed_V[token] = self._may_close(token)

    def accept(self, token: int) -> bool:
        """Go on behind a token that the grammar allows; False if it puts blanks where none belong."""
        tokens = self._tokens
        state = int(tokens.after[token])
        if state == _CLOSING:
            allowed = self._may_close(token) if token in tokens.ending else self._may_be_blank()
        else:
            allowed = state != _WRONG
        if allowed:
            self._state = state
        return allowed

    @property
    def _tokens(self) -> _Tokens:
        return self._table.states[self._state]

    def _may_be_blank(self) -> bool:
        return self._state == _CLOSING or self._may_close()

    def _may_close(self, *tokens: int) -> bool:
        """Whether a closing bracket may follow these tokens."""
        return any(self._count_valid([*tokens, closer]) == len(tokens) + 1 for closer in self._table.closers)


def _tokens(after_V: NDArray[np.uint8], blank_V: NDArray[np.bool_]) -> _Tokens:
    closing_V = after_V == _CLOSING
    return _Tokens(
        after=after_V,
        right=after_V != _WRONG,
        blank=np.flatnonzero(closing_V & blank_V),
        ending=np.flatnonzero(closing_V & ~blank_V),
    )


def _states_behind(texts: Sequence[bytes]) -> NDArray[np.uint8]:
    """For each state but WRONG, the states behind texts that begin in it, shape = (5, V)."""
    next_SC = _transitions()
    lengths_V = np.array([len(text) for text in texts])
    bytes_N = np.frombuffer(b"".join(texts), np.uint8)
    starts_V = lengths_V.cumsum() - lengths_V
    states_SV = np.repeat(np.arange(_WRONG, dtype=np.uint8)[:, None], len(texts), axis=1)
    for position in range(max(lengths_V, default=0)):
        longer = np.flatnonzero(lengths_V > position)
        states_SV[:, longer] = next_SC[states_SV[:, longer], bytes_N[starts_V[longer] + position]]
    return states_SV


def _transitions() -> NDArray[np.uint8]:
    """The state behind a byte, shape = (6, 256)."""
    next_SC = np.full((_WRONG + 1, 256), _VALUE, np.uint8)
    next_SC[:, ord('"')] = _STRING
    next_SC[:, list(_OPENERS)] = _OPEN
    next_SC[:, list(_BLANKS)] = _CLOSING
    next_SC[_OPEN, list(_BLANKS)] = _OPEN
    next_SC[_STRING] = next_SC[_ESCAPE] = _STRING
    next_SC[_STRING, ord('"')], next_SC[_STRING, ord("\\")] = _VALUE, _ESCAPE
    next_SC[_CLOSING] = next_SC[_WRONG] = _WRONG
    next_SC[_CLOSING, list(_BLANKS)], next_SC[_CLOSING, list(_CLOSERS)] = _CLOSING, _VALUE
    return next_SC
