"""Tokens to calibrate by: words alone, the same for everyone, in rows that begin as prompts do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pumice.errors import UsageError
from pumice.export.calibration.tokens import LENGTH, SAMPLE, TEXT_ROWS, random_tokens, read_text, text_tokens
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.models.config import TextConfig


@pytest.fixture(scope="module")
def tokenizer(pebble_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pebble_checkpoint)


@pytest.fixture(scope="module")
def config(pebble_checkpoint: Path) -> TextConfig:
    return replace(read_config(open_checkpoint(pebble_checkpoint).config).text, max_position_embeddings=4096)


def test_random_tokens_are_words_and_the_same_each_time(tokenizer: Any, config: TextConfig) -> None:
    rows = random_tokens(tokenizer, config)
    assert rows == random_tokens(tokenizer, config)
    assert {len(row) for row in rows} == {LENGTH}
    starts = 0 if tokenizer.bos_token_id is None else 1
    drawn = {token for row in rows for token in row[starts:]}
    assert not drawn & {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    assert len(drawn) > 0.8 * min(len(tokenizer), 4 * LENGTH)


def test_texts_are_spread_over_the_rows(tokenizer: Any, config: TextConfig) -> None:
    text = " ".join(f"line {number} of a text" for number in range(30_000))
    rows = text_tokens(tokenizer, config, text)
    assert len(rows) == TEXT_ROWS
    assert {len(row) for row in rows} == {LENGTH}
    assert len({tuple(row) for row in rows}) == TEXT_ROWS
    last = tokenizer.decode(rows[-1])
    assert any(f"line {number} " in last for number in range(28_000, 30_000))


def test_special_tokens_in_a_text_are_words(tokenizer: Any, config: TextConfig) -> None:
    special = tokenizer.all_special_tokens[0]
    rows = text_tokens(tokenizer, config, f"{special} and {special} " * 600)
    starts = 0 if tokenizer.bos_token_id is None else 1
    assert not {token for row in rows for token in row[starts:]} & set(tokenizer.all_special_ids)


def test_a_short_text_is_refused(tokenizer: Any, config: TextConfig) -> None:
    with pytest.raises(UsageError, match=r"the text to calibrate by has \d+ tokens, expected at least 51\d"):
        text_tokens(tokenizer, config, "short")


def test_files_are_read_or_refused(tmp_path: Path) -> None:
    assert read_text("text") == SAMPLE.read_text(encoding="utf-8")
    assert len(read_text("text")) > 40_000
    (tmp_path / "own.txt").write_text("mine", encoding="utf-8")
    assert read_text(tmp_path / "own.txt") == "mine"
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not a text in UTF-8"):
        read_text(tmp_path / "bytes")
    with pytest.raises(UsageError, match="cannot read the text"):
        read_text(tmp_path / "missing")


def test_rows_fit_into_short_contexts_and_small_tables(tokenizer: Any, config: TextConfig) -> None:
    small = replace(config, max_position_embeddings=40, vocab_size=100)
    for rows in (random_tokens(tokenizer, small), text_tokens(tokenizer, small, "a word and another " * 200)):
        assert {len(row) for row in rows} == {40}
        assert max(map(max, rows)) < 100
