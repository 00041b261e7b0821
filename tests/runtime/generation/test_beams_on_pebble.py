"""Oracle: transformers' LLaVA with beams on pebble, float32. Tolerance: none, tokens are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pumice
from pebble.heldout import FOLDER, QUESTIONS
from pebble.records import load_records
from pumice.model import Model
from tests.oracle import theirs

pytestmark = pytest.mark.slow

KINDS = ("describe", "where", "exists")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"num_beams": 2},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0},
    {"num_beams": 5, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": -0.5, "early_stopping": "never"},
    {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 2, "early_stopping": "never"},
    {"num_beams": 4, "num_return_sequences": 2, "repetition_penalty": 1.3, "min_new_tokens": 8},
    {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 3},
    {"num_beams": 3, "num_return_sequences": 3, "stop_strings": ["a large", " the"]},
)


@pytest.fixture(scope="module")
def model(pebble_bundle: Path) -> Model:
    return pumice.load(pebble_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def oracle(pebble_checkpoint: Path) -> Any:
    return theirs(pebble_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(pebble_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pebble_checkpoint)


def question(kind: str) -> tuple[str, Path]:
    """A question of this kind about a held-out image, another one for each kind."""
    records = [
        record for record in load_records(QUESTIONS) if record.kind == kind and len(record.images) == 1
    ]
    record = records[KINDS.index(kind)]
    return record.turns[0].question, FOLDER / record.images[0]


def answers(oracle: Any, prepared: pumice.Prepared, **options: Any) -> list[list[int]]:
    """transformers' answers without padding, best first."""
    import torch

    ids = torch.from_numpy(prepared.input_ids)
    out = oracle.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.from_numpy(prepared.pixel_values),
        do_sample=False, return_dict_in_generate=True, **options,
    )  # fmt: skip
    lengths = (out.beam_indices >= 0).sum(1)
    rows = zip(out.sequences[:, prepared.tokens :], lengths, strict=True)
    return [row[:length].tolist() for row, length in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items())
)
def test_answers_are_those_of_transformers(
    model: Model, oracle: Any, tokenizer: Any, kind: str, options: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 40} | options
    text, image = question(kind)
    expected = answers(oracle, model.prepare(text, [image]), **options, tokenizer=tokenizer)
    found = model.generate(text, [image], do_sample=False, **options)
    results = found if isinstance(found, list) else [found]
    assert [result.token_ids for result in results] == expected
    for result in results:
        whole = tokenizer.decode(result.token_ids, skip_special_tokens=True)
        starts = [whole.find(s) for s in options.get("stop_strings", ()) if s in whole]
        assert result.text == whole[: min(starts, default=None)]
        ended = bool(starts) or result.token_ids[-1] in model.manifest.tokens.eos_ids
        assert result.finish_reason == ("stop" if ended else "length")
        assert result.usage.completion_tokens == len(result.token_ids)


def test_no_image_and_several(model: Model, oracle: Any) -> None:
    """Prompts side by side, each with beams of its own."""
    texts = ["What can you do?", "What is in these pictures?"]
    images: list[list[Path]] = [[], [FOLDER / "pair-00-a.png", FOLDER / "pair-00-b.png"]]
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12}
    found = model.generate(texts, images, do_sample=False, **options)
    alone = [
        result.token_ids
        for text, prepared in zip(texts, images, strict=True)
        for result in model.generate(text, prepared, do_sample=False, **options)  # type: ignore[attr-defined]
    ]
    assert [result.token_ids for result in found] == alone
    assert alone[2:] == answers(oracle, model.prepare(texts[1], images[1]), **options)
