"""Greedy answers: of bundles beside float32's, for people to read; and whether a float32 bundle's are transformers'.

Enters: bundles, the Llama checkpoint that they were exported from, questions. Leaves: answers as token ids, and a
`Comparison` of each with the tokens that transformers would have chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pumice
from bench.real.reference import load_reference, whole_logits
from bench.real.windows import Window


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A bundle's greedy answer; `prompt` and `tokens` are ids, an end token among the latter."""

    question: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An answer beside transformers': `same_prompt` ids, and how many tokens are the same before the first other.

    `margin` is by how much transformers preferred its own token there, in logits; None where there is no other.
    """

    answer: Answer
    same_prompt: bool
    same_tokens: int
    margin: float | None

    @property
    def equal(self) -> bool:
        """Prompt and answer are transformers'."""
        return self.same_prompt and self.same_tokens == len(self.answer.tokens)


def answer(bundle: Path, questions: Sequence[str], most: int) -> list[Answer]:
    """Greedy answers of at most `most` tokens, several at a time, no drafts."""
    model = pumice.load(bundle, device="cpu", prefix_cache_bytes=0)
    found = model.generate(
        list(questions), max_new_tokens=most, do_sample=False, num_beams=1, prompt_lookup_num_tokens=0
    )
    return [
        Answer(
            question=question,
            prompt=tuple(int(token) for token in model.prepare(question).input_ids[0]),
            tokens=tuple(generation.token_ids),
            text=generation.text,
        )
        for question, generation in zip(questions, found, strict=True)
    ]


def compare(llama: Path, answers: Sequence[Answer]) -> list[Comparison]:
    """What transformers makes of each question, and the token that it would choose at each place of the answer.

    It reads prompt and answer at once: as far as all tokens before are those that it chose itself, that is what it
    would have written.
    """
    from transformers import AutoTokenizer

    model, tokenizer = load_reference(llama), AutoTokenizer.from_pretrained(llama)
    found = []
    for each in answers:
        said = [{"role": "user", "content": each.question}]
        text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        window = Window(read=(*prompt, *each.tokens[:-1]), scored=each.tokens)
        logits_NV = whole_logits(model, window)
        other = np.flatnonzero(logits_NV.argmax(-1) != np.array(each.tokens))
        first = int(other[0]) if len(other) else None
        found.append(
            Comparison(
                answer=each,
                same_prompt=prompt == each.prompt,
                same_tokens=len(each.tokens) if first is None else first,
                margin=None
                if first is None
                else float(logits_NV[first].max() - logits_NV[first, each.tokens[first]]),
            )
        )
    return found


def parity_report(compared: Sequence[Comparison]) -> str:
    """A line a question, and how many are equal."""
    lines = []
    for each in compared:
        count = len(each.answer.tokens)
        if each.equal:
            said = f"{count} tokens, all the same"
        elif not each.same_prompt:
            said = "another prompt than transformers'"
        else:
            said = f"other at token {each.same_tokens + 1} of {count}, by {each.margin:.2g} of a logit"
        lines.append(f"{'ok   ' if each.equal else 'WRONG'}  {each.answer.question}  {said}")
    equal = [each for each in compared if each.equal]
    tokens = sum(len(each.answer.tokens) for each in equal)
    return "\n".join(
        [*lines, f"{len(equal)} of {len(compared)} answers are transformers', {tokens:,} tokens"]
    )


def side_by_side(theirs: Sequence[Answer], ours: dict[str, list[Answer]]) -> str:
    """Markdown: each question with float32's answer, and below the others', by the name of their bundle."""
    parts = []
    for number, right in enumerate(theirs):
        parts.append(
            f"## {right.question}\n\n**float32** ({len(right.tokens)} tokens)\n\n{_quoted(right.text)}"
        )
        for name, answers in ours.items():
            told = answers[number]
            same = _agreeing(right.tokens, told.tokens)
            parts.append(
                f"**{name}** ({len(told.tokens)} tokens, the first {same} as float32's)\n\n{_quoted(told.text)}"
            )
    return "\n\n".join(parts)


def _agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens are the same before the first that is not."""
    pairs = list(zip(one, other, strict=False))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))
