"""Oracle: `decode` of all ids at once. Tolerance: none."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pumice.generation.detokenizer import Detokenizer
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.conftest import SPECIALS, byte_fallback


def stream(tokenizer: PromptTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(i) for i in ids), detokenizer.finish()]


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from([" ", "  ", "\n", "🙂👩‍👩‍👧", "日本語", "red square", "\ufffd", "é", " , ."]),
    max_size=20,
).map("".join)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=TEXTS)
def test_pieces_joined_are_the_text_and_no_piece_ends_inside_a_character(
    tokenizer_json: bytes, text: str
) -> None:
    tokenizer = PromptTokenizer(tokenizer_json, reserved=[], template="")
    ids = Tokenizer.from_str(tokenizer_json.decode()).encode(text).ids
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    if "\ufffd" not in text and tokenizer.decode(ids) in (text, text.lstrip(" ")):
        assert not any("\ufffd" in piece for piece in pieces)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_ids_whatever(tokenizer_json: bytes, data: st.DataObject) -> None:
    tokenizer = PromptTokenizer(tokenizer_json, reserved=[], template="")
    size = Tokenizer.from_str(tokenizer_json.decode()).get_vocab_size()
    bytes_and_specials = st.integers(0, len(SPECIALS) + 256)
    ids = data.draw(st.lists(st.integers(0, size - 1) | bytes_and_specials, max_size=120))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_text_is_that_of_tokenizers_where_bytes_are_characters(
    tokenizer_json: bytes, data: st.DataObject
) -> None:
    """Elsewhere tokenizers make � of every byte in a row; here of those that belong to no character."""
    tokenizer, original = (
        PromptTokenizer(tokenizer_json, reserved=[], template=""),
        Tokenizer.from_str(tokenizer_json.decode()),
    )
    size = original.get_vocab_size()
    characters = st.text(max_size=2).filter(str.isprintable).map(lambda text: encoded(tokenizer, text))
    others = st.integers(0, size - 1).filter(lambda i: i not in tokenizer.byte_values).map(lambda i: [i])
    ids = [i for part in data.draw(st.lists(characters | others, max_size=40)) for i in part]
    assert tokenizer.decode(ids) == original.decode(ids, skip_special_tokens=True)


def encoded(tokenizer: PromptTokenizer, text: str) -> list[int]:
    """A text as single bytes; nothing where the tokenizer has none."""
    ids = {byte: i for i, byte in tokenizer.byte_values.items()}
    return [ids[byte] for byte in text.encode()] if ids else []


FALLBACK = PromptTokenizer(byte_fallback().to_str().encode(), reserved=[], template="")


@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        ("대화".encode(), ["", "", "대", "", "", "화"]),
        ("é🙂a".encode(), ["", "é", "", "", "", "🙂", "a"]),
        (b"\xeb\x8c\x80\xff\xed\x99\x94", ["", "", "대", "\ufffd", "", "", "화"]),
        (b"\x80a\xed\xa0\x80", ["\ufffd", "a", "", "", "\ufffd\ufffd\ufffd"]),  # half of a surrogate pair
        (b"a\xf0\x9f", ["a", "", ""]),
    ],
)  # fmt: skip
def test_a_character_of_single_bytes_is_shown_with_its_last_one(data: bytes, pieces: list[str]) -> None:
    ids = {byte: i for i, byte in FALLBACK.byte_values.items()}
    detokenizer = Detokenizer(FALLBACK)
    assert [detokenizer.add(ids[byte]) for byte in data] == pieces
    rest = detokenizer.finish()
    assert "".join(pieces) + rest == FALLBACK.decode([ids[byte] for byte in data])
    assert rest == ("\ufffd\ufffd" if data.endswith(b"\x9f") else "")


def test_special_tokens_and_ids_without_a_token_do_not_part_bytes() -> None:
    ids = {byte: i for i, byte in FALLBACK.byte_values.items()}
    first, second = (ids[byte] for byte in "é".encode())
    for between in (2, 10_000):
        detokenizer = Detokenizer(FALLBACK)
        assert [detokenizer.add(i) for i in (first, between, second)] == ["", "", "é"]
        assert FALLBACK.decode([first, between, second]) == "é"


def test_a_token_costs_the_same_at_any_position(
    tokenizer_json: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = PromptTokenizer(tokenizer_json, reserved=[], template="")
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return original(ids)

    original = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", decode)
    size = Tokenizer.from_str(tokenizer_json.decode()).get_vocab_size()
    detokenizer = Detokenizer(tokenizer)
    for i in range(5_000):
        detokenizer.add(size // 2 + i % (size // 2))
    for i in range(5_000):
        detokenizer.add((size - 1, len(SPECIALS))[i % 2])
    for _ in range(5_000):
        detokenizer.add(len(SPECIALS) + ord("a"))
    assert longest < 150
