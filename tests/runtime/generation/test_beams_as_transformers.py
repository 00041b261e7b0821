"""Oracle: transformers' `generate` with beams, on a small random GPT-2 in float32. Tolerance: none, tokens are equal;
a chi-square test where they are drawn.

Our search is driven by the same model's logits, computed anew for every beam, and by transformers' own processors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .beam_driving import (
    VOCABULARY,
    Floats,
    Logits,
    drive,
    lettered,
    logits_of,
    processor,
    search,
    theirs,
    tiny,
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    beams = draw(st.integers(2, 6))
    return {
        "num_beams": beams,
        "num_return_sequences": draw(st.integers(1, beams)),
        "length_penalty": draw(st.sampled_from([0.0, 1.0]) | st.floats(-1, 2)),
        "early_stopping": draw(st.sampled_from([False, True, "never"])),
        "max_new_tokens": draw(st.integers(1, 20)),
    }


TOKENS = st.integers(0, VOCABULARY - 1)


@pytest.mark.export_extra
@pytest.mark.slow
@settings(max_examples=120)
@given(
    seed=st.integers(0, 5),
    prompt=st.lists(TOKENS, min_size=1, max_size=6),
    request=requests(),
    eos_ids=st.lists(TOKENS, max_size=8, unique=True),
    penalty=st.sampled_from([1.0, 0.7, 1.5]),
    ngram=st.integers(0, 3),
    shortest=st.integers(0, 4),
)
def test_answers_are_those_of_transformers(
    seed: int,
    prompt: list[int],
    request: dict[str, Any],
    eos_ids: list[int],
    penalty: float,
    ngram: int,
    shortest: int,
) -> None:
    from transformers import generation

    model = tiny(seed)
    parts: list[Any] = []
    if penalty != 1:
        parts.append(generation.RepetitionPenaltyLogitsProcessor(penalty))
    if ngram:
        parts.append(generation.NoRepeatNGramLogitsProcessor(ngram))
    shortest = min(shortest, request["max_new_tokens"]) if eos_ids else 0
    if shortest:
        parts.append(generation.MinNewTokensLengthLogitsProcessor(len(prompt), shortest, eos_ids))
    expected = theirs(
        model, prompt, **request, eos_token_id=eos_ids or None, repetition_penalty=penalty,
        no_repeat_ngram_size=ngram, min_new_tokens=shortest or None, do_sample=False,
    )  # fmt: skip
    strategy = search(prompt, **request, eos_ids=eos_ids, processor=processor(*parts))
    answers = drive(strategy, prompt, logits_of(model))
    assert [answer.token_ids for answer in answers] == expected
    for answer in answers:
        assert answer.finish_reason == ("stop" if answer.token_ids[-1] in eos_ids else "length")
        assert answer.text == " ".join(map(str, answer.token_ids))
        assert answer.logprobs is None


@pytest.mark.export_extra
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_the_search_ends_when_that_of_transformers_does(early_stopping: bool | str) -> None:
    """After as many steps, with the same answers, and not always at the limit."""
    prompt, eos_ids, lengths = [3, 7], list(range(0, VOCABULARY, 6)), Counter[int]()
    for seed, penalty in product(range(4), (-1.0, 0.3, 1.0, 2.0)):
        given: dict[str, Any] = {"early_stopping": early_stopping, "length_penalty": penalty}
        given |= {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 20}
        ours_calls, theirs_calls = [], []
        logits = logits_of(tiny(seed))

        def counted(
            rows: list[list[int]], logits: Logits = logits, calls: list[None] = ours_calls
        ) -> Sequence[Floats]:
            calls.append(None)
            return logits(rows)

        answers = drive(search(prompt, **given, eos_ids=eos_ids), prompt, counted)
        handle = tiny(seed).register_forward_hook(lambda *_, calls=theirs_calls: calls.append(None))
        expected = theirs(tiny(seed), prompt, **given, eos_token_id=eos_ids)
        handle.remove()
        assert [answer.token_ids for answer in answers] == expected
        assert len(ours_calls) == len(theirs_calls)
        lengths[len(theirs_calls)] += 1
    assert len(lengths) > 2
    assert min(lengths) < 10


@pytest.mark.export_extra
@settings(max_examples=60)
@given(
    seed=st.integers(0, 5),
    request=requests(),
    prompt=st.lists(st.integers(0, VOCABULARY - 3), min_size=1, max_size=3),
    strings=st.lists(st.text("abcd", min_size=1, max_size=5), min_size=1, max_size=3),
    eos_ids=st.lists(TOKENS, max_size=2, unique=True),
)
def test_beams_end_in_stop_strings_as_those_of_transformers(
    seed: int, request: dict[str, Any], prompt: list[int], strings: list[str], eos_ids: list[int]
) -> None:
    """One that begins in the prompt counts, too."""
    tokenizer, model = lettered(), tiny(seed)
    expected = theirs(
        model, prompt, **request, eos_token_id=eos_ids or None, stop_strings=strings, tokenizer=tokenizer
    )
    strategy = search(
        prompt, **request, eos_ids=eos_ids, stop_strings=tuple(strings), decode=tokenizer.decode
    )
    answers = drive(strategy, prompt, logits_of(model))
    assert [answer.token_ids for answer in answers] == expected
    for answer in answers:
        asked, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + answer.token_ids)
        begun = [max(0, len(asked) - len(string) + 1) for string in strings]
        starts = [whole.find(s, i) for s, i in zip(strings, begun, strict=True) if whole.find(s, i) >= 0]
        assert answer.text == whole[len(asked) : max(len(asked), min(starts, default=len(whole)))]
        assert answer.finish_reason == ("stop" if starts or answer.token_ids[-1] in eos_ids else "length")


@pytest.mark.export_extra
@pytest.mark.slow
def test_sampled_beams_are_distributed_as_those_of_transformers() -> None:
    """Two samples of 2,000 searches; answers seen fewer than 20 times are counted as one.

    The end tokens are neither rare nor so likely that most answers are one: answers end after one, two and four.
    """
    import torch
    from transformers import generation

    model, prompt, count, eos_ids = tiny(1), [3, 7], 2000, [33, 49]
    given: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 4, "length_penalty": 0.5}
    torch.manual_seed(0)
    ids = torch.tensor([prompt] * count)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=49, eos_token_id=eos_ids, do_sample=True,
        top_k=7, temperature=2.0, **given,
    )  # fmt: skip
    lengths = [next((i + 1 for i, t in enumerate(a) if t in eos_ids), 4) for a in out[:, 2:].tolist()]
    expected = Counter(tuple(a[:n]) for a, n in zip(out[:, 2:].tolist(), lengths, strict=True))

    warp = processor(generation.TemperatureLogitsWarper(2.0), generation.TopKLogitsWarper(7))
    known: dict[tuple[int, ...], Floats] = {}

    def logits(rows: list[list[int]]) -> list[Floats]:
        for row in rows:
            known.setdefault(tuple(row), logits_of(model)([row])[0])
        return [known[tuple(row)] for row in rows]

    got = Counter[tuple[int, ...]]()
    for seed in range(count):
        strategy = search(prompt, **given, eos_ids=eos_ids, do_sample=True, processor=warp, seed=seed)
        got[tuple(drive(strategy, prompt, logits)[0].token_ids)] += 1
    kinds = [kind for kind in {*got, *expected} if got[kind] + expected[kind] >= 20]
    pairs = [(got[kind], expected[kind]) for kind in kinds]
    pairs.append((count - sum(a for a, _ in pairs), count - sum(b for _, b in pairs)))
    statistic = sum((a - b) ** 2 / (a + b) for a, b in pairs if a + b)
    freedom = len(pairs) - 1
    assert freedom > 12
    assert statistic < freedom + 3.5 * math.sqrt(2 * freedom)
