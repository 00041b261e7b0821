"""Options that are no plain numbers: ids, words, biases, texts and schemas; which are taken, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.generation.reference import options, refused

VOCABULARY = 50


def test_ends() -> None:
    assert options(eos_token_id=7).eos_token_id == (7,)
    assert options(eos_token_id=np.int64(7)).eos_token_id == (7,)
    assert options(eos_token_id=[7, np.int32(8)]).eos_token_id == (7, 8)
    assert options(eos_token_id=np.array([7, 8])).eos_token_id == (7, 8)
    assert options(eos_token_id=[]).eos_token_id == ()
    for value in (-1, VOCABULARY, [1, VOCABULARY], "2", [True], 1.0, [[1]]):
        assert "eos_token_id is" in refused(eos_token_id=value)
        assert "each 0 to 49" in refused(eos_token_id=value)


def test_bad_words() -> None:
    assert options(bad_words_ids=[[1, 2], (np.int64(3),)]).bad_words_ids == ((1, 2), (3,))
    assert options(bad_words_ids=[]).bad_words_ids == ()
    many = [[[1]] * 10_001, [[1] * 65]]
    for value in ([1], [[]], [[-1]], [[VOCABULARY]], [["a"]], [[True]], "ab", 3, {1: 2}, *many):
        assert "expected at most 10,000 lists of 1 to 64 token ids, each 0 to 49" in refused(
            bad_words_ids=value
        )


def test_biases() -> None:
    assert options(logit_bias={"7": 1, 3: np.float32(-2)}).logit_bias == ((3, -2.0), (7, 1.0))
    for key in (-1, VOCABULARY, "-1", "50", "x", "1.0", "²", "9" * 5000, 1.0, True, (1,), None):
        assert "expected a mapping of token ids, each 0 to 49, to numbers" in refused(logit_bias={key: 1})
    for bias in (np.nan, np.inf, -np.inf, "1", None, True, 10_001):
        assert "each -10000 to 10000" in refused(logit_bias={1: bias})
    assert "each -10000 to 10000" in refused(logit_bias=[(1, 2)])
    assert "twice" in refused(logit_bias={1: 1, "1": 2})


def test_stop_strings() -> None:
    assert options(stop_strings="a").stop_strings == ("a",)
    assert options(stop_strings=["a", "b", "a"]).stop_strings == ("a", "b")
    for value in ("", ["a", ""], [1], 3, b"ab", ["x" * 1001], ["a"] * 65, ["\ud800"]):
        assert "a text or at most 64, each of 1 to 1,000 characters" in refused(stop_strings=value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(schema=st.dictionaries(st.text("abé\n", max_size=3), JSON) | st.booleans())
def test_schemas_become_one_text_however_they_are_given(schema: Any) -> None:
    text = options(json_schema=schema).json_schema
    assert text is not None
    assert json.loads(text) == schema
    assert options(json_schema=json.dumps(schema, indent=3)).json_schema == text


def test_schemas_keep_the_order_of_properties() -> None:
    assert options(json_schema={"b": 1, "a": "é"}).json_schema == '{"b":1,"a":"é"}'


def test_schemas_that_are_none() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    texts = ["", "{", "3", "[]", '{"a": NaN}', "[" * 100_000]
    for value in (*texts, 3, [], {"a": {1}}, {"a": np.nan}, {"\ud800": 1}, deep, {"a": "x" * 1_000_001}):
        message = refused(json_schema=value)
        assert "json_schema is" in message
        assert "expected a JSON schema" in message


def test_regular_expressions_are_texts() -> None:
    assert options(regex="a+").regex == "a+"
    for value in (b"a", 3, ["a"], "x" * 1_000_001, "\ud800"):
        assert "expected a text of at most" in refused(regex=value)
