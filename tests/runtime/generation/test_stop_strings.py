"""Stop strings against a plain reference, on text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pumice.errors import UsageError
from pumice.generation.answer_text import AnswerText
from pumice.generation.stop_strings import StopStrings
from tests.runtime.generation.plain_tokenizer import PlainTokenizer
from tests.steps import check_steps

LETTERS = "ab#é日"
STRINGS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=4)
PIECES = st.lists(st.text(LETTERS, max_size=5), max_size=15)


def reference(strings: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What may be shown after each piece, by looking at all of the text every time."""
    shown = []
    for count in range(1, len(pieces) + 1):
        text = "".join(pieces[:count])
        starts = [text.index(string) for string in strings if string in text]
        if starts:
            return [*shown, text[: min(starts)]], True
        held = max(
            (n for string in strings for n in range(len(string)) if text.endswith(string[:n])), default=0
        )
        shown.append(text[: len(text) - held])
    return shown, False


class Said:
    """An answer whose tokens are pieces of text."""

    def __init__(self, strings: list[str]) -> None:
        self._pieces: list[str] = []
        self.decoded = 0
        self._text = AnswerText(PlainTokenizer(self._decode), strings, [])

    def _decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return "".join(self._pieces[i] for i in ids)

    @property
    def found(self) -> bool:
        return self._text.found

    def add(self, piece: str) -> str:
        self._pieces.append(piece)
        return self._text.add(len(self._pieces) - 1)

    def finish(self) -> str:
        return self._text.finish()


@given(STRINGS, PIECES)
def test_as_the_reference(strings: list[str], pieces: list[str]) -> None:
    expected, found = reference(strings, pieces)
    stops, text = Said(strings), ""
    for count, piece in enumerate(pieces):
        if stops.found:
            break  # as answers do
        text += stops.add(piece)
        assert text == expected[min(count, len(expected) - 1)]
        assert stops.found == (found and count >= len(expected) - 1)
    text += stops.finish()
    assert text == (expected[-1] if found else "".join(pieces))
    assert stops.finish() == ""


def test_the_one_that_starts_first_wins() -> None:
    stops = Said(["cd", "abcdef"])
    assert stops.add("xabcdefg") == "x"
    stops = Said(["cd", "abcdef"])
    assert [stops.add(letter) for letter in "xabcd"] == ["x", "", "", "", "ab"]
    assert stops.found


def test_nothing_is_held_back_without_stop_strings() -> None:
    stops = Said([])
    assert [stops.add("ab"), stops.add(""), stops.add("c"), stops.finish()] == ["ab", "", "c", ""]
    assert not stops.found


def test_an_empty_one_is_refused() -> None:
    with pytest.raises(UsageError, match="empty string"):
        StopStrings(["a", ""])


@pytest.mark.parametrize("piece_length", [1, 100])
def test_linear_in_text_and_strings(piece_length: int) -> None:
    """`aaa…ab` over `aaa…`: looking back every time would take the square of its length, 10^8 steps and more."""
    length = 10_000
    strings = ["a" * length + "b", "a" * (length // 2) + "c", "ba" * (length // 100)]
    text = "a" * 3 * length
    pieces = [text[i : i + piece_length] for i in range(0, len(text), piece_length)]
    characters = len(text) + sum(map(len, strings))
    decoded = []

    def work() -> None:
        stops = Said(strings)
        assert sum(len(stops.add(piece)) for piece in pieces) == 2 * length
        assert len(stops.add("x")) == length + 1
        decoded.append(stops.decoded)

    for module in (StopStrings.__module__, AnswerText.__module__):
        check_steps(module, 40 * characters, work)
    assert max(decoded) < 40 * (len(pieces) + 1)
