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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a prompt: written by the template (`trusted`), or by somebody whose words stay words."""

    text: str
    trusted: bool


class AddedTokenDefinition(msgspec.Struct, kw_only=True):
    """A token of `added_tokens`; its id is left out, as tokenizers gives ids by the tokens' order."""

    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class SealedTokenizer:
    """Encodes spans; only trusted ones can make special tokens.

    `tokenizer_json` is `tokenizer.json`, of which `tokenizer` was read, and `added`, its added tokens; `sealed` are
    the texts of the tokens to protect (unknown ones are ignored).
    """

    def __init__(
        self,
        tokenizer_json: bytes,
        tokenizer: Tokenizer,
        added: Sequence[AddedTokenDefinition],
        sealed: Collection[str],
    ) -> None:
        nonce = secrets.token_hex(16)
        known = {token.content for token in added}
        self._names = {text: f"{nonce}{i:06}" for i, text in enumerate(sorted(known & set(sealed)))}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._tokenizer = sharing(tokenizer, added, self._names) or rewritten(tokenizer_json, self._names)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, spans: Sequence[Span], *, add_special_tokens: bool) -> list[int]:
        """Token ids of the spans' joined text."""
        text = "".join(self._with_names(span.text) if span.trusted else span.text for span in spans)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def _with_names(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._names[match[0]], text)


def sharing(
    tokenizer: Tokenizer, added: Sequence[AddedTokenDefinition], names: Mapping[str, str]
) -> Tokenizer | None:
    """The tokenizer with tokens renamed that its model does not know, on that same model: no vocabulary is read again.

    None where the model knows such a token, by itself or for what it does not know; or where an id would change.
    """
    model = tokenizer.model
    if (
        any(model.token_to_id(text) is not None for text in names)
        or getattr(model, "unk_token", None) in names
    ):
        return None
    sealed = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if getattr(tokenizer, part) is not None:
            setattr(sealed, part, getattr(tokenizer, part))
    named = [names.get(token.content, token.content) for token in added]
    options = [
        {**msgspec.structs.asdict(token), "content": name} for token, name in zip(added, named, strict=True)
    ]
    sealed.add_tokens([AddedToken(**each) for each in options])
    ids = [tokenizer.token_to_id(token.content) for token in added]
    return sealed if [sealed.token_to_id(name) for name in named] == ids else None


def rewritten(tokenizer_json: bytes, names: Mapping[str, str]) -> Tokenizer:
    """The tokenizer with tokens renamed in its model too."""
    definition = msgspec.json.decode(tokenizer_json)
    return Tokenizer.from_str(msgspec.json.encode(_renamed(definition, names)).decode())


def _renamed(definition: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
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


def _builds(merge: str | list[str], names: Mapping[str, str]) -> bool:
    """Whether a merge makes or needs a renamed token."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left + right in names or left in names or right in names
