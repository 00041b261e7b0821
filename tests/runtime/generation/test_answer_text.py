"""An answer's text with stop strings. Oracles: transformers' `StopStringCriteria` for where it ends, tokenizers'
`decode` for what it says. Tolerance: none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from pumice.generation.answer_text import AnswerText
from pumice.prompt.tokenizer import PromptTokenizer
from tests.runtime.conftest import SPECIALS, byte_fallback, byte_level, fast_tokenizer

TEXTS = (
    "red square 🙂👩‍👩‍👧 ok", "안녕하세요 세계", "日本語のテスト。次", "Привет, мир", "café naïve", "مرحبا نص",
    "What is shown</s> in this", "a<|im_end|>b", "one\n\n### two", "हिन्दी पाठ", "<s>x</s></s>",
)  # fmt: skip


def said(
    tokenizer: PromptTokenizer, ids: list[int], stops: list[str], prompt: list[int]
) -> tuple[list[str], int]:
    """The pieces, and how many tokens were looked at."""
    text, pieces = AnswerText(tokenizer, stops, prompt), []
    for token_id in ids:
        pieces.append(text.add(token_id))
        if text.found:
            break
    return [*pieces, text.finish()], len(pieces)


@pytest.mark.export_extra
@pytest.mark.parametrize("seed", range(3))
def test_ends_where_transformers_ends(tokenizer_json: bytes, tmp_path: Path, seed: int) -> None:
    import torch
    from transformers.generation.stopping_criteria import StopStringCriteria

    ours, original = (
        PromptTokenizer(tokenizer_json, reserved=[], template=""),
        Tokenizer.from_str(tokenizer_json.decode()),
    )
    fast, draw, stopped = fast_tokenizer(tokenizer_json, tmp_path), random.Random(seed), 0
    for _ in range(60):
        ids = original.encode("".join(draw.sample(TEXTS, 2)), add_special_tokens=False).ids
        if draw.random() < 0.3:
            ids = [draw.randrange(original.get_vocab_size()) for _ in range(20)]
        prompt = original.encode(draw.choice(TEXTS)).ids
        stops = [*stop_strings(draw, fast.decode(prompt[-2:] + ids)), "never said"]
        criterion = StopStringCriteria(fast, stops)
        ends = [
            bool(criterion(torch.tensor([prompt + ids[:count]]), torch.zeros(0)).item())
            for count in range(1, len(ids) + 1)
        ]
        pieces, count = said(ours, ids, stops, prompt)
        assert count == (ends.index(True) + 1 if any(ends) else len(ids))
        asked = original.decode(prompt, skip_special_tokens=False)
        check_text("".join(pieces), original, ids[:count], stops if any(ends) else [], asked)
        stopped += any(ends)
    assert stopped > 20


def stop_strings(draw: random.Random, text: str) -> list[str]:
    """Parts of a text, as they may be asked for."""
    starts = [draw.randrange(len(text)) for _ in range(2)]
    return [text[start : start + draw.randint(1, 6)].replace("\ufffd", "?") for start in starts]


def check_text(shown: str, original: Tokenizer, ids: list[int], stops: list[str], asked: str) -> None:
    """A text is what its tokens say, up to a stop string that is part of it; the prompt is `asked`."""
    whole = original.decode(ids, skip_special_tokens=True)
    if "\ufffd" in whole:
        return
    if not stops:
        assert shown == whole
    assert whole.startswith(shown)
    inside = [whole.index(one) for one in stops if one in whole]
    before = [n for one in stops for n in range(1, len(one)) if asked.endswith(one[:n])]
    # A text's first space may be lost; a stop string with a special token's name is no part of the text.
    if inside and not before and not any(one.startswith(" ") or "<" in one or ">" in one for one in stops):
        assert shown == whole[: min(inside)]


def ids_of(tokenizer: Tokenizer, *parts: str) -> list[int]:
    """Parts after one another, each as it is tokenised by itself."""
    return [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False).ids]


def test_korean_ends_with_the_byte_that_completes_it() -> None:
    original = byte_fallback()
    ours = PromptTokenizer(original.to_str().encode(), reserved=[], template="")
    ids = ids_of(original, "사진 속 개 다음")
    pieces, count = said(ours, ids, ["속"], [])
    # ▁, two characters of three bytes, ▁, and three bytes of the stop string
    assert (pieces, count) == (["", *["", "", "사"], *["", "", "진"], " ", "", "", "", ""], 11)


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
@pytest.mark.parametrize(
    ("stop", "text", "left"),
    [
        ("</s>", "red square", 1),
        ("<|im_end|>", "red square", 3),
        ("square</s>", "red ", 1),
        ("</s></s>", "red square", 2),
        ("s>", "red square", 1),
        ("</s></s><|im_", "red square", 3),
    ],
)
def test_names_of_special_tokens_end_an_answer(make: Any, stop: str, text: str, left: int) -> None:
    """`left` counts the special tokens at which it ends; they are never shown."""
    original = make()
    ours = PromptTokenizer(original.to_str().encode(), reserved=[], template="")
    begin = ids_of(original, "red square")
    specials = [original.token_to_id(name) for name in ("</s>", "</s>", "<|im_end|>")]
    pieces, count = said(ours, [*begin, *specials, *begin], [stop], [])
    assert count == len(begin) + left
    assert "".join(pieces) == text


def test_a_stop_string_goes_on_from_a_special_token() -> None:
    original = byte_level()
    ours = PromptTokenizer(original.to_str().encode(), reserved=[], template="")
    ids = ids_of(original, " square", "<|im_end|>", " circle", " square")
    assert said(ours, ids, ["im_end|> cir"], []) == ([" square", "", "", ""], 3)
    assert said(ours, ids, ["im_end|> cit"], [])[0] == [" square", "", " circle", " square", ""]


def test_a_part_of_a_token_is_held_back_and_given_out() -> None:
    original = byte_level()
    ours = PromptTokenizer(original.to_str().encode(), reserved=[], template="")
    ids = ids_of(original, " square", " circle")
    assert len(ids) == 2
    text = AnswerText(ours, ["are dance"], [])
    assert [text.add(ids[0]), text.add(ids[1]), text.finish()] == [" squ", "are circle", ""]
    cut = AnswerText(ours, ["are circ"], [])
    assert [cut.add(ids[0]), cut.add(ids[1]), cut.finish(), cut.found] == [" squ", "", "", True]


def test_a_stop_string_may_begin_in_the_prompt_but_not_end_there() -> None:
    original = byte_level()
    ours = PromptTokenizer(original.to_str().encode(), reserved=[], template="")
    prompt, ids = ids_of(original, "USER: red"), ids_of(original, " square", " red")
    assert said(ours, ids, ["red squ"], prompt) == (["", ""], 1)
    pieces, count = said(ours, ids, ["USER", "red"], prompt)
    assert ("".join(pieces), count) == (" square ", 2)
    assert set(SPECIALS) & set(original.encode("USER: red").tokens) == set()
