from __future__ import annotations

import pytest

from bench.real.windows import CONTEXT, LENGTH, POSITIONS, Window, windows

IDS = range(1, 4001)


@pytest.mark.parametrize("positions", [1, 5, LENGTH - CONTEXT, LENGTH - CONTEXT + 1, POSITIONS, 3000])
def test_every_position_behind_the_first_context_is_scored_once(positions: int) -> None:
    scored = [token for window in windows(IDS, positions) for token in window.scored]
    assert scored == list(IDS[CONTEXT : CONTEXT + positions])


@pytest.mark.parametrize("positions", [1, POSITIONS, POSITIONS + 17])
def test_windows_read_what_stands_before(positions: int) -> None:
    for window in windows(IDS, positions):
        start = window.scored[0] - CONTEXT
        assert window.read == (0, *range(start, window.scored[-1]))  # not the last that is scored
        assert window.context == CONTEXT
        assert len(window.read) <= LENGTH


def test_the_last_logits_are_of_what_is_scored() -> None:
    """The logits of a token tell the next."""
    (window,) = windows(range(10, 4000), 3)
    assert window.scored == (138, 139, 140)
    assert window.read[window.context :] == (137, 138, 139)


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="the text has 130 tokens, expected 131 or more"):
        list(windows(range(130), 3))


def test_a_window_without_context() -> None:
    assert Window(read=(0, 1, 2), scored=(1, 2, 3)).context == 0
