"""Several answers to one prompt: which rows go on, and what is guessed. Oracle: each answer alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pumice.generation.answer_text import AnswerText
from pumice.generation.independent import IndependentSequences
from pumice.generation.logits_processors import make_processor
from pumice.generation.options import GenerationOptions, resolve
from pumice.generation.prompt_lookup import Drafter
from pumice.generation.sampling import make_rngs, make_sampler
from pumice.generation.sequence import GeneratedSequence, Rules
from pumice.generation.strategy import Step
from tests.runtime.generation.plain_tokenizer import PlainTokenizer
from tests.runtime.generation.reference import Floats, manifest

VOCABULARY = 12
END = 0
LETTERS = PlainTokenizer(lambda ids: "".join(chr(96 + i) for i in ids if i))


def options(count: int, **others: Any) -> GenerationOptions:
    given = {"max_new_tokens": 9, "num_return_sequences": count, "do_sample": count > 1, "seed": 5, **others}
    return resolve(given, manifest(vocab_size=VOCABULARY, eos_ids=(END,)))


def answers(count: int, prompt: list[int], drafter: Any = None, **others: Any) -> IndependentSequences:
    chosen = options(count, **others)
    rules = Rules(
        processor=make_processor(chosen, len(prompt)),
        sampler=make_sampler(chosen),
        eos_ids=frozenset(chosen.eos_token_id),
        max_new_tokens=chosen.max_new_tokens,
        logprobs=None,
        token_text=str,
    )
    each = [
        GeneratedSequence(
            np.array(prompt),
            rules,
            rng=rng,
            text=AnswerText(LETTERS, chosen.stop_strings, prompt),
            matcher=None,
        )
        for rng in make_rngs(chosen)
    ]
    return IndependentSequences(each, drafter)


def logits_after(context: list[int]) -> Floats:
    """What a model would say: some noise of all that came before."""
    logits_V = np.random.default_rng(context).standard_normal(VOCABULARY).astype(np.float32)
    logits_V[END] += 1
    return logits_V


def drive(strategy: IndependentSequences, prompt: list[int]) -> list[list[int]]:
    """Let it end; returns the rows' contexts at each step."""
    contexts, seen = [list(prompt)], []
    while True:
        steps = strategy.advance([logits_after(context) for context in contexts])
        assert strategy.rows == len(steps)
        if not steps:
            return seen
        contexts = [[*contexts[step.parent], step.token] for step in steps]
        seen.append([len(context) for context in contexts])


@pytest.mark.parametrize("others", [{}, {"xtc_probability": 0.5, "xtc_threshold": 0.05}], ids=["", "xtc"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_are_those_that_come_alone(count: int, others: dict[str, float]) -> None:
    prompt = [5, 6, 7]
    strategy = answers(count, prompt, **others)
    assert strategy.rows == count
    drive(strategy, prompt)
    results = strategy.finish()
    assert len(results) == count
    chosen = options(count, **others)
    processor, sampler = make_processor(chosen, len(prompt)), make_sampler(chosen)
    for result, rng in zip(results, make_rngs(chosen), strict=True):
        context = list(prompt)
        while len(context) < len(prompt) + 9 and END not in context:
            context.append(sampler(processor(np.array(context), logits_after(context), rng), rng))
        assert result.token_ids == context[len(prompt) :]
        assert result.finish_reason == ("stop" if END in context else "length")
    if count > 1:
        more = answers(count + 1, prompt, **others)
        drive(more, prompt)
        firsts = [r.token_ids for r in more.finish()][:count]
        assert [r.token_ids for r in results] == firsts


def test_rows_end_one_by_one() -> None:
    strategy = answers(6, [5, 6, 7])
    counts = [len(lengths) for lengths in drive(strategy, [5, 6, 7])]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 2
    assert strategy.take_text() == ""  # of several, none is shown as it grows


def test_one_answer_is_shown_as_it_grows() -> None:
    strategy = answers(1, [5])
    (step,) = strategy.advance([np.eye(VOCABULARY, dtype=np.float32)[3]])
    assert step == Step(token=3, parent=0)
    assert strategy.take_text() == "c"
    assert strategy.take_text() == ""
    assert strategy.advance([np.eye(VOCABULARY, dtype=np.float32)[END]]) == []
    assert strategy.finish()[0].token_ids == [3, END]


def test_pieces_of_several_answers_are_those_since_the_last_look() -> None:
    strategy = answers(2, [5, 6, 7], eos_token_id=[])
    assert strategy.take_pieces() == []
    strategy.advance([logits_after([5, 6, 7])])
    first = strategy.take_pieces()
    assert [piece.index for piece in first] == [0, 1]
    assert all(len(piece.token_ids) == 1 and piece.logprobs is None for piece in first)
    assert strategy.take_pieces() == []
    results = strategy.finish(cancelled=True)
    assert [list(piece.token_ids) for piece in first] == [result.token_ids for result in results]


def test_those_that_have_not_ended_are_cancelled() -> None:
    strategy = answers(3, [5, 6, 7], eos_token_id=[])
    strategy.advance([logits_after([5, 6, 7])])
    results = strategy.finish(cancelled=True)
    assert [r.finish_reason for r in results] == ["cancelled"] * 3
    assert [len(r.token_ids) for r in results] == [1] * 3
    unbegun = answers(2, [5]).finish(cancelled=True)
    assert [r.token_ids for r in unbegun] == [[], []]


def test_guesses_leave_room_and_follow_what_came() -> None:
    prompt = [3, 4, 5, 6, 7, 3]
    strategy = answers(1, prompt, Drafter(8), max_new_tokens=4)
    drafts = []
    for token in (4, 5, 6):
        (step,) = strategy.advance([np.eye(VOCABULARY, dtype=np.float32)[token]])
        drafts.append(step.draft)
    assert drafts[0][:2] == (5, 6)[: len(drafts[0][:2])]
    # a guess and the token chosen behind it must fit: with 3, 2, 1 tokens to come, 2, 1, 0 guesses
    assert [len(draft) <= room for draft, room in zip(drafts, (2, 1, 0), strict=True)] == [True] * 3
    assert any(drafts)
    assert strategy.advance([np.eye(VOCABULARY, dtype=np.float32)[7]]) == []
    assert strategy.finish()[0].finish_reason == "length"


def test_what_guesses_is_told_what_came() -> None:
    class Recorder:
        seen: list[int] = []  # noqa: RUF012
        contexts: list[list[int]] = []  # noqa: RUF012

        def see(self, token: int) -> None:
            self.seen.append(token)

        def propose(self, ids_T: NDArray[np.int64]) -> tuple[int, ...]:
            self.contexts.append(ids_T.tolist())
            return (1, 2)

    recorder = Recorder()
    strategy = answers(1, [3], recorder)
    for token in (4, 5, END):
        strategy.advance([np.eye(VOCABULARY, dtype=np.float32)[token]])
    assert recorder.seen == [4, 5]
    assert recorder.contexts == [[3, 4], [3, 4, 5]]
