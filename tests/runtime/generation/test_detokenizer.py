"""Oracle: `decode` of all ids at once. Tolerance: none."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pumice.generation.detokenizer import Detokenizer
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.conftest import SPECIALS


def stream(tokenizer: PromptTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode, tokenizer.held_ids)
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


def test_a_token_costs_the_same_at_any_position(tokenizer_json: bytes) -> None:
    tokenizer = PromptTokenizer(tokenizer_json, reserved=[], template="")
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(ids)

    size = Tokenizer.from_str(tokenizer_json.decode()).get_vocab_size()
    detokenizer = Detokenizer(decode, tokenizer.held_ids)
    for i in range(5_000):
        detokenizer.add(size // 2 + i % (size // 2))
    for i in range(5_000):
        detokenizer.add((size - 1, len(SPECIALS))[i % 2])
    assert longest < 150
