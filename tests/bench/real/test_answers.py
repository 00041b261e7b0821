from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.real import answers
from bench.real.answers import Answer, Comparison, compare, parity_report, side_by_side
from bench.real.questions import QUESTIONS
from bench.real.windows import Window


def told(question: str, tokens: tuple[int, ...], text: str = "words") -> Answer:
    return Answer(question=question, prompt=(7, 8), tokens=tokens, text=text)


def comparison(answer: Answer, *, same_prompt: bool = True, same: int | None = None) -> Comparison:
    count = len(answer.tokens)
    return Comparison(
        answer=answer,
        same_prompt=same_prompt,
        same_tokens=count if same is None else same,
        margin=None if same is None else 0.25,
    )


def test_twenty_questions() -> None:
    assert len(set(QUESTIONS)) == 20


def test_parity_tells_what_is_wrong() -> None:
    compared = [
        comparison(told("Right?", (1, 2, 3))),
        comparison(told("Other?", (1, 2, 3)), same=1),
        comparison(told("Prompt?", (1, 2, 3)), same_prompt=False),
    ]
    assert [each.equal for each in compared] == [True, False, False]
    lines = parity_report(compared).split("\n")
    assert lines == [
        "ok     Right?  3 tokens, all the same",
        "WRONG  Other?  other at token 2 of 3, by 0.25 of a logit",
        "WRONG  Prompt?  another prompt than transformers'",
        "1 of 3 answers are transformers', 3 tokens",
    ]


def test_answers_stand_side_by_side() -> None:
    text = side_by_side(
        [told("Why?", (1, 2, 3), "Because.\nReally.")], {"cpu-int4": [told("Why?", (1, 9, 3), "No.")]}
    )
    assert text == (
        "## Why?\n\n**float32** (3 tokens)\n\n> Because.\n> Really.\n\n"
        "**cpu-int4** (3 tokens, the first 1 as float32's)\n\n> No."
    )


class Tokenizer:
    """Has the prompt 7, 8 for whatever is asked."""

    def apply_chat_template(self, said: list[dict[str, str]], **options: object) -> str:
        return said[0]["content"]

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [7, 8]}


def test_transformers_is_asked_for_each_token_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose next token is always one more than the last that it read."""

    def counting(model: object, window: Window) -> np.ndarray:
        logits_NV = np.zeros((len(window.scored), 50), np.float32)
        logits_NV[np.arange(len(window.scored)), np.array(window.read[window.context :]) + 1] = 2.0
        return logits_NV

    monkeypatch.setattr(answers, "load_reference", lambda folder: None)
    monkeypatch.setattr(answers, "whole_logits", counting)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda folder: Tokenizer())
    counted, other = told("a", (9, 10, 11)), told("b", (9, 10, 30, 31))
    first, second, third = compare(
        Path("llama"), [counted, other, Answer(question="c", prompt=(7,), tokens=(9,), text="")]
    )
    assert first.equal
    assert (second.equal, second.same_tokens, second.margin) == (False, 2, 2.0)
    assert (third.equal, third.same_prompt, third.same_tokens) == (False, False, 1)
