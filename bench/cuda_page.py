"""What `make cuda-check` found, as a page: docs/benchmarks/cuda.md.

Enters: comparisons and measurements. Leaves: Markdown, with a verdict on each target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cuda_parity import Parity

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks" / "cuda.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"

DECODE_RATIO, BANDWIDTH_SHARE, FIRST_TOKEN_RATIO = 2.5, 0.6, 0.7
"""Targets: decoding at least so many times transformers', at least this share of what the memory's bandwidth allows; a
first token in at most this share of transformers' time."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """All that was found on one GPU; `systems` are medians by system, or why there are none."""

    gpu: str
    bandwidth: float
    shape: str
    parities: Sequence[Parity]
    systems: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def best_peer(self) -> tuple[float, float] | None:
        """transformers' least time to a first token, and its quickest decoding; None if it could not be measured."""
        peers = [line for name, line in self.systems.items() if name.startswith("transformers")]
        if not peers:
            return None
        return min(line["ttft_s"] for line in peers), max(line["decode_text"] for line in peers)


def page(check: Check) -> str:
    """The measured part."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(check.versions.items()))
    lines = [
        f"Measured on: {check.gpu}; {versions}. Memory bandwidth (copies within it): "
        f"{check.bandwidth / 1e9:,.0f} GB/s. Shape: {check.shape}, random weights, batch 1.",
        "",
        *_systems(check),
        "",
        *_parities(check.parities),
    ]
    lines += [f"\n{name} could not be measured: {reason}" for name, reason in check.failures.items()]
    return "\n".join(lines)


def write_page(text: str, path: Path = PAGE) -> None:
    """Put the measured part into the page, in place of the one before."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _systems(check: Check) -> list[str]:
    peer = check.best_peer
    rows = [
        "| system | first token ms | × transformers | decode tok/s, text | with image | × transformers | "
        "of the bandwidth limit | targets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, line in check.systems.items():
        weights = line.get("weight_bytes")
        share = None if weights is None else line["decode_text"] * weights / check.bandwidth
        first = None if peer is None else line["ttft_s"] / peer[0]
        decode = None if peer is None else line["decode_text"] / peer[1]
        verdict = "–" if share is None or first is None or decode is None else verdicts(first, decode, share)
        cells = (
            name,
            f"{1000 * line['ttft_s']:,.1f}",
            _number(first),
            f"{line['decode_text']:,.1f}",
            f"{line['decode_image']:,.1f}",
            _number(decode),
            "–" if share is None else f"{share:.0%}",
            verdict,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def verdicts(first: float, decode: float, share: float) -> str:
    """Which targets a system meets, from its ratios to transformers and its share of the limit."""
    met = {
        f"decode ≥ {DECODE_RATIO} ×": decode >= DECODE_RATIO,
        f"≥ {BANDWIDTH_SHARE:.0%} of the limit": share >= BANDWIDTH_SHARE,
        f"first token ≤ {FIRST_TOKEN_RATIO} ×": first <= FIRST_TOKEN_RATIO,
    }
    missed = [name for name, reached in met.items() if not reached]
    return f"missed: {', '.join(missed)}" if missed else "met"


def _parities(parities: Sequence[Parity]) -> list[str]:
    rows = [
        "| model | recipe | against | positions | largest difference of a logit, in their σ | same greedy token | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in parities:
        verdict = "passes" if one.passes else "FAILS"
        rows.append(
            f"| {one.model} | {one.recipe} | {one.against} | {one.positions:,} | {one.difference:.4f} | "
            f"{one.same_tokens:.1%} | {verdict} |"
        )
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
