"""Oracle: transformers' own processors, on the same logits. Tolerance: 1e-6 on scores; the same tokens are forbidden,
except that PyTorch leaves it to chance which of equals stays where only some of them do, and that float32 sums decide
who is still in: where transformers itself decides otherwise for logits moved by their last digit, either is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.generation import softmax as softmax_module
from pumice.generation.logits_processors import is_greedy, make_processor
from tests.runtime.generation.reference import Floats, options, ours, theirs

VOCABULARY = 50
IDS = st.lists(st.integers(0, VOCABULARY + 2), min_size=1, max_size=30)  # a placeholder has no logit
TOKENS = st.integers(0, VOCABULARY - 1)
RNG = np.random.default_rng(0)
LEAST = st.sampled_from([{}, {"num_beams": 3}])


@pytest.fixture(scope="module", autouse=True)
def lanes_of_this_cpu() -> Iterator[None]:
    """transformers decides a `typical_p` next to 1 by the width of the vectors that PyTorch has here."""
    with pytest.MonkeyPatch.context() as patch:
        if torch.backends.cpu.get_cpu_capability() != "AVX512":
            patch.setattr(softmax_module, "_LANES", 8)
        yield


@st.composite
def logits(draw: Any) -> Floats:
    """Flat or peaked, positive and negative, with ties, and with tokens that a constraint forbids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits_V = rng.normal(draw(st.sampled_from([-20, 0, 5])), draw(st.sampled_from([0.1, 1, 5])), VOCABULARY)
    if draw(st.booleans()):
        logits_V = np.round(logits_V, draw(st.sampled_from([0, 1])))
    if draw(st.integers(0, 3)) == 0:
        logits_V[rng.random(VOCABULARY) < 0.3] = -np.inf
        logits_V[7] = 1  # something stays
    return logits_V.astype(np.float32)


def check(
    ids: list[int], logits_V: Floats, arguments: dict[str, Any], eos: tuple[int, ...] = (2,), prompt: int = 1
) -> Floats:
    ids_T = np.array(ids, np.int64)
    got_V = ours(ids_T, logits_V, arguments, eos, prompt)
    expected_V = theirs(ids_T, logits_V, arguments, eos, prompt)
    both = np.isfinite(got_V) & np.isfinite(expected_V)
    np.testing.assert_allclose(got_V[both], expected_V[both], rtol=1e-6, atol=1e-6)
    assert agree(got_V, expected_V, logits_V) or any(
        agree(got_V, theirs(ids_T, moved_V, arguments, eos, prompt), logits_V) for moved_V in moved(logits_V)
    )
    return got_V


def agree(got_V: Floats, expected_V: Floats, logits_V: Floats) -> bool:
    """The same tokens are left; or as many with the same scores, where logits are equal."""
    if len(np.unique(logits_V)) == len(logits_V):
        return np.array_equal(np.isneginf(got_V), np.isneginf(expected_V))
    return np.allclose(np.sort(got_V), np.sort(expected_V), rtol=1e-5, atol=1e-5)


