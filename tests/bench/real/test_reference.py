from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.real.reference import Floats, Reference, load_reference, whole_logits
from bench.real.windows import Window, windows

IDS = [int(token) for token in np.random.default_rng(0).integers(1, 50, 600)]
WINDOWS = {"one": list(windows(IDS, 20)), "other": list(windows(IDS[::-1], 30))}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def reference(llama: Path, tmp_path: Path) -> Reference:
    found = Reference(WINDOWS, tmp_path / "logits")
    found.keep(load_reference(llama))
    return found


def test_the_reference_is_itself(llama: Path, reference: Reference) -> None:
    model = load_reference(llama)
    scored = reference.score(lambda window: [whole_logits(model, window)])
    assert scored.total.kl == 0
    assert scored.total.top1 == 1
    assert scored.total.perplexity == scored.total.reference_perplexity
    assert (scored.total.positions, scored.kinds["one"].positions, scored.kinds["other"].positions) == (
        50,
        20,
        30,
    )


def test_parts_and_more_words_change_nothing(llama: Path, reference: Reference) -> None:
    model = load_reference(llama)

    def in_parts(window: Window) -> Iterator[Floats]:
        logits_NV = whole_logits(model, window)
        wider_NV = np.concatenate([logits_NV, np.full((len(logits_NV), 3), 1e4, np.float32)], 1)
        yield from (wider_NV[:7], wider_NV[7:])

    assert reference.score(in_parts).total.kl == 0


def test_what_comes_next_is_what_stands_in_the_text(llama: Path, reference: Reference) -> None:
    """A model that knows the text has a perplexity of 1, and one that is a place behind has not."""

    def knowing(window: Window, behind: int = 0) -> list[Floats]:
        known = np.full((len(window.scored), 50), -100, np.float32)
        known[np.arange(len(known)), np.roll(window.scored, behind)] = 100
        return [known]

    assert reference.score(knowing).total.perplexity == pytest.approx(1)
    assert reference.score(lambda window: knowing(window, 1)).total.perplexity > 100


def test_missing_positions_are_refused(llama: Path, reference: Reference) -> None:
    model = load_reference(llama)
    with pytest.raises(ValueError, match="one, window 0: logits of 19 positions, expected 20"):
        reference.score(lambda window: [whole_logits(model, window)[:-1]])
