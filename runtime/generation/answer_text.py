"""The text of one answer as it becomes final: whole characters, up to the first stop string.

Enters: tokens. Leaves: pieces of text that never end inside a character or show a stop string's beginning.

Stop strings are looked for in the tokens' bytes, and tokens that may belong to one wait until it is known whether they
do. The first of them may belong to it in part: it is decoded, and the part is held back.

    stop "d, e"   tokens   "a"  " and"  ","  " b"  " end"  …
                  shown    "a"  " an"   ""   "d, b"  " en"
                                  └ "d" held  └ waits
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pumice.generation.detokenizer import Detokenizer, Tokenizer
from pumice.generation.stop_strings import StopStrings


class AnswerText:
    """Collects an answer's tokens, gives out its text, and tells when a stop string is `found`.

    As in transformers, a stop string may begin in the prompt, and names of special tokens are text that it is compared
    with, though they are never shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, strings: Sequence[str], prompt_ids: Sequence[int] | NDArray[np.int64]
    ) -> None:
        self._tokenizer, self._detokenizer = tokenizer, Detokenizer(tokenizer)
        self._stops = StopStrings(strings) if strings else None
        if self._stops is not None:
            longest = max(len(string.encode()) for string in strings)
            self._stops.begin(last_bytes(tokenizer, prompt_ids, longest - 1))
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._place = 0  # bytes of the tokens that were decoded
        self._last = b""  # the last of these
        self._held = ""  # its text that was not given out

    @property
    def found(self) -> bool:
        """Whether a stop string was found: nothing comes after it."""
        return self._stops is not None and self._stops.found

    def add(self, token_id: int) -> str:
        """Text that may be shown now that this token has come."""
        if self._stops is None:
            return self._detokenizer.add(token_id)
        data = self._tokenizer.token_bytes(token_id)
        self._stops.add(data)
        self._waiting.append((token_id, data))
        shown = self._decode_until(self._stops.start)
        return shown + self._cut(self._stops.start) if self._stops.found else shown

    def finish(self) -> str:
        """What was held back, of an answer that ended otherwise; empty if a stop string was found."""
        if self.found:
            return ""
        held, self._held = self._held, ""
        pieces = [self._detokenizer.add(token_id) for token_id, _ in self._waiting]
        self._waiting.clear()
        return "".join([held, *pieces, self._detokenizer.finish()])

    def _decode_until(self, stop: int) -> str:
        """Decode tokens up to the one that byte `stop` lies in; gives out what of their text comes before it."""
        parts = [self._hold_from(stop)]
        while self._waiting and (self._place < stop or self._place + len(self._waiting[0][1]) <= stop):
            token_id, self._last = self._waiting.popleft()
            self._place += len(self._last)
            self._held = self._detokenizer.add(token_id)
            if self._tokenizer.is_hidden(token_id):
                self._last = b""  # no part of it is text
            parts.append(self._hold_from(stop))
        return "".join(parts)

    def _hold_from(self, stop: int) -> str:
        """Give out the held text, but for what the last token has behind byte `stop`."""
        behind = max(0, min(self._place - stop, len(self._last)))
        tail = self._last[len(self._last) - behind :].decode(
            errors="ignore"
        )  # a cut character is not shown yet
        end = max(0, len(self._held) - len(tail))
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def _cut(self, stop: int) -> str:
        """The end of the text, with what the decoded tokens have before byte `stop`."""
        behind = max(0, min(self._place - stop, len(self._last)))
        tail = self._last[len(self._last) - behind :].decode(errors="replace")
        held, self._held = self._held + self._detokenizer.finish(), ""
        return held[: max(0, len(held) - len(tail))]


def last_bytes(tokenizer: Tokenizer, ids: Sequence[int] | NDArray[np.int64], count: int) -> bytes:
    """The last `count` bytes of tokens' texts, or all there are; of `count` tokens at most, as in transformers."""
    parts: list[bytes] = []
    for token_id in reversed(ids[-count:] if count else ids[:0]):
        if count <= 0:
            break
        parts.append(tokenizer.token_bytes(int(token_id)))
        count -= len(parts[-1])
    return b"".join(reversed(parts))
