"""What positions hold, and how far two sequences agree. Oracle: a loop over both."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pumice.decoder.prefix_keys import Key, common_prefix, prompt_keys

KEYS = st.lists(st.integers(0, 3) | st.sampled_from([b"a" * 32, b"b" * 32]), max_size=40)


@dataclass(frozen=True)
class Pixels:
    digest: bytes
    tokens: int


@given(first=KEYS, second=KEYS, shared=KEYS)
def test_common_prefixes(first: list[Key], second: list[Key], shared: list[Key]) -> None:
    one, other = [*shared, *first], [*shared, *second]
    expected = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        expected += 1
    assert common_prefix(one, other) == expected
    assert common_prefix(tuple(one), other) == expected
    assert common_prefix(one, one) == len(one)


def test_image_tokens_are_their_images() -> None:
    images = [Pixels(b"a" * 32, 2), Pixels(b"b" * 32, 1), Pixels(b"a" * 32, 2)]
    keys = prompt_keys([1, 9, 9, 5, 9, 9, 9, 2], 9, images)
    assert keys == [1, b"a" * 32, b"a" * 32, 5, b"b" * 32, b"a" * 32, b"a" * 32, 2]
    assert prompt_keys([1, 9], 9, []) == [1, 9]  # a word, where there is no image


@given(token=st.integers(0, 2**63 - 1), digest=st.binary(min_size=32, max_size=32))
def test_an_id_is_no_digest(token: int, digest: bytes) -> None:
    assert common_prefix([token], [digest]) == 0
    assert common_prefix([token], [token.to_bytes(32, "little")]) == 0
