"""Figures of a comparison with transformers, of prompts and of texts, and what comes of them. Knows neither model.

Definitions, over all positions of a prompt and our answer: max and mean are of |ours − theirs|, largest is of |theirs|;
top-1 is the share of positions with the same best token; KL is Σ p·log(p/q) in nats, p theirs and q ours, of which
`kl` is the mean over positions and `kl_99` the 99th percentile. Those of texts are in `text_scores.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pumice.export.verify.text_scores import FLOAT64_VALUES, TextScore, divergences, log_softmax
from pumice.export.verify.verdict import Verdict, Word, fp32_bound, judge

Floats = NDArray[np.float32]
Judged = Literal["texts", "prompts", "built-in prompts"]
"""What a verdict is by."""


@dataclass(frozen=True, kw_only=True)
class GraphError:
    """How far a graph's output is from transformers', with the spread (standard deviation) of theirs for scale."""

    max: float
    mean: float
    spread: float

    @classmethod
    def of(cls, ours: Floats, theirs: Floats) -> GraphError:
        """Compare two arrays of one shape."""
        error = np.abs(ours.reshape(theirs.shape) - theirs)
        return cls(max=float(error.max()), mean=float(error.mean()), spread=float(theirs.std()))


@dataclass(frozen=True, kw_only=True)
class LogitError:
    """The same for logits, with the `largest` |logit| of theirs, and what it means for the next token."""

    max: float
    mean: float
    spread: float
    largest: float
    top1: float
    kl: float
    kl_99: float

    @classmethod
    def of(cls, ours: Floats, parts: Iterable[Floats]) -> LogitError:
        """Compare logits [T, V] with theirs, which come a few positions at a time, each [n, V]."""
        worst = largest = absolute = total = squares = same = 0.0
        position = 0
        kl: list[NDArray[np.float64]] = []
        for theirs in parts:
            part = ours[position : position + len(theirs)]
            position += len(theirs)
            error = np.abs(part - theirs)
            worst = float(np.maximum(worst, error.max()))  # NaN stays NaN
            largest = float(np.maximum(largest, np.abs(theirs).max()))
            absolute += float(error.sum(dtype=np.float64))
            total += float(theirs.sum(dtype=np.float64))
            squares += float(np.einsum("nv,nv->", theirs, theirs, dtype=np.float64))
            same += int((part.argmax(-1) == theirs.argmax(-1)).sum())
            kl += _divergences(part, theirs)
        assert position == len(ours), (position, ours.shape)
        kl_T = np.concatenate(kl)
        return cls(
            max=worst,
            mean=absolute / ours.size,
            spread=max(0.0, squares / ours.size - (total / ours.size) ** 2) ** 0.5,
            largest=largest,
            top1=same / position,
            kl=float(np.maximum(0.0, kl_T.mean())),
            kl_99=float(np.maximum(0.0, np.percentile(kl_T, 99))),
        )


def compare_answers(
    ours: Sequence[int], theirs: Sequence[int], ours_end: Collection[int], theirs_end: Collection[int]
) -> tuple[tuple[int, ...], int | None]:
    """transformers' greedy answer as far as it is known from its best token at every position of ours.

    Args:
        ours: our answer.
        theirs: transformers' best token at each position of `ours`, given all of ours before it.
        ours_end, theirs_end: ids that end an answer.

    Returns:
        The expected answer, up to and with the first token that differs, and the index of that one: null if none does.
        The index is the length of either answer where transformers ends it and we do not, or we do and it goes on.
    """
    for index, (mine, best) in enumerate(zip(ours, theirs, strict=True)):
        if mine != best:
            return tuple(theirs[: index + 1]), index
        if best in theirs_end and index + 1 < len(ours):
            return tuple(theirs[: index + 1]), index + 1
    ended = bool(ours) and ours[-1] in ours_end
    return tuple(theirs), len(ours) if ended and ours[-1] not in theirs_end else None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt: what went in, each graph's error, and both greedy continuations.

    `first_difference` is the index of the first generated token that differs, null if none does; `expected_tokens` are
    known that far. `input_differences` says in words how ids and pixels differ, which they must not.
    """

    name: str
    prompt_tokens: int
    images: int
    same_input_ids: bool
    same_pixel_values: bool
    vision_encoder: GraphError | None
    embedding: GraphError
    decoder: LogitError
    expected_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    first_difference: int | None
    input_differences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextCase:
    """One text, or all together: its score, the largest error of a logit, and the `largest` |logit| of theirs."""

    name: str
    score: TextScore
    logits_max: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The worst of all prompts, the score of all texts, and whether the bundle keeps its promise.

    `passed` says that nothing speaks against using the bundle: same ids and pixels everywhere, finite logits, and
    either, for `fp32`, the same tokens and logits within `fp32_bound`, or for others a KL whose `verdict` is not "not
    usable". The verdict is by the texts if there are any, else by the prompts. Of `kl_99` the largest counts.
    """

    passed: bool
    verdict: Word
    meaning: str
    judged_by: Judged
    cases: int
    same_input_ids: int
    same_pixel_values: int
    same_tokens: int
    vision_encoder_max: float | None
    embedding_max: float
    logits_max: float
    logits_mean: float
    logits_largest: float
    top1: float
    kl: float
    kl_99: float
    text: TextScore | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it, as `parity.json` has it; `text` is all `texts` together."""

    precision: str
    checkpoint: str
    versions: dict[str, str]
    summary: Summary
    cases: tuple[Case, ...]
    texts: tuple[TextCase, ...] = ()
    text: TextCase | None = None


