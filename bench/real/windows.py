"""A text becomes windows, in which every position but the first ones is scored once.

Enters: a text's token ids. Leaves: windows of at most `LENGTH` tokens, each behind token 0 (`<|endoftext|>`, as texts
begin for this model).

    ids      0 … 127   128 … 1023   1024 … 1919   1920 …
    first    read      scored
    second             (896 … 1023) scored                each window reads the `CONTEXT` tokens before its first
    third                           (1792 … 1919) scored

A window holds the token that is scored last, which is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LENGTH = 1024
"""Tokens of a window, token 0 not counted."""
CONTEXT = 128
"""Tokens before the first that is scored."""
POSITIONS = 2 * (LENGTH - CONTEXT)
"""Scored of each text: two windows."""
_START = 0


@dataclass(frozen=True, kw_only=True)
class Window:
    """Token ids: `read` [T] is what a model gets; `scored` [N] are those that its last N logits are asked about."""

    read: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def context(self) -> int:
        """Tokens whose logits are not asked for."""
        return len(self.read) - len(self.scored)


def windows(ids: Sequence[int], positions: int = POSITIONS) -> Iterator[Window]:
    """The windows of a text in which its first `positions` positions are scored.

    Raises:
        ValueError: the text is shorter.
    """
    end = CONTEXT + positions
    if len(ids) < end:
        raise ValueError(f"the text has {len(ids)} tokens, expected {end} or more")
    step = LENGTH - CONTEXT
    for start in range(0, positions, step):
        stop = min(start + LENGTH, end)
        read = (_START, *ids[start : stop - 1])
        yield Window(read=read, scored=tuple(ids[start + CONTEXT : stop]))


def encode(checkpoint: Path, text: str) -> list[int]:
    """A text's token ids by a checkpoint's tokenizer, nothing added."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