def moved(logits_V: Floats) -> Iterator[Floats]:
    """By about two units in the last place."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        yield (logits_V * (1 + rng.normal(size=len(logits_V)) * 2e-7)).astype(np.float32)


@given(ids=IDS, logits_V=logits(), penalty=st.floats(0.1, 10))
def test_repetition_penalty(ids: list[int], logits_V: Floats, penalty: float) -> None:
    check(ids, logits_V, {"repetition_penalty": penalty})


@given(ids=st.lists(st.integers(0, 3), max_size=25), logits_V=logits(), size=st.integers(1, 5))
def test_no_repeat_ngram_size(ids: list[int], logits_V: Floats, size: int) -> None:
    check(ids, logits_V, {"no_repeat_ngram_size": size})


def test_ngrams_of_ids_outside_the_vocabulary_forbid_nothing() -> None:
    check([1, 51, 1], np.zeros(VOCABULARY, np.float32), {"no_repeat_ngram_size": 2})
    got_V = check([1, 4, 1], np.zeros(VOCABULARY, np.float32), {"no_repeat_ngram_size": 2})
    assert np.flatnonzero(np.isneginf(got_V)).tolist() == [4]


@given(
    ids=st.lists(st.integers(0, 3), max_size=6),
    logits_V=logits(),
    words=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8),
    eos=st.sampled_from([(2,), (2, 3), (49,)]),
)
def test_bad_words_ids(
    ids: list[int], logits_V: Floats, words: list[list[int]], eos: tuple[int, ...]
) -> None:
    if all(len(word) == 1 and word[0] in eos for word in words):
        words = [*words, [5]]  # transformers refuses words of which none is left
    check(ids, logits_V, {"bad_words_ids": words}, eos)


@given(ids=IDS, logits_V=logits(), least=st.integers(0, 20), data=st.data())
def test_min_new_tokens(ids: list[int], logits_V: Floats, least: int, data: st.DataObject) -> None:
    eos = data.draw(st.sampled_from([(), (2,), (2, 49, 50)]))  # one of a manifest's may lie outside
    check(ids, logits_V, {"min_new_tokens": least}, eos, data.draw(st.integers(1, len(ids))))


@given(ids=IDS, logits_V=logits(), biases=st.dictionaries(TOKENS, st.floats(-100, 100), min_size=1))
def test_logit_bias_is_a_sequence_bias_of_one_token(
    ids: list[int], logits_V: Floats, biases: dict[int, float]
) -> None:
    check(ids, logits_V, {"logit_bias": biases})


WARPERS = {
    "temperature": st.floats(0.05, 10),
    "top_k": st.integers(1, VOCABULARY + 10),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1, exclude_min=True),
}


@pytest.mark.parametrize("name", WARPERS)
@settings(max_examples=300)
@given(ids=IDS, logits_V=logits(), beams=LEAST, data=st.data())
def test_warpers(
    name: str, ids: list[int], logits_V: Floats, beams: dict[str, int], data: st.DataObject
) -> None:
    alone = {"do_sample": True, "top_k": 0, name: data.draw(WARPERS[name])}
    check(ids, logits_V, alone | beams, (2, 3))


@pytest.mark.parametrize("rest", [1.1e-16, 1e-12, 1e-9, 1e-7, 1e-6, 1e-4])
def test_top_p_that_leaves_next_to_nothing_out(rest: float) -> None:
    for seed in range(20):
        logits_V = np.random.default_rng(seed).normal(0, 8, 300).astype(np.float32)
        check([0], logits_V, {"do_sample": True, "top_k": 0, "top_p": 1 - rest}, (2, 3))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50, 333, 40_000])
@pytest.mark.parametrize("scale", [0.1, 1, 4, 30, 1e37])
def test_softmax_is_pytorchs_to_the_last_bit(count: int, scale: float) -> None:
    """PyTorch's has minus infinities after `count` scores, as where transformers sorts a vocabulary."""
    scores = (np.random.default_rng(count).normal(size=count) * scale).astype(np.float32)
    padded = np.append(scores, np.full(20, -np.inf, np.float32))
    expected = torch.from_numpy(padded).softmax(-1).numpy()[:count]
    np.testing.assert_array_equal(softmax_module.softmax(scores), expected)


@pytest.mark.parametrize("typical_p", [1 - 2**-53, 1 - 2**-24, 1 - 2**-23, 1 - 1e-6, 1 - 1e-5])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_typical_p_that_only_rounding_reaches(typical_p: float, decimals: int) -> None:
    """One token has nearly all of it, and moving the others' logits by a last digit moves nothing."""
    for seed in range(40):
        logits_V = np.random.default_rng(seed).normal(0, 5, VOCABULARY).round(decimals).astype(np.float32)
        check([0], logits_V, {"do_sample": True, "top_k": 0, "typical_p": typical_p}, (2, 3))


