"""How a report of `pumice verify` reads: tables and the verdict, for a terminal and as Markdown.

Enters: a `Report`. Leaves: text.
"""

from __future__ import annotations

from collections.abc import Sequence

from pumice.export.verify.parity import Case, Report, TextCase
from pumice.export.verify.verdict import Word

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
    "KL 99%",
    "tokens",
)
TEXT_COLUMNS = ("text", "positions", "perplexity", "of float32", "KL", "KL 99%", "top-1", "logits max")

Row = tuple[str, ...]
_SAID: dict[Word, str] = {"exact": "passed", "differs": "FAILED", "not usable": "NOT USABLE"}
"""Verdicts that are said in other words than those they are stored by."""


def rows(report: Report) -> list[Row]:
    """The prompts' cells, a row per case, under `COLUMNS`."""
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
            f"{case.decoder.kl_99:.1e}",
            _tokens(case),
        )
        for case in report.cases
    ]


def text_rows(report: Report) -> list[Row]:
    """The texts' cells under `TEXT_COLUMNS`: a row per text, and one for all of several."""
    several = [report.text] if report.text and len(report.texts) > 1 else []
    return [_text_row(case) for case in (*report.texts, *several)]


def _text_row(case: TextCase) -> Row:
    score = case.score
    return (
        case.name,
        f"{score.positions:,}",
        f"{score.perplexity:.4g}",
        f"{score.reference_perplexity:.4g}",
        f"{score.kl:.2g}",
        f"{score.kl_99:.2g}",
        f"{score.top1:.1%}",
        f"{case.logits_max:.1e}",
    )


def text_table(report: Report) -> str:
    """For a terminal: aligned columns and the verdict."""
    tables = [aligned([COLUMNS, *rows(report)])]
    if report.texts:
        tables.append(aligned([TEXT_COLUMNS, *text_rows(report)]))
    return "\n".join([*("\n".join([*table, ""]) for table in tables), *_said(report), *verdict(report)])


def aligned(cells: Sequence[Row]) -> list[str]:
    """Rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _said(report: Report) -> list[str]:
    """How inputs differ, a line each."""
    return [f"{case.name}: {text}" for case in report.cases for text in case.input_differences]


def markdown(report: Report) -> str:
    """The same as `PARITY.md`."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    texts = _markdown_table(TEXT_COLUMNS, text_rows(report)) if report.texts else []
    return "\n".join(
        [
            f"# Parity of {report.checkpoint} ({report.precision}) with transformers in float32",
            "",
            *verdict(report),
            "",
            *_markdown_table(COLUMNS, rows(report)),
            *texts,
            *[f"- {line}" for line in _said(report)],
            *([""] if _said(report) else []),
            "Errors are absolute. For prompts, every graph is fed transformers' own intermediate results;",
            "tokens are greedy and end to end. Texts are read from token ids to logits.",
            f"Measured on the CPU with {versions}.",
            "",
        ]
    )


def _markdown_table(columns: Row, cells: Sequence[Row]) -> list[str]:
    """With an empty line behind it."""
    return [*(f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *cells)), ""]


def verdict(report: Report) -> list[str]:
    """How it ended, in a line or two."""
    summary = report.summary
    same = f"{summary.same_tokens} of {summary.cases} prompts generate the same tokens"
    largest = summary.logits_max / summary.logits_largest if summary.logits_largest else 0.0
    reason = f"{summary.meaning}; " if summary.verdict != "exact" else ""
    word = _SAID.get(summary.verdict, summary.verdict)
    lines = [
        f"{word}: {reason}{same}; logits differ by at most {summary.logits_max:.1e} ({largest:.1e} of the largest), "
        f"top-1 agreement {summary.top1:.1%}, KL {summary.kl:.2g}"
    ]
    if (score := summary.text) is not None:
        lines.append(
            f"Judged by {score.positions:,} positions of texts: perplexity {score.perplexity:.4g} "
            f"(float32: {score.reference_perplexity:.4g}), top-1 agreement {score.top1:.1%}, KL {score.kl:.2g}"
        )
    elif summary.judged_by == "built-in prompts" and report.precision != "fp32":
        lines.append(
            "Judged by built-in prompts, whose random images are harsher than texts are: "
            "give --text FILE, or prompts of yours"
        )
    return lines


def _tokens(case: Case) -> str:
    if case.first_difference is None:
        return f"{len(case.tokens)} same"
    return f"differ from {case.first_difference}"
