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
            self.byte_values = _byte_values(self._tokenizer, definition.decoder)
        except BaseException as error:  # tokenizers raises plain Exception, and Rust's panics, which are none
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleError(f"the bundle's tokenizer cannot be loaded: {str(error)[:200]}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ids = {self._tokenizer.token_to_id(text) for text in [*control, *reserved]}
        self.control_ids = frozenset(i for i in ids if i is not None)
        hidden = {self._tokenizer.token_to_id(token.content) for token in added if token.special}
        self._hidden_ids = frozenset(i for i in hidden if i is not None)
        self._replacement = _replacement(self.byte_values)
        self._joined = _Joined(self._tokenizer, definition.decoder)

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt as it stands: special tokens are special, and those of the post-processor are added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=True).ids
        return ids

    def encode_spans(self, spans: Sequence[Span], *, add_special_tokens: bool) -> list[int]:
        """Ids of a prompt of which only the trusted spans can make special tokens."""
        return self._sealed.encode(spans, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens.

        Of single bytes (byte fallback) every character of theirs, and � for each that belongs to none; tokenizers
        would make � of all bytes in a row if one is wrong, also of characters that were complete before it came.
        """
        text: str = self._tokenizer.decode(self._well_formed(ids), skip_special_tokens=True)
        return text

    def token_text(self, token_id: int) -> str:
        """Text of one token, special ones' names included; replacement characters for parts of a character."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def is_hidden(self, token_id: int) -> bool:
        """Whether it has no text: a special token, or an id without a token."""
        return token_id in self._hidden_ids or self._tokenizer.id_to_token(token_id) is None

    def token_bytes(self, token_id: int) -> bytes:
        """A token's text behind others, as bytes: special ones' names, a single byte, or a part of a character.

        As transformers' `StopStringCriteria` has it; a byte that no text has for an id without a token.
        """
        return self._joined.token_bytes(token_id, self.byte_values.get(token_id))

    def _well_formed(self, ids: Sequence[int]) -> Sequence[int]:
        """The ids, with those of � in place of bytes that are part of no character."""
        if not any(i in self.byte_values for i in ids):
            return ids
        result: list[int] = []
        run: list[int] = []
        for i in ids:
            if i in self.byte_values:
                run.append(i)
            elif not self.is_hidden(i):  # bytes join across special tokens
                result += [*self._well_formed_run(run), i]
                run = []
        return [*result, *self._well_formed_run(run)]

    def _well_formed_run(self, run: list[int]) -> list[int]:
        """The same for ids of single bytes."""
        data = bytes(self.byte_values[i] for i in run)
        result: list[int] = []
        start = 0
        while start < len(run):
            try:
                data[start:].decode()
            except UnicodeDecodeError as error:
                wrong = start + error.start
                result += [*run[start:wrong], *(self._replacement or run[wrong : wrong + 1])]
                start = wrong + 1
            else:
                return [*result, *run[start:]]
        return result


class _Joined:
    """What tokens say behind other tokens: a decoder may treat a text's first token unlike the others."""

    def __init__(self, tokenizer: Tokenizer, decoder: dict[str, Any] | None) -> None:
        self._tokenizer = tokenizer
        self._before: list[str] = tokenizer.encode(_BEFORE, add_special_tokens=False).tokens
        self._is_byte_level = _has(decoder, "ByteLevel") and not _has(decoder, "ByteFallback")
        self._known: dict[int, bytes] = {}

    def token_bytes(self, token_id: int, byte: int | None) -> bytes:
        """See `PromptTokenizer.token_bytes`; `byte` is what the token stands for if it does."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = bytes([byte]) if byte is not None else self._bytes(token_id)
        return known

    def _bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b"\xff"
        if self._is_byte_level and all(letter in _BYTES_OF_LETTERS for letter in token):
            return bytes(_BYTES_OF_LETTERS[letter] for letter in token)
        decoder = self._tokenizer.decoder
        tokens = [*self._before, token]
        text: str = " ".join(tokens) if decoder is None else decoder.decode(tokens)
        _, before, rest = text.partition(_BEFORE)
        return (rest if before else token).encode(errors="replace")


_BEFORE = "abcdef"
"""A text before a token; transformers has the same."""


def _has(decoder: dict[str, Any] | None, kind: str) -> bool:
    """Whether a decoder, or one of its parts, is of a kind."""
    if decoder is None:
        return False
    return decoder.get("type") == kind or any(_has(part, kind) for part in decoder.get("decoders", []))


def _byte_values(tokenizer: Tokenizer, decoder: dict[str, Any] | None) -> dict[int, int]:
    """Ids of `<0x00>` … `<0xFF>` where the decoder joins such tokens to characters (byte fallback)."""
    if not _has(decoder, "ByteFallback"):
        return {}
    ids = {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    return {i: byte for i, byte in ids.items() if i is not None}


def _replacement(byte_values: dict[int, int]) -> list[int]:
    """Ids of the bytes of �; none where one of them has no token."""
    ids = {byte: i for i, byte in byte_values.items()}
    wanted = "\ufffd".encode()
    return [ids[byte] for byte in wanted] if all(byte in ids for byte in wanted) else []


def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, others for those from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES_OF_LETTERS = _bytes_of_letters()