@settings(max_examples=500)
@given(
    ids=IDS,
    logits_V=logits(),
    beams=LEAST,
    warpers=st.fixed_dictionaries({}, optional=WARPERS),
    others=st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.floats(0.5, 2),
            "no_repeat_ngram_size": st.integers(1, 3),
            "bad_words_ids": st.lists(
                st.lists(st.integers(3, 20), min_size=1, max_size=3), min_size=1, max_size=4
            ),
            "min_new_tokens": st.integers(0, 20),
            "logit_bias": st.dictionaries(TOKENS, st.floats(-5, 5), min_size=1, max_size=4),
        },
    ),
)
def test_all_together_in_transformers_order(
    ids: list[int], logits_V: Floats, beams: dict[str, int], warpers: dict[str, Any], others: dict[str, Any]
) -> None:
    if beams:
        warpers.pop(
            "min_p", None
        )  # transformers keeps any tokens whose probabilities underflow; pumice the likeliest
    logits_V[7] = max(logits_V[7], 0)
    ids = [token for token in ids if token != 7]
    others["bad_words_ids"] = [word for word in others.get("bad_words_ids", ()) if word[-1] != 7] or [[9, 9]]
    check(ids, logits_V, {"do_sample": True} | beams | warpers | others, (2, 3), 1 + len(ids) // 2)


@pytest.mark.parametrize("scale", [0.01, 1, 4, 12])
@pytest.mark.parametrize(
    "warpers",
    [
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"typical_p": 0.9},
        {"typical_p": 0.2},
        {"typical_p": 1 - 2**-20},
        {"min_p": 0.05},
        {"top_k": 3000},
    ],
)
def test_a_whole_vocabulary(scale: float, warpers: dict[str, float]) -> None:
    """So many that 1,024 candidates are enough, or 16,384, or not."""
    logits_V = (np.random.default_rng(1).normal(size=40_000) * scale).astype(np.float32)
    ids_T = np.arange(10)
    arguments = {"do_sample": True, "top_k": 0, **warpers}
    got_V, expected_V = ours(ids_T, logits_V, arguments), theirs(ids_T, logits_V, arguments)
    different = np.isneginf(got_V) != np.isneginf(expected_V)
    # sums of 40,000 float32 probabilities are good for so much
    assert different.sum() <= 1e-4 * np.isfinite(expected_V).sum()
    np.testing.assert_array_equal(got_V[~different], expected_V[~different])


def test_neutral_options_do_nothing_at_all() -> None:
    logits_V = np.arange(VOCABULARY, dtype=np.float32)
    ids_T = np.arange(4)
    assert make_processor(options(), 4)(ids_T, logits_V, RNG) is logits_V
    assert make_processor(options(top_k=3, top_p=0.5, temperature=2.0), 4)(ids_T, logits_V, RNG) is logits_V
    assert make_processor(options(do_sample=True, top_k=0), 4)(ids_T, logits_V, RNG) is logits_V


@pytest.mark.parametrize(
    ("changes", "greedy"),
    [
        ({}, True),
        ({"top_k": 3, "top_p": 0.5, "temperature": 2.0}, True),  # they do nothing without do_sample
        ({"do_sample": True}, False),
        ({"num_beams": 2}, False),
        ({"logprobs": 0}, False),
        ({"json_schema": "true"}, False),
        ({"regex": "a"}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"no_repeat_ngram_size": 2}, False),
        ({"bad_words_ids": [[5]]}, False),
        ({"logit_bias": {5: 1.0}}, False),
        ({"min_new_tokens": 3}, False),
    ],
    ids=str,
)
def test_the_likeliest_token_is_enough_where_nothing_else_counts(
    changes: dict[str, Any], greedy: bool
) -> None:
    assert is_greedy(options(**changes)) is greedy


def test_scores_that_overflow_are_left_to_the_sampler() -> None:
    process = make_processor(options(do_sample=True, temperature=1e-5, top_p=0.5), 1)
    assert process(np.arange(1), np.array([3e38, 1], np.float32), RNG).max() == np.inf
