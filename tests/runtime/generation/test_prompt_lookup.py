"""Guesses against a plain reference and transformers', and how many of them are made."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from pumice.generation.prompt_lookup import MOST_DRAFTED, Drafter, best_length, draft
from tests.steps import check_steps


def array(ids: list[int]) -> NDArray[np.int64]:
    return np.array(ids, np.int64)


def reference(ids: list[int], most: int, longest: int, stop_ids: list[int]) -> tuple[int, ...]:
    for n in range(longest, 0, -1):
        ends = [end for end in range(n, len(ids)) if ids[end - n : end] == ids[len(ids) - n :]]
        if ends:
            start = ends[-1]
            guesses = [ids[start + i % (len(ids) - start)] for i in range(most)]
            stops = [i for i, token in enumerate(guesses) if token in stop_ids]
            return tuple(guesses[: stops[0]] if stops else guesses)
    return ()


@given(
    st.lists(st.integers(0, 4), max_size=30),
    st.integers(0, 9),
    st.integers(1, 4),
    st.lists(st.integers(0, 4), max_size=1),
)
def test_as_the_reference(ids: list[int], most: int, longest: int, stop_ids: list[int]) -> None:
    expected = reference(ids, most, longest, stop_ids)
    assert draft(array(ids), most=most, longest_ngram=longest, stop_ids=stop_ids) == expected


def test_as_transformers_where_there_is_one_place() -> None:
    """Of several places transformers takes the first, and never reads past the end."""
    theirs = PromptLookupCandidateGenerator(
        eos_token_id=torch.tensor([7]), num_output_tokens=4, max_matching_ngram_size=2, max_length=1000
    )
    rng, compared = np.random.default_rng(0), 0
    for _ in range(300):
        ids = rng.permutation(60).tolist()
        place = int(rng.integers(2, 50))
        ids += ids[place - 2 : place] if rng.random() < 0.8 else []
        candidates, _ = theirs.get_candidates(torch.tensor([ids]))
        expected = tuple(candidates[0, len(ids) :].tolist())
        assert draft(array(ids), most=4, stop_ids=[7]) == expected
        compared += bool(expected)
    assert compared > 200


def test_text_with_a_period_goes_on_with_it() -> None:
    assert draft(array([9, 1, 2, 3, 1, 2, 3]), most=7) == (1, 2, 3, 1, 2, 3, 1)
    assert draft(array([5, 5]), most=3) == (5, 5, 5)


def test_the_input_is_not_changed_and_nothing_is_guessed_from_nothing() -> None:
    ids = array([1, 2, 1])
    draft(ids, most=3)
    assert ids.tolist() == [1, 2, 1]
    assert draft(array([]), most=3) == draft(array([1]), most=3) == draft(array([1, 2, 3]), most=3) == ()


@pytest.mark.parametrize("length", [40, 4_000, 400_000])
def test_a_long_context_takes_no_more_steps(length: int) -> None:
    """NumPy looks through it, not Python."""
    ids = np.random.default_rng(0).integers(0, 2000, length)
    ids[-2:] = ids[10:12]  # there is something to find
    check_steps(draft.__module__, 60, lambda: assert_found(draft(ids, most=8, stop_ids=(1, 2))))


def assert_found(guesses: tuple[int, ...]) -> None:
    assert len(guesses) == 8


def passes(ids: NDArray[np.int64], drafter: Drafter, prompt: int) -> list[int]:
    """The counts of tokens read in each pass while `ids` are written behind their first `prompt`."""
    position, reads = prompt, []
    while position < len(ids):
        guesses = drafter.propose(ids[:position])
        reads.append(1 + len(guesses))
        for guess in (*guesses, None):
            drafter.see(int(ids[position]))
            position += 1
            if guess != ids[position - 1] or position == len(ids):
                break
    return reads


def cost(reads: list[int]) -> float:
    return sum(1 + 0.25 * (count - 1) for count in reads)


def test_repeating_text_takes_fewer_passes() -> None:
    ids = np.tile(np.random.default_rng(0).permutation(100), 6)
    reads = passes(ids, Drafter(), 100)
    assert max(reads) == 1 + MOST_DRAFTED
    assert cost(reads) < 0.5 * 500


@pytest.mark.parametrize("letters", [3, 20, 200, 10**9])
def test_text_that_does_not_repeat_costs_nearly_nothing(letters: int) -> None:
    ids = np.random.default_rng(1).integers(0, letters, 1500)
    assert cost(passes(ids, Drafter(), 500)) < 1.02 * 1000


def test_guessing_comes_back_when_text_begins_to_repeat() -> None:
    rng = np.random.default_rng(2)
    ids = np.concatenate([rng.integers(0, 30, 800), np.tile(rng.permutation(50), 10)])
    drafter = Drafter()
    assert max(passes(ids[:800], drafter, 300)[-100:]) <= 2
    assert max(passes(ids, drafter, 800)) == 1 + MOST_DRAFTED


def test_same_tokens_same_guesses() -> None:
    ids = np.random.default_rng(3).integers(0, 5, 400)
    assert passes(ids, Drafter(), 50) == passes(ids, Drafter(), 50)


def test_stop_ids_and_the_limit_hold() -> None:
    ids = np.tile([1, 2, 3, 4], 50)
    drafter = Drafter(most=3, stop_ids=[3])
    for position in range(8, 200):
        guesses = drafter.propose(ids[:position])
        assert len(guesses) <= 3
        assert 3 not in guesses
        drafter.see(int(ids[position]))
    assert Drafter(most=0).propose(ids) == ()


def test_more_is_guessed_the_surer_it_is() -> None:
    lengths = [best_length(rate / 20, 8) for rate in range(21)]
    assert lengths == sorted(lengths)
    assert lengths[0] == best_length(0.2, 8) == 0
    assert lengths[-1] == 8
    assert best_length(1.0, 3) == 3


def test_after_a_wrong_guess_the_later_ones_count_for_nothing() -> None:
    drafter = Drafter()
    drafter.propose(np.tile([1, 2, 3], 9))
    drafter.see(9)
    rate = drafter.rate
    drafter.see(2)
    drafter.see(3)
    assert drafter.rate == rate < Drafter().rate
