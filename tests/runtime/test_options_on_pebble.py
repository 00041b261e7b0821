"""Options that leave no choice to chance. Oracle: transformers' LLaVA in float32. Tolerance: none, tokens are equal.

Beams: `tests/runtime/generation/test_beams_on_pebble.py`. Scores, and draws: `tests/runtime/generation`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pumice
from pumice.model import Model
from tests.oracle import theirs

HELDOUT = Path(__file__).parents[2] / "pebble" / "heldout"
QUESTIONS = ("Describe this picture in more detail.", "What is in this picture?", "Where is the star?")
OPTIONS: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.2},
    {"repetition_penalty": 0.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 3},
    {"repetition_penalty": np.float32(1.5), "no_repeat_ngram_size": np.int64(2)},
    {"min_new_tokens": 20},
    {"max_new_tokens": 1},
    {"bad_words_ids": [[402], [364, 332], [279, 323, 312]]},
    {"bad_words_ids": ((332,), (16, 279)), "min_new_tokens": 12},
    {"logit_bias": {364: 4.0, 332: -100.0, 402: -3.5}},
    {"eos_token_id": [2, 16]},
    {"eos_token_id": 388, "min_new_tokens": 5},
    {"stop_strings": [" and", "the b"]},
    {"stop_strings": "square"},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 6, "bad_words_ids": [[18]]},
    {"prompt_lookup_num_tokens": 5},
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


def images(count: int) -> list[Path]:
    return [HELDOUT / "stop-sign.png", HELDOUT / "pair-01-a.png"][:count]


def expected(oracle: Any, tokenizer: Any, prepared: pumice.Prepared, options: dict[str, Any]) -> list[int]:
    """transformers' answer, under its own names."""
    import torch

    given = dict(options)
    if "logit_bias" in given:
        given["sequence_bias"] = [[[token], bias] for token, bias in given.pop("logit_bias").items()]
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    if "bad_words_ids" in given:
        given["bad_words_ids"] = [list(word) for word in given["bad_words_ids"]]
    if "stop_strings" in given:
        given["tokenizer"] = tokenizer
    given.pop("prompt_lookup_num_tokens", None)
    ids = torch.from_numpy(prepared.input_ids)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if len(prepared.pixel_values):
        inputs["pixel_values"] = torch.from_numpy(prepared.pixel_values)
    out = oracle.generate(**inputs, do_sample=False, **given)
    answer: list[int] = out[0, prepared.tokens :].tolist()
    return answer


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items())
)
def test_answers_are_those_of_transformers(
    model: Model, oracle: Any, tokenizer: Any, options: dict[str, Any], count: int
) -> None:
    given = {"max_new_tokens": 32, **options}
    for question in QUESTIONS[: 1 + count]:
        prepared = model.prepare(question, images(count))
        answer = model.generate(question, images(count), **given)
        assert answer.token_ids == expected(oracle, tokenizer, prepared, given)
        text = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        strings = options.get("stop_strings", ())
        found = [
            text.index(one) for one in ([strings] if isinstance(strings, str) else strings) if one in text
        ]
        assert answer.text == text[: min(found, default=len(text))]


@pytest.mark.parametrize("options", [*OPTIONS, {"do_sample": True, "seed": 1}, {"regex": "[a-z ]{5,30}"}])
@pytest.mark.parametrize("guesses", [1, 8, 64])
def test_guessing_changes_nothing(model: Model, options: dict[str, Any], guesses: int) -> None:
    plain = {"max_new_tokens": 40, **options, "prompt_lookup_num_tokens": 0}
    for question in (*QUESTIONS, "red circle, red circle, red circle, red"):
        answer = model.generate(question, images(1), **plain)
        guessed = model.generate(question, images(1), **{**plain, "prompt_lookup_num_tokens": guesses})
        assert guessed.token_ids == answer.token_ids
        assert guessed.text == answer.text
        assert guessed.finish_reason == answer.finish_reason


def test_logprobs_are_the_models_own(model: Model) -> None:
    import torch

    options: dict[str, Any] = {"logprobs": 5, "max_new_tokens": 8, "repetition_penalty": 1.5}
    answer = model.generate(QUESTIONS[0], images(1), **options)
    assert answer.logprobs is not None
    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
    prepared = model.prepare(QUESTIONS[0], images(1))
    ids = [*prepared.input_ids[0].tolist(), *answer.token_ids[:-1]]
    features = model.encode_image(images(1)[0]).features
    logits_TV = model.pipeline.decoder.all_logits(ids, features)
    logprobs_TV = torch.from_numpy(logits_TV[prepared.tokens - 1 :]).double().log_softmax(-1)
    for entry, logprobs_V in zip(answer.logprobs, logprobs_TV, strict=True):
        assert entry.logprob == pytest.approx(float(logprobs_V[entry.token_id]), abs=2e-4)
        assert [one.token_id for one in entry.top] == logprobs_V.topk(5).indices.tolist()
    assert model.generate(QUESTIONS[0], max_new_tokens=2).logprobs is None


def test_a_special_tokens_name_ends_an_answer_in_every_way(model: Model) -> None:
    """As the token itself does; the checkpoint's end token is switched off."""
    question, by_name = QUESTIONS[0], {"eos_token_id": [], "stop_strings": ["</s>"], "max_new_tokens": 60}
    usual = model.generate(question, images(1), max_new_tokens=60)
    assert usual.finish_reason == "stop"
    stream = model.stream(question, images(1), **by_name)
    assert "".join(stream) == usual.text
    with pumice.Engine(model, slots=2) as engine:
        engine_stream = engine.stream(question, images(1), **by_name)
        assert "".join(engine_stream) == usual.text
        answers = [
            model.generate(question, images(1), **by_name),
            stream.result,
            engine_stream.result,
            engine.submit(question, images(1), **by_name).result(),
            *model.generate([question], [images(1)], **by_name),
        ]
    for answer in answers:
        assert (answer.text, answer.token_ids, answer.finish_reason) == (usual.text, usual.token_ids, "stop")
    for several in (
        {"num_beams": 3, "num_return_sequences": 3},
        {"do_sample": True, "seed": 1, "num_return_sequences": 3},
    ):
        for answer in model.generate(question, images(1), **by_name, **several):
            assert answer.finish_reason == "stop"
            assert "</s>" not in answer.text
            assert answer.token_ids.count(2) == 1
            assert answer.token_ids[-1] == 2
