"""Tokens to calibrate by: drawn at random from the vocabulary, or those of a text.

Enters: a tokenizer as transformers loads it, and the text model's config. Leaves: rows of `LENGTH` token ids, or of the
whole context where that is shorter, each beginning as prompts do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pumice.errors import UsageError
from pumice.manifest.regular_file import named, read_regular
from pumice.models.config import TextConfig

LENGTH = 512
"""Tokens of a row."""
RANDOM_ROWS = 4
"""Drawn where there is no text: the moments of 2,048 tokens are as good as those of 8,192 (docs/decisions/int4.md)."""
TEXT_ROWS = 32
"""Of a text at most."""
_MOST_BYTES = 256 << 20
"""Of a text, of which some ten thousand characters are used."""
SAMPLE = Path(__file__).parent / "calibration.txt"
"""pumice's own text: several kinds and languages, written for it."""


def random_tokens(tokenizer: Any, config: TextConfig, rows: int = RANDOM_ROWS) -> list[list[int]]:
    """Words of the vocabulary, each as often as any other, special tokens left out: the same for everyone."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    known = min(len(tokenizer), config.vocab_size)
    words = torch.tensor([i for i in range(known) if i not in special] or [*range(known)])
    generator = torch.Generator().manual_seed(0)
    first = _first(tokenizer)
    drawn = torch.randint(len(words), (rows, _length(config) - len(first)), generator=generator)
    return [first + row for row in words[drawn].tolist()]


def text_tokens(tokenizer: Any, config: TextConfig, text: str) -> list[list[int]]:
    """A text in rows, from places that are spread over it where it is longer than they are.

    Raises:
        UsageError: the text gives no whole row.
    """
    first = _first(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    ids = [token for token in ids if token < config.vocab_size]
    step = _length(config) - len(first)
    rows = [first + ids[start : start + step] for start in range(0, len(ids) - step + 1, step)]
    if not rows:
        raise UsageError(
            f"the text to calibrate by has {len(ids):,} tokens, expected at least {step}: give a longer one"
        )
    apart = max(1.0, len(rows) / TEXT_ROWS)
    return [rows[int(number * apart)] for number in range(min(len(rows), TEXT_ROWS))]


def read_text(path_or_name: str | Path) -> str:
    """A text file, or pumice's own sample where the name is `text`.

    Raises:
        UsageError: no such file, or not UTF-8.
    """
    path = SAMPLE if str(path_or_name) == "text" else named(path_or_name)
    try:
        return read_regular(path, _MOST_BYTES).decode().replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UsageError(f"cannot read the text {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text in UTF-8") from None


def _length(config: TextConfig) -> int:
    return min(LENGTH, config.max_position_embeddings)


def _first(tokenizer: Any) -> list[int]:
    """What prompts begin with: attention rests on a first token, whose channels are the largest of all."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
