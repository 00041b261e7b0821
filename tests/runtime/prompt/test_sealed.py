"""Sealed tokenizers that share a model with the one they seal encode as those whose definition was rewritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from pumice.prompt.sealed import AddedTokenDefinition, SealedTokenizer, Span, rewritten, sharing

SPECIAL = ("<|end|>", "<image>", "<|im_start|>")
PLAIN = (AddedToken("<tool>"), AddedToken("about", single_word=True, lstrip=True, normalized=True))
WORDS = (*SPECIAL, "<tool>", "about", "About", "<|", "end", "|>", "image>", " ", "\n", "é", "Hi", "<")
NAMES = {text: f"0123abcd{i:06}" for i, text in enumerate(sorted([*SPECIAL, "<tool>"]))}


def tokenizer_of(model: Any, *parts: Callable[[Tokenizer], None]) -> Tokenizer:
    """A tokenizer with added tokens, of which two are not special."""
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for part in parts:
        part(made)
    made.add_special_tokens(list(SPECIAL))
    made.add_tokens(list(PLAIN))
    return made


def bpe(*more: str, **options: Any) -> Any:
    """A model of bytes and two merges."""
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "en", "end", *more]
    vocabulary = {text: i for i, text in enumerate(texts)}
    return models.BPE(vocab=vocabulary, merges=[("e", "n"), ("en", "d")], **options)


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def template(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 258)]
    )


SHARED = {
    "bytes": tokenizer_of(bpe()),
    "lower case": tokenizer_of(bpe(), lower),
    "a template": tokenizer_of(bpe(), template),
    "unigrams": tokenizer_of(models.Unigram([("<unk>", 0.0), *((text, -1.0) for text in "abdeiE<>|ĠH")], 0)),
}
NOT_SHARED = {
    "known to the model": tokenizer_of(bpe("<|end|>")),
    "what the model does not know": tokenizer_of(bpe("<image>", unk_token="<image>")),
}


def added(tokenizer_json: str) -> list[AddedTokenDefinition]:
    return msgspec.convert(json.loads(tokenizer_json)["added_tokens"], list[AddedTokenDefinition])


@pytest.mark.parametrize("kind", SHARED)
@given(words=st.lists(st.sampled_from(WORDS), max_size=8), special=st.booleans())
def test_shared_models_encode_as_rewritten_ones(kind: str, words: list[str], special: bool) -> None:
    """The text holds secret names too: those that the template's words become."""
    text = SHARED[kind].to_str()
    read = Tokenizer.from_str(text)
    shared = sharing(read, added(text), NAMES)
    assert shared is not None
    prompt = "".join(NAMES.get(word, word) if i % 2 else word for i, word in enumerate(words))
    expected = rewritten(text.encode(), NAMES).encode(prompt, add_special_tokens=special)
    assert shared.encode(prompt, add_special_tokens=special).ids == expected.ids


@pytest.mark.parametrize("kind", NOT_SHARED)
def test_tokens_of_the_model_are_rewritten(kind: str) -> None:
    text = NOT_SHARED[kind].to_str()
    assert sharing(Tokenizer.from_str(text), added(text), NAMES) is None


def test_ids_never_change() -> None:
    """What gives other ids by its order than it says is not shared."""
    text = SHARED["bytes"].to_str()
    assert sharing(Tokenizer.from_str(text), list(reversed(added(text))), NAMES) is None


@pytest.mark.parametrize("kind", [*SHARED, *NOT_SHARED])
def test_only_trusted_spans_make_special_tokens(kind: str) -> None:
    text = {**SHARED, **NOT_SHARED}[kind].to_str()
    read = Tokenizer.from_str(text)
    sealed = SealedTokenizer(text.encode(), read, added(text), SPECIAL)
    by_template = sealed.encode([Span(text="<image>", trusted=True)], add_special_tokens=False)
    by_user = sealed.encode([Span(text="<image>", trusted=False)], add_special_tokens=False)
    assert by_template == [read.token_to_id("<image>")]
    assert by_template[0] not in by_user
    halves = [Span(text="<im", trusted=True), Span(text="age>", trusted=False)]
    assert by_template[0] not in sealed.encode(halves, add_special_tokens=False)
