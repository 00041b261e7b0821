"""What the positions of a sequence hold.

Enters: token ids, and the digests of their images. Leaves: keys, by which prefixes are compared: equal ids of
different images differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Key: TypeAlias = "int | bytes"
"""A token's id; or, for an image token, its image's digest of 32 bytes."""


class KeyedImage(Protocol):
    """What is needed of a prompt's image."""

    @property
    def digest(self) -> bytes:
        """32 bytes that no other image has."""
        ...

    @property
    def tokens(self) -> int:
        """Image tokens in the prompt."""
        ...


def prompt_keys(
    ids: Sequence[int], image_token_ids: int | tuple[int, ...], images: Sequence[KeyedImage]
) -> list[Key]:
    """The keys of a prompt's tokens; its image tokens, of one id or of several, are the images', in order."""
    if not images:
        return list(ids)
    owners = (image.digest for image in images for _ in range(image.tokens))
    theirs = {image_token_ids} if isinstance(image_token_ids, int) else set(image_token_ids)
    return [next(owners) if token in theirs else token for token in ids]


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
