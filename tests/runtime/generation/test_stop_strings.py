"""Stop strings against a plain reference, and against transformers' on tokens."""

from pathlib import Path
from typing import SupportsIndex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pumice.errors import UsageError
from pumice.generation.detokenizer import Detokenizer
from pumice.generation.stop_strings import StopStrings
from pumice.prompt.tokenizer import PromptTokenizer
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


@given(STRINGS, PIECES)
def test_as_the_reference(strings: list[str], pieces: list[str]) -> None:
    expected, found = reference(strings, pieces)
    stops, text = StopStrings(strings), ""
    for count, piece in enumerate(pieces):
        text += stops.add(piece)
        assert text == expected[min(count, len(expected) - 1)]
        assert stops.found == (found and count >= len(expected) - 1)
    text += stops.finish()
    assert text == (expected[-1] if found else "".join(pieces))
    assert stops.finish() == ""


def test_the_one_that_starts_first_wins() -> None:
    stops = StopStrings(["cd", "abcdef"])
    assert stops.add("xabcdefg") == "x"
    stops = StopStrings(["cd", "abcdef"])
    assert [stops.add(letter) for letter in "xabcdefg"] == ["x", "", "", "", "ab", "", "", ""]


def test_nothing_is_held_back_without_stop_strings() -> None:
    stops = StopStrings([])
    assert [stops.add("ab"), stops.add(""), stops.add("c"), stops.finish()] == ["ab", "", "c", ""]
    assert not stops.found


def test_an_empty_one_is_refused() -> None:
    with pytest.raises(UsageError, match="empty string"):
        StopStrings(["a", ""])


class Counted(str):
    """Text that counts the characters copied when it is cut or put together: what a line may cost beyond its step."""

    copied = 0

    @classmethod
    def copy(cls, text: str) -> str:
        cls.copied += len(text)
        return cls(text)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return self.copy(super().__getitem__(key))

    def __add__(self, other: str) -> str:
        return self.copy(super().__add__(other))

    def __radd__(self, other: str) -> str:
        return self.copy(other.__add__(self))


@pytest.mark.parametrize("piece_length", [1, 100])
def test_linear_in_text_and_strings(piece_length: int) -> None:
    """`aaa…ab` over `aaa…`: looking back every time would take the square of its length, 10^8 steps and more."""
    length = 10_000
    strings = ["a" * length + "b", "a" * (length // 2) + "c", "ba" * (length // 100)]
    text = "a" * 3 * length
    pieces = [Counted(text[i : i + piece_length]) for i in range(0, len(text), piece_length)]

    def work() -> None:
        stops = StopStrings(strings)
        assert sum(len(stops.add(piece)) for piece in pieces) == 2 * length
        assert len(stops.add("x")) == length + 1

    Counted.copied = 0
    characters = len(text) + sum(map(len, strings))
    check_steps(StopStrings.__module__, 40 * characters, work)
    assert Counted.copied <= 2 * characters


@pytest.fixture(scope="module")
def pebble() -> tuple[PromptTokenizer, object]:
    from transformers import PreTrainedTokenizerFast

    folder = Path(__file__).parents[3] / "pebble" / "checkpoint"
    tokenizer_json = (folder / "tokenizer.json").read_bytes()
    ours = PromptTokenizer(tokenizer_json, reserved=[], template="")
    return ours, PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def test_stops_at_the_token_at_which_transformers_does(pebble: tuple[PromptTokenizer, object]) -> None:
    """On text tokens. Where a character is incomplete ours waits for its end, so ASCII tokens are drawn."""
    from transformers.generation.stopping_criteria import StopStringCriteria

    ours, theirs = pebble
    texts = {i: ours.decode([i]) for i in range(544)}
    usable = [i for i, text in texts.items() if text and text.isascii() and i not in ours.control_ids]
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(150):
        ids = rng.choice(usable, 12).tolist()
        text = ours.decode(ids)
        start = int(rng.integers(0, len(text) - 1))
        strings = [text[start : start + int(rng.integers(1, 6))], "zq"]
        criterion = StopStringCriteria(theirs, strings)
        detokenizer, stops = Detokenizer(ours.decode, ours.held_ids), StopStrings(strings)
        for count in range(1, len(ids) + 1):
            stops.add(detokenizer.add(ids[count - 1]))
            done = bool(criterion(torch.tensor([ids[:count]]), torch.zeros(0)).item())
            assert stops.found == done, (strings, [texts[i] for i in ids[:count]])
            if done:
                stopped += 1
                break
    assert stopped > 100
