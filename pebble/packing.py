"""Many questions about one picture in one sequence: a prefix, then questions blind to each other.

    prefix                      question 1           question 2
    <s> USER: <image>…<image>\\n  What is …? … Red.</s>  How many …? … Two.</s>
    0   1   …                 k  k+1 k+2 …            k+1 k+2 …          ← position ids

A question attends to the prefix and to itself, exactly as if it were alone; the prefix is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pebble.architecture import IMAGE_TOKENS
from pebble.records import Turn
from pebble.tokenizer import BOS, EOS, IMAGE, PAD

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Packed:
    """`input_ids`, `position_ids`, `labels` int64 [B, T], `weights` float32 [B, T], `visible` bool [B, 1, T, T].

    Labels are those of the next token; a conversation's weights are 1/√n for n tokens to learn.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    weights: Tensor
    visible: Tensor


class Packer:
    """Turns conversations into token ids as the chat template and the processor would."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = cache(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False).ids))

    def prefix(self, images: int) -> list[int]:
        """`<s>USER: <image>\\n<image>` with every picture's tokens."""
        ids = [BOS, *self._ids("USER: ")]
        for i in range(images):
            ids += [*(self._ids("\n") if i else ()), *[IMAGE] * IMAGE_TOKENS]
        return ids

    def conversation(self, turns: tuple[Turn, ...]) -> tuple[list[int], list[int]]:
        """What follows the last picture, and the labels: only answers are learned, the last one with its `</s>`."""
        ids: list[int] = []
        labels: list[int] = []
        for i, turn in enumerate(turns):
            asked = self._ids(f"{' USER: ' if i else chr(10)}{turn.question} ASSISTANT:")
            answer = [*self._ids(f" {turn.answer}"), *([EOS] if i == len(turns) - 1 else [])]
            ids += [*asked, *answer]
            labels += [*[IGNORED] * len(asked), *answer]
        return ids, labels

    def pack(self, samples: list[tuple[int, list[tuple[Turn, ...]]]]) -> Packed:
        """Samples of (number of pictures, conversations about them)."""
        rows = [self._row(images, conversations) for images, conversations in samples]
        length = max(len(ids) for ids, *_ in rows)
        shape = (len(rows), length)
        input_ids, labels, weights = torch.full(shape, PAD), torch.full(shape, IGNORED), torch.zeros(shape)
        positions, part = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for row, (ids, wanted, places, parts) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            labels[row, : len(ids) - 1] = torch.tensor(wanted[1:])
            positions[row, : len(ids)] = torch.tensor(places)
            part[row, : len(ids)] = torch.tensor(parts)
            for number in range(1, max(parts) + 1):
                of = part[row] == number
                weights[row, of] = float((labels[row, of] != IGNORED).sum()) ** -0.5
        same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        visible = (same & causal)[:, None]
        return Packed(
            input_ids=input_ids, position_ids=positions, labels=labels, weights=weights, visible=visible
        )

    def _row(self, images: int, conversations: list[tuple[Turn, ...]]) -> tuple[list[int], ...]:
        prefix = self.prefix(images)
        ids, labels, parts = list(prefix), [IGNORED] * len(prefix), [0] * len(prefix)
        places = list(range(len(prefix)))
        for number, turns in enumerate(conversations, start=1):
            more, wanted = self.conversation(turns)
            ids += more
            labels += wanted
            parts += [number] * len(more)
            places += range(len(prefix), len(prefix) + len(more))
        return ids, labels, places, parts
