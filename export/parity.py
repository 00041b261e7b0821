"""Figures of a comparison with transformers, and how they read as a table. Knows neither model.

Definitions, over all positions of a prompt and our answer: max and mean are of |ours − theirs|; top-1 is the share of
positions with the same best token; KL is the mean over positions of Σ p·log(p/q) in nats, p theirs and q ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FP32_TOLERANCE = 2e-4
"""Largest difference of a logit that a float32 bundle may show."""

FLOAT64_VALUES = 1 << 20
"""Logits at a time in float64: 8 MiB."""


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
    """The same for logits, with what it means for the next token."""

    max: float
    mean: float
    spread: float
    top1: float
    kl: float

    @classmethod
    def of(cls, ours: Floats, parts: Iterable[Floats]) -> LogitError:
        """Compare logits [T, V] with theirs, which come a few positions at a time, each [n, V]."""
        worst = absolute = total = squares = same = kl = 0.0
        position = 0
        for theirs in parts:
            part = ours[position : position + len(theirs)]
            position += len(theirs)
            error = np.abs(part - theirs)
            worst = float(np.maximum(worst, error.max()))  # NaN stays NaN
            absolute += float(error.sum(dtype=np.float64))
            total += float(theirs.sum(dtype=np.float64))
            squares += float(np.einsum("nv,nv->", theirs, theirs, dtype=np.float64))
            same += int((part.argmax(-1) == theirs.argmax(-1)).sum())
            kl += _divergence(part, theirs)
        assert position == len(ours), (position, ours.shape)
        return cls(
            max=worst,
            mean=absolute / ours.size,
            spread=max(0.0, squares / ours.size - (total / ours.size) ** 2) ** 0.5,
            top1=same / position,
            kl=float(np.maximum(0.0, kl / position)),
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
class Summary:
    """The worst of all cases, and whether the bundle keeps its promise.

    `passed`: same ids and pixels everywhere, finite logits, and for `fp32` also the same tokens and logits within
    `FP32_TOLERANCE`.
    """

    passed: bool
    cases: int
    same_input_ids: int
    same_pixel_values: int
    same_tokens: int
    vision_encoder_max: float | None
    embedding_max: float
    logits_max: float
    logits_mean: float
    top1: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it, as `parity.json` has it."""

    precision: str
    checkpoint: str
    versions: dict[str, str]
    summary: Summary
    cases: tuple[Case, ...]


def summarize(precision: str, cases: Sequence[Case]) -> Summary:
    """The worst error over the cases, means of the shares."""
    ids = sum(case.same_input_ids for case in cases)
    pixels = sum(case.same_pixel_values for case in cases)
    tokens = sum(case.first_difference is None for case in cases)
    worst = float(np.max([case.decoder.max for case in cases]))
    exact = tokens == len(cases) and worst <= FP32_TOLERANCE
    sound = ids == pixels == len(cases) and bool(np.isfinite(worst))
    return Summary(
        passed=sound and (exact or precision != "fp32"),
        cases=len(cases),
        same_input_ids=ids,
        same_pixel_values=pixels,
        same_tokens=tokens,
        vision_encoder_max=max((c.vision_encoder.max for c in cases if c.vision_encoder), default=None),
        embedding_max=max(case.embedding.max for case in cases),
        logits_max=worst,
        logits_mean=float(np.mean([case.decoder.mean for case in cases])),
        top1=float(np.mean([case.decoder.top1 for case in cases])),
        kl=float(np.mean([case.decoder.kl for case in cases])),
    )


COLUMNS = (
    "prompt",
    "ids",
    "pixels",
    "vision max",
    "embeds max",
    "logits max",
    "logits mean",
    "top-1",
    "KL",
    "tokens",
)


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's cells, a row per case, under `COLUMNS`."""
    return [
        (
            case.name,
            "same" if case.same_input_ids else "DIFFER",
            "–" if not case.images else "same" if case.same_pixel_values else "DIFFER",
            f"{case.vision_encoder.max:.1e}" if case.vision_encoder else "–",
            f"{case.embedding.max:.1e}",
            f"{case.decoder.max:.1e}",
            f"{case.decoder.mean:.1e}",
            f"{case.decoder.top1:.1%}",
            f"{case.decoder.kl:.1e}",
            _tokens(case),
        )
        for case in report.cases
    ]


def text_table(report: Report) -> str:
    """For a terminal: aligned columns and the verdict."""
    cells = [COLUMNS, *rows(report)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([*lines, "", *_said(report), verdict(report)])


def _said(report: Report) -> list[str]:
    """How inputs differ, a line each."""
    return [f"{case.name}: {text}" for case in report.cases for text in case.input_differences]


def markdown(report: Report) -> str:
    """The same as `PARITY.md`."""
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows(report))]
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return "\n".join(
        [
            f"# Parity of {report.checkpoint} ({report.precision}) with transformers in float32",
            "",
            verdict(report),
            "",
            *lines,
            "",
            *[f"- {line}" for line in _said(report)],
            *([""] if _said(report) else []),
            "Errors are absolute. Every graph is fed transformers' own intermediate results;",
            "tokens are greedy and end to end.",
            f"Measured on the CPU with {versions}.",
            "",
        ]
    )


def verdict(report: Report) -> str:
    """One line that says how it ended."""
    summary = report.summary
    same = f"{summary.same_tokens} of {summary.cases} prompts generate the same tokens"
    return (
        f"{'passed' if summary.passed else 'FAILED'}: {same}; logits differ by at most {summary.logits_max:.1e}, "
        f"top-1 agreement {summary.top1:.1%}"
    )


def _tokens(case: Case) -> str:
    if case.first_difference is None:
        return f"{len(case.tokens)} same"
    return f"differ from {case.first_difference}"


def _divergence(ours: Floats, theirs: Floats) -> float:
    """Sum over positions of KL(theirs ‖ ours), both logits [n, V]; in float64, which is why a few at a time."""
    step = max(1, FLOAT64_VALUES // theirs.shape[1])
    total = 0.0
    for start in range(0, len(theirs), step):
        q, p = (_log_softmax(logits[start : start + step]) for logits in (ours, theirs))
        total += float((np.exp(p) * (p - q)).sum())
    return total


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
