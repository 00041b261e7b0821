"""What the figures of a comparison mean: a word, whether the bundle is sound, and a plain sentence.

Enters: whether inputs and tokens are transformers', how far logits are, and KL. Leaves: a `Verdict`. A bundle in
float32 is held to transformers' logits, any other to KL alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

Word = Literal["exact", "near", "usable with care", "not usable", "differs"]

FP32_RELATIVE = 2e-5
"""Largest difference of a float32 bundle's logit, of the largest |logit|.

Between what rounding makes and what mistakes make. Rounding: up to 1.1e-6 over small random models of every family and
pebble, 6.1e-6 over a language model of 30 layers (SmolLM2-135M-Instruct, logits of 40). The smallest likely mistake, a
norm's epsilon of 1e-6 where 1e-5 was meant: 2.4e-5 on pebble, 6.9e-5 on a small random model, 8.3e-4 on SmolLM2."""

FP32_LEAST = 2e-5
"""The bound where all logits are below 1: a sum's rounding follows its terms, which may cancel out."""


def fp32_bound(largest: float) -> float:
    """Largest difference of a logit that a float32 bundle may show where transformers' largest |logit| is this."""
    return max(FP32_LEAST, FP32_RELATIVE * largest)


@dataclass(frozen=True, kw_only=True)
class Band:
    """What a KL `below` this, in nats, means."""

    below: float
    word: Word
    meaning: str


BANDS = (
    Band(
        below=0.02,
        word="near",
        meaning="answers are float32's, but for places where two tokens are about as likely",
    ),
    Band(
        below=0.1,
        word="usable with care",
        meaning="answers mostly say what float32's say, and leave its words more often than near ties explain",
    ),
    Band(
        below=0.5,
        word="usable with care",
        meaning="one most likely token in five, or even in three, is another: compare answers before you rely on them",
    ),
    Band(below=inf, word="not usable", meaning="text falls apart"),
)
# Measured on SmolLM2-135M-Instruct, the hardest case as small models suffer most, over texts of several kinds:
#     8 bits, integer products (cpu-w8a8)    KL 0.015, top-1 93%, answers differ from float32's at near ties only
#     4 bits in blocks of 64 (cpu-int4)      KL 0.14, top-1 81%
#     llama.cpp's Q4_0, simulated            KL 0.28 to 0.36, top-1 67 to 69%
#     4 bits in blocks of 128, rotated       KL 0.74, top-1 57%: "The sea is a long and long, a long and long"
# Between 0.02 and 0.1 nothing is measured. Pinsker's inequality bounds what part of a distribution lies elsewhere by
# √(KL / 2): 10% at 0.02, 22% at 0.1, 50% at 0.5.


def band_of(kl: float) -> Band:
    """The band that a mean KL lies in; NaN lies in the worst."""
    return next((band for band in BANDS if kl < band.below), BANDS[-1])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`word` in short, `meaning` in a sentence; not `sound` is what nobody should use."""

    word: Word
    sound: bool
    meaning: str


def judge(
    *, float32: bool, same_inputs: bool, finite: bool, same_tokens: bool, within_bound: bool, kl: float
) -> Verdict:
    """The verdict on a bundle; `same_tokens` and `within_bound` count for float32 only, and KL for the others."""
    if not same_inputs:
        return Verdict(word="differs", sound=False, meaning="token ids or pixel values are not transformers'")
    if not finite:
        return Verdict(word="not usable", sound=False, meaning="logits are not finite")
    if not float32:
        band = band_of(kl)
        return Verdict(word=band.word, sound=band.word != "not usable", meaning=band.meaning)
    if not within_bound:
        return Verdict(word="differs", sound=False, meaning="logits differ by more than rounding explains")
    if not same_tokens:
        return Verdict(word="differs", sound=False, meaning="greedy tokens are not transformers'")
    return Verdict(word="exact", sound=True, meaning="logits differ by no more than rounding explains")
