from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bench.shapes import SHAPES, checkpoint
from bench.vocabulary import WORDS, make_tokenizer
from bench.workload import QUESTION, SECOND, write_workload
from tests.factory.families import QWEN_WORDS


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(QWEN_WORDS, 50_000)


def test_tokenizers_have_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 50_000
    assert tokenizer.token_to_id("<image>") == 49_999
    with pytest.raises(ValueError, match="can be made"):
        make_tokenizer(QWEN_WORDS, 50_000_000)


def test_ordinary_words_are_a_token_each(tokenizer: Tokenizer) -> None:
    text = "".join(f" {word}" for word in WORDS)
    assert len(tokenizer.encode(text).ids) == len(WORDS)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_fillers_are_in_no_text(tokenizer: Tokenizer) -> None:
    text = " ".join(first + second for first in WORDS[:50] for second in (" the", "  a", "\nof", "."))
    assert max(tokenizer.encode(text).ids) < 5000


def test_a_question_has_26_words() -> None:
    assert len(QUESTION.split()) == 26


def test_shapes_have_as_many_parameters_as_their_names_say() -> None:
    from bench.shapes import parameters

    billions = {name: parameters(name) / 1e9 for name in SHAPES}
    assert billions["quick-0.1b"] == pytest.approx(0.1, abs=0.01)
    assert billions["interleave-0.5b"] == pytest.approx(0.46 + 0.43, abs=0.05)  # text and tower
    assert billions["llava-3b"] == pytest.approx(3.1 + 0.43, abs=0.1)
    assert billions["llava-1.5-7b"] == pytest.approx(7.06, abs=0.02)


def test_a_workload_is_what_the_processor_makes(pebble_checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint("pebble", tmp_path) == pebble_checkpoint.resolve()
    folder = write_workload(pebble_checkpoint, tmp_path / "work")
    told = json.loads((folder / "workload.json").read_text())
    pixels_NCHW = np.load(folder / told["pixel_values"])
    assert pixels_NCHW.shape == (1, 3, 120, 120)
    assert pixels_NCHW.dtype == np.float32
    assert not np.array_equal(pixels_NCHW, np.load(folder / told["other_pixel_values"]))
    bursts = {(folder / name).read_bytes() for name in (*told["burst_images"], told["image"])}
    assert len(bursts) == 14
    assert told["prompt"].count("<image>") == 1
    assert told["input_ids"].count(told["image_token_id"]) == 36
    first = len(told["input_ids"])
    assert told["second_turn_ids"][:first] == told["input_ids"]
    words = Tokenizer.from_file(str(pebble_checkpoint / "tokenizer.json"))
    assert SECOND in words.decode(told["second_turn_ids"][first + 32 :])
    assert len(told["text_ids"]) == 2100
    assert told["image_token_id"] not in told["text_ids"]
