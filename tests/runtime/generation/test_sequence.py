"""One answer, token by token. Oracle: the whole text, by transformers' meanings of where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pumice.errors import GenerationError
from pumice.generation.answer_text import AnswerText
from pumice.generation.logits_processors import make_processor
from pumice.generation.options import resolve
from pumice.generation.sampling import make_rngs, make_sampler
from pumice.generation.sequence import GeneratedSequence, Rules
from tests.runtime.generation.plain_tokenizer import PlainTokenizer
from tests.runtime.generation.reference import Floats, manifest

END = 0
BYTES = (1, 2, 3, 4)
"""Each a byte of 🙂, which is text once all four are there."""
TEXTS = ("", "", "", "", "", "a", "b", " a", "ab", "#", "##", "é")
"""By token id."""
PROMPT = np.array([5, 6, 7])


def data(token: int) -> bytes:
    return "🙂".encode()[token - 1 : token] if token in BYTES else TEXTS[token].encode()


def decode(ids: Sequence[int]) -> str:
    """As tokenizers do: bytes are joined to characters, those that make none are replacement characters."""
    return b"".join(map(data, ids)).decode(errors="replace")


class Forced:
    """A matcher that allows one token after another, and `finished` once there are no more."""

    def __init__(self, *allowed: int) -> None:
        self._allowed = list(allowed)

    @property
    def finished(self) -> bool:
        return not self._allowed

    def mask(self, logits_V: Floats) -> Floats:
        masked_V = np.full_like(logits_V, -np.inf)
        masked_V[self._allowed[0]] = logits_V[self._allowed[0]]
        return masked_V

    def accept(self, token: int) -> None:
        assert token == self._allowed.pop(0)


def answer(matcher: Any = None, **options: Any) -> GeneratedSequence:
    chosen = resolve({"max_new_tokens": 20, **options}, manifest(vocab_size=len(TEXTS), eos_ids=(END,)))
    rules = Rules(
        processor=make_processor(chosen, len(PROMPT)),
        sampler=make_sampler(chosen),
        eos_ids=frozenset(chosen.eos_token_id),
        max_new_tokens=chosen.max_new_tokens,
        logprobs=chosen.logprobs,
        token_text=lambda token: TEXTS[token],
    )
    text = AnswerText(PlainTokenizer(decode, data), chosen.stop_strings, prompt_ids=[])
    return GeneratedSequence(PROMPT, rules, rng=make_rngs(chosen)[0], text=text, matcher=matcher)


def logits(token: int) -> Floats:
    logits_V = np.zeros(len(TEXTS), np.float32)
    logits_V[token] = 9
    return logits_V


def say(given_answer: GeneratedSequence, *tokens: int) -> list[str]:
    """The pieces that come with each token, until the answer ends."""
    pieces = []
    for token in tokens:
        if given_answer.finished:
            break
        assert given_answer.choose(logits(token)) == token
        pieces.append(given_answer.take_text())
    return pieces


def test_the_end_token_is_an_id_and_no_text() -> None:
    said = answer()
    assert say(said, 5, 6, END, 5) == ["a", "b", ""]
    result = said.finish(cancelled=False)
    assert (result.text, result.token_ids, result.finish_reason) == ("ab", [5, 6, END], "stop")
    assert said.context.tolist() == [*PROMPT, 5, 6, END]


@pytest.mark.parametrize("ends", [[], [9]])
def test_other_ends_than_the_checkpoints(ends: list[int]) -> None:
    said = answer(eos_token_id=ends, max_new_tokens=4)
    say(said, 5, END, 9, 6)
    result = said.finish(cancelled=False)
    assert result.token_ids == ([5, END, 9] if ends else [5, END, 9, 6])
    assert result.finish_reason == ("stop" if ends else "length")


def test_a_character_is_shown_whole() -> None:
    said = answer()
    assert say(said, 5, *BYTES, 6) == ["a", "", "", "", "🙂", "b"]


@pytest.mark.parametrize("reason", ["length", "stop", "cancelled"])
def test_half_a_character_comes_last(reason: str) -> None:
    said = answer(max_new_tokens=3 if reason == "length" else 20)
    say(said, 5, *BYTES[:2], *([END] if reason == "stop" else []))
    result = said.finish(cancelled=True)
    assert result.finish_reason == reason
    assert result.text.startswith("a\ufffd")
    assert set(result.text) == {"a", "\ufffd"}


def test_text_ends_before_a_stop_string() -> None:
    said = answer(stop_strings=["b#"])
    assert say(said, 5, 6, 6, 10) == ["a", "", "b", ""]
    result = said.finish(cancelled=False)
    assert (result.text, result.token_ids, result.finish_reason) == ("ab", [5, 6, 6, 10], "stop")


def test_a_stop_string_that_the_limit_cuts_is_text() -> None:
    said = answer(stop_strings=["b##"], max_new_tokens=3)
    assert say(said, 5, 6, 9) == ["a", "", "b#"]
    result = said.finish(cancelled=False)
    assert (result.text, result.finish_reason) == ("ab#", "length")


def test_a_stop_string_with_the_last_token_is_a_stop() -> None:
    said = answer(stop_strings=["##"], max_new_tokens=2)
    say(said, 5, 10)
    assert said.finish(cancelled=False).finish_reason == "stop"
    half = answer(stop_strings=["\ufffd"], max_new_tokens=2)
    say(half, 5, 1)
    result = half.finish(cancelled=False)
    assert (result.text, result.finish_reason) == (
        "a\ufffd",
        "length",
    )  # the byte is another, as in transformers


def test_what_a_stop_string_held_back_is_shown_when_cancelled() -> None:
    said = answer(stop_strings=["b#"])
    say(said, 5, 6)
    result = said.finish(cancelled=True)
    assert (result.text, result.finish_reason) == ("ab", "cancelled")


def test_a_grammar_that_is_complete_ends_the_answer() -> None:
    said = answer(Forced(5, 6))
    assert said.choose(logits(7)) == 5
    assert said.choose(logits(END)) == 6
    assert said.finished
    assert said.finish(cancelled=False).finish_reason == "stop"


def test_options_that_forbid_what_a_grammar_asks_for() -> None:
    said = answer(Forced(5, END), min_new_tokens=3)
    said.choose(logits(5))
    with pytest.raises(GenerationError, match="no token is allowed"):
        said.choose(logits(END))
    with pytest.raises(GenerationError, match="no token is allowed"):
        answer(Forced(5), bad_words_ids=[[5]]).choose(logits(5))


def test_every_token_has_its_logprobs() -> None:
    """Of the logits as they are: neither the grammar nor the penalty shows."""
    said = answer(Forced(5, 5, END), logprobs=2, repetition_penalty=2.0)
    for _ in range(3):
        said.choose(logits(8))
    entries = said.finish(cancelled=False).logprobs
    assert entries is not None
    assert [entry.token_id for entry in entries] == [5, 5, END]
    likeliest = 9 - np.log(np.exp(9.0) + len(TEXTS) - 1)
    for entry in entries:
        assert entry.token == TEXTS[entry.token_id]
        assert entry.logprob == pytest.approx(likeliest - 9, abs=1e-6)
        assert [one.token_id for one in entry.top] == [8, 0]
        assert entry.top[0].logprob == pytest.approx(likeliest, abs=1e-6)
    assert answer().finish(cancelled=True).logprobs is None


@given(
    st.lists(st.sampled_from([*BYTES, *range(5, len(TEXTS)), *BYTES]), min_size=1, max_size=40),
    st.lists(st.sampled_from(["ab", "#", "##a", "é", "🙂", " a", "a🙂", "bb"]), max_size=3),
)
def test_pieces_are_the_text_up_to_the_first_stop_string(tokens: list[int], stops: list[str]) -> None:
    """Half a character that was shown would not be in the whole text."""
    said = answer(stop_strings=stops, max_new_tokens=len(tokens))
    pieces = say(said, *tokens)
    result = said.finish(cancelled=False)
    assert "".join(pieces) + said.take_text() == result.text
    whole = decode(result.token_ids)
    found = [whole.index(stop) for stop in stops if stop in whole]
    assert result.text == whole[: min(found, default=len(whole))]
    assert result.finish_reason == ("stop" if found else "length")
    if not found:
        assert result.token_ids == tokens
