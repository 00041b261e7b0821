"""Where prompts are cut. No outside oracle: the rules of `pumice.scheduler.chunks`, over all lengths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pumice.scheduler.chunks import resumed, run_end

SIZES = (32, 128, 512, 2048)


def runs(length: int, size: int, start: int = 0) -> list[int]:
    """How many tokens each run reads."""
    found = []
    while start < length:
        end = run_end(start, length, size)
        assert start < end <= length
        found.append(end - start)
        start = end
    return found


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (1, 32, [1]),
        (2, 32, [2]),
        (3, 32, [3]),
        (32, 32, [32]),
        (33, 32, [30, 3]),
        (34, 32, [30, 4]),
        (35, 32, [32, 3]),
        (65, 128, [62, 3]),
        (129, 128, [126, 3]),
        (161, 128, [128, 30, 3]),
        (300, 128, [128, 128, 44]),
    ],
)
def test_examples(length: int, size: int, expected: list[int]) -> None:
    assert runs(length, size) == expected


@given(length=st.integers(1, 5000), size=st.sampled_from(SIZES))
def test_no_run_leaves_a_token_alone(length: int, size: int) -> None:
    found = runs(length, size)
    assert sum(found) == length
    assert max(found) <= size
    assert all(tokens % 2 == 0 for tokens in found[:-1])
    if length >= 3:
        assert found[-1] >= 3
        assert found[-1] % 32 not in (1, 2)


@given(length=st.integers(1, 5000), share=st.floats(0, 1), size=st.sampled_from(SIZES))
def test_what_is_held_is_read_again_as_little_as_possible(length: int, share: float, size: int) -> None:
    held = round(share * length)
    start = resumed(held, length)
    assert start % 2 == 0
    assert start <= held
    assert start < length
    assert start >= min(held, length - 3) - 3
    if start:
        assert runs(length, size, start)[-1] >= 3
    if 0 < length - start <= size and start:
        assert len(runs(length, size, start)) == 1


def test_nothing_held_is_resumed_at_the_beginning() -> None:
    assert [resumed(0, length) for length in (1, 2, 3, 100)] == [0, 0, 0, 0]
    assert [resumed(length, length) for length in (1, 2, 3, 4, 5, 100)] == [0, 0, 0, 0, 2, 96]
