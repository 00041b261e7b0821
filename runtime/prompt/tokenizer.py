"""Text becomes token ids and token ids become text, with the checkpoint's own `tokenizer.json`.

Enters: text, or the spans of a rendered prompt. Leaves: token ids; and text without special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from tokenizers import Tokenizer

from pumice.errors import BundleError
from pumice.prompt.sealed import AddedTokenDefinition, SealedTokenizer, Span


class _Definition(msgspec.Struct):
    """What is read of `tokenizer.json` beside the tokenizer: its vocabulary, most of the file, is stepped over."""

    added_tokens: list[AddedTokenDefinition]
    decoder: dict[str, Any] | None = None


class PromptTokenizer:
    """The tokenizer in its two forms: as published, and sealed against special tokens in users' texts.

    Sealed are all tokens that `tokenizer.json` calls special, those of `reserved`, and other added tokens that the
    chat template writes (`template`), as transformers' `sanitize_control_tokens` has it.
    """

    def __init__(self, tokenizer_json: bytes, *, reserved: Sequence[str], template: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
            definition = msgspec.json.decode(tokenizer_json, type=_Definition)
            added = definition.added_tokens
            control = [t.content for t in added if t.special or t.content in template]
            self._sealed = SealedTokenizer(tokenizer_json, self._tokenizer, added, [*control, *reserved])
            byte_ids = _byte_ids(self._tokenizer, definition.decoder or {})
        except BaseException as error:  # tokenizers raises plain Exception, and Rust's panics, which are none
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"the bundle's tokenizer cannot be loaded: {str(error)[:200]}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ids = {self._tokenizer.token_to_id(text) for text in [*control, *reserved]}
        self.control_ids = frozenset(i for i in ids if i is not None)
        self.held_ids = self.control_ids | byte_ids

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt as it stands: special tokens are special, and those of the post-processor are added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        return ids

    def encode_spans(self, spans: Sequence[Span], *, add_special_tokens: bool) -> list[int]:
        """Ids of a prompt of which only the trusted spans can make special tokens."""
        return self._sealed.encode(spans, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token_text(self, token_id: int) -> str:
        """Text of one token, special ones' names included; replacement characters for parts of a character."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text


def _byte_ids(tokenizer: Tokenizer, decoder: dict[str, Any]) -> frozenset[int]:
    """Ids of `<0x00>` … `<0xFF>` where the decoder joins such tokens to characters (byte fallback)."""
    if not any(part.get("type") == "ByteFallback" for part in [decoder, *decoder.get("decoders", [])]):
        return frozenset()
    ids = (tokenizer.model.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(i for i in ids if i is not None)
