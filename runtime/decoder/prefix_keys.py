"""What the positions of a sequence hold.

Enters: token ids, and the digests of their pictures. Leaves: keys, by which prefixes are compared: equal ids of
different pictures differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Key: TypeAlias = "int | bytes"
"""A token's id; or, for an image token, its picture's digest of 32 bytes."""


class Picture(Protocol):
    """What is needed of a prompt's picture."""

    @property
    def digest(self) -> bytes:
        """32 bytes that no other picture has."""
        ...

    @property
    def tokens(self) -> int:
        """Image tokens in the prompt."""
        ...


def prompt_keys(ids: Sequence[int], image_token_id: int, pictures: Sequence[Picture]) -> list[Key]:
    """The keys of a prompt's tokens; its image tokens are the pictures', in order."""
    if not pictures:
        return list(ids)
    owners = (picture.digest for picture in pictures for _ in range(picture.tokens))
    return [next(owners) if token == image_token_id else token for token in ids]


def common_prefix(first: Sequence[Key], second: Sequence[Key]) -> int:
    """How many keys two sequences begin with in common."""
    if type(first) is not type(second):  # a slice of a list never equals one of a tuple
        first, second = list(first), list(second)
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while low + 1 < high:  # equal up to low, not up to high
        middle = (low + high) // 2
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle)
    return low
