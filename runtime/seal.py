"""A tokenizer whose special tokens answer to secret names only.

A prompt is the chat template's text with the user's texts inside. The template may write `</s>` and mean the token;
a user who types `</s>`, or one half of it beside the template's other half, means those characters. So two
tokenizers are made from `tokenizer.json`: the original, and this one, where every special token has an unguessable
name and its own id. The template's special tokens are rewritten to their secret names, then the whole prompt is
encoded at once, so that ordinary text is split exactly as the original tokenizer would:

    template │ user           │ template          user's </s> stays text, the template's becomes the token
    "USER: " │ "what is </s>?"│ "ASSISTANT:</s>"  →  "USER: what is </s>?ASSISTANT:9f…02"
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a prompt: written by the template (`trusted`), or by somebody whose words stay words."""

    text: str
    trusted: bool


class SealedTokenizer:
    """Encodes spans; only trusted ones can make special tokens.

    `definition` is `tokenizer.json`; `sealed` are the texts of the tokens to protect (unknown ones are ignored).
    """

    def __init__(self, definition: dict[str, Any], sealed: Collection[str]) -> None:
        nonce = secrets.token_hex(16)
        known = {token["content"] for token in definition["added_tokens"]}
        self._names = {text: f"{nonce}{i:06}" for i, text in enumerate(sorted(known & set(sealed)))}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._tokenizer = Tokenizer.from_str(msgspec.json.encode(_renamed(definition, self._names)).decode())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, spans: Sequence[Span], *, add_special_tokens: bool) -> list[int]:
        """Token ids of the spans' joined text."""
        text = "".join(self._with_names(span.text) if span.trusted else span.text for span in spans)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def _with_names(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._names[match[0]], text)


def _renamed(definition: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The definition with tokens renamed wherever text is matched against them; ids stay."""
    model = dict(definition["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): token_id for text, token_id in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: [text, score], in the order of ids
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _builds(merge, names)]
    added = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in definition["added_tokens"]
    ]
    return {**definition, "model": model, "added_tokens": added}


def _builds(merge: str | list[str], names: dict[str, str]) -> bool:
    """Whether a merge makes or needs a renamed token."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left + right in names or left in names or right in names
