"""A tokenizer for tests of text: what it says is given, and it has neither single bytes nor special tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


class PlainTokenizer:
    """`data` gives a token's bytes, where they are not those of its text."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], data: Callable[[int], bytes] | None = None
    ) -> None:
        self.decode = decode
        self.byte_values: Mapping[int, int] = {}
        self._data = data or (lambda token_id: decode([token_id]).encode())

    def is_hidden(self, token_id: int) -> bool:
        return False

    def token_bytes(self, token_id: int) -> bytes:
        return self._data(token_id)
