"""Tokenizers as large as released ones, made of few words.

Enters: a family's special tokens and the number of all tokens. Leaves: a byte-level BPE tokenizer.

Ordinary words are a token each, as they are in released tokenizers. Tokens beyond what a small corpus teaches are pairs
of which the second begins with a space: no text is ever split into those, but they make the file, and what it takes to
read and to hold it, as large as a released one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.factory import Vocabulary

_LEARNED = 4000
"""Tokens at most that are learned from the words."""

_SPACE = "Ġ"
"""How a byte-level vocabulary writes one."""

WORDS = (Path(__file__).parent / "words.txt").read_text().split()
"""Ordinary English words, lower case."""


def make_tokenizer(vocabulary: Vocabulary, size: int) -> Tokenizer:
    """A tokenizer of exactly `size` tokens, special ones first and last as `vocabulary` has them."""
    base = size - len(vocabulary.after)
    learned = _learned(vocabulary, min(base, _LEARNED))
    vocab: dict[str, int] = learned["vocab"]
    merges: list[list[str]] = learned["merges"]
    for first, second in _fillers(list(vocab), base - len(vocab)):
        vocab[first + second] = len(vocab)
        merges.append([first, second])
    tokenizer = _byte_level(
        models.BPE(vocab=vocab, merges=[(a, b) for a, b in merges], unk_token=vocabulary.unk)
    )
    tokenizer.add_special_tokens([_special(token) for token in (*vocabulary.before, *vocabulary.after)])
    if vocabulary.adds_bos and (bos := vocabulary.bos):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def _learned(vocabulary: Vocabulary, most: int) -> dict[str, Any]:
    """The model of a tokenizer that was trained on the words, with special tokens in front."""
    tokenizer = _byte_level(models.BPE(unk_token=vocabulary.unk))
    trainer = trainers.BpeTrainer(
        vocab_size=most,
        special_tokens=list(vocabulary.before),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word} {word.capitalize()}" for word in WORDS], trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _fillers(vocab: list[str], count: int) -> Iterator[tuple[str, str]]:
    """Pairs that no text has: the second begins with a space, before which every text is split."""
    plain = [token for token in vocab if _SPACE not in token and not token.startswith("<")]
    spaced = [token for token in vocab if token.startswith(_SPACE)]
    most = len(plain) * len(spaced)
    if count > most:
        raise ValueError(f"{count:,} tokens beyond {len(vocab):,} were asked for, {most:,} can be made")
    return islice(product(plain, spaced), count)


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