def summarize(
    precision: str,
    cases: Sequence[Case],
    text: TextCase | None = None,
    *,
    built_in: bool = False,
    rounded_cache: bool = False,
) -> Summary:
    """The worst error over the cases, means of the shares, and the verdict; `built_in` cases are our own prompts.

    With a `rounded_cache`, keys and values in 8 bits, no bundle is held to float32's rounding.
    """
    verdict = _verdict(precision == "fp32" and not rounded_cache, cases, text)
    return Summary(
        passed=verdict.sound,
        verdict=verdict.word,
        meaning=verdict.meaning,
        judged_by="texts" if text else "built-in prompts" if built_in else "prompts",
        cases=len(cases),
        same_input_ids=sum(case.same_input_ids for case in cases),
        same_pixel_values=sum(case.same_pixel_values for case in cases),
        same_tokens=sum(case.first_difference is None for case in cases),
        vision_encoder_max=max((c.vision_encoder.max for c in cases if c.vision_encoder), default=None),
        embedding_max=max(case.embedding.max for case in cases),
        logits_max=float(np.max([case.decoder.max for case in cases])),
        logits_mean=float(np.mean([case.decoder.mean for case in cases])),
        logits_largest=max(case.decoder.largest for case in cases),
        top1=float(np.mean([case.decoder.top1 for case in cases])),
        kl=_mean_kl(cases),
        kl_99=float(np.max([case.decoder.kl_99 for case in cases])),
        text=text.score if text else None,
    )


def _verdict(float32: bool, cases: Sequence[Case], text: TextCase | None) -> Verdict:
    errors = [(case.decoder.max, case.decoder.largest) for case in cases]
    if text:
        errors.append((text.logits_max, text.largest))
    return judge(
        float32=float32,
        same_inputs=all(case.same_input_ids and case.same_pixel_values for case in cases),
        finite=bool(np.isfinite([error for error, _ in errors]).all()),
        same_tokens=all(case.first_difference is None for case in cases),
        within_bound=all(error <= fp32_bound(largest) for error, largest in errors),
        kl=text.score.kl if text else _mean_kl(cases),
    )


def _mean_kl(cases: Sequence[Case]) -> float:
    return float(np.mean([case.decoder.kl for case in cases]))


def _divergences(ours: Floats, theirs: Floats) -> list[NDArray[np.float64]]:
    """KL(theirs ‖ ours) of each position, both logits [n, V]; in float64, which is why a few at a time."""
    step = max(1, FLOAT64_VALUES // theirs.shape[1])
    return [
        divergences(log_softmax(theirs[start : start + step]), log_softmax(ours[start : start + step]))
        for start in range(0, len(theirs), step)
    ]
