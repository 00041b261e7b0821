"""The whole measurement: every row and every peer, on every variant.

Enters: a plan. Leaves: `Results`. Variants one after the other; of each, transformers' logits are kept on disk while
all others are compared with them. Speeds are measured in the end, on bundles of the first variant, in turns.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.real.bundle import Row, Size, bundle_reader, export, size
from bench.real.checkpoint import Checkpoints, checkpoints
from bench.real.downloads import download
from bench.real.peers import simulate
from bench.real.reference import Reference, Scored, Windows, load_reference, whole_logits
from bench.real.speed import Speed, measure_speeds
from bench.real.texts import texts
from bench.real.windows import encode, windows
from pumice.errors import PumiceError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. `positions` are scored of each text; `keep` leaves bundles and logits where they are."""

    rows: tuple[Row, ...]
    peers: tuple[str, ...]
    variants: tuple[str, ...]
    positions: int
    rounds: int
    keep: bool
    root: Path


@dataclass(kw_only=True)
class Line:
    """All that was found of a row or a peer; a bundle has a `size` of its own, a peer that of its tensors."""

    label: str
    size: Size | None = None
    speed: Speed | None = None
    scores: dict[str, Scored] = field(default_factory=dict)
    """By variant."""
    failures: dict[str, str] = field(default_factory=dict)
    """By variant: why there is no score."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Lines in the order of the plan."""

    plan: Plan
    lines: list[Line]


def measure(plan: Plan) -> Results:
    """Everything of a plan. What fails with an error of pumice's is told in the results; the rest goes on."""
    lines = {row.label: Line(label=row.label) for row in plan.rows}
    lines |= {peer_label(name): Line(label=peer_label(name)) for name in plan.peers}
    if plan.peers:
        download(plan.root / "site")  # gguf's functions
    for variant in plan.variants:
        _measure_variant(plan, variant, lines)
    _measure_speeds(plan, lines)
    return Results(plan=plan, lines=list(lines.values()))


def peer_label(name: str) -> str:
    """How the table calls a peer."""
    return f"llama.cpp {name}"


def _measure_variant(plan: Plan, variant: str, lines: dict[str, Line]) -> None:
    found = checkpoints(variant, plan.root)
    store = plan.root / variant / "logits"
    reference = Reference(read_windows(found.llama, plan.positions), store)
    _say(f"{variant}: transformers in float32")
    reference.keep(load_reference(found.llama))
    for row in plan.rows:
        _measure_row(plan, variant, row, found, reference, lines[row.label])
    for name in plan.peers:
        _measure_peer(variant, name, found, reference, lines[peer_label(name)])
    if not plan.keep:
        shutil.rmtree(store)


def read_windows(llama: Path, positions: int) -> Windows:
    """The windows of all texts."""
    return {kind: list(windows(encode(llama, text), positions)) for kind, text in texts().items()}


def _measure_row(
    plan: Plan, variant: str, row: Row, found: Checkpoints, reference: Reference, line: Line
) -> None:
    bundle = _bundle(plan, variant, row)
    try:
        _say(f"{variant}: {row.label}: exporting")
        export(row, found.llava, bundle)
        line.size = line.size or size(bundle)
        _say(f"{variant}: {row.label}: reading")
        line.scores[variant] = reference.score(bundle_reader(bundle))
        _say(f"  {_told(line.scores[variant])}")
    except PumiceError as error:
        line.failures[variant] = f"{type(error).__name__}: {error}"
        _say(f"  {line.failures[variant]}")
    if not plan.keep and variant != plan.variants[0]:
        shutil.rmtree(bundle, ignore_errors=True)


def _measure_peer(variant: str, name: str, found: Checkpoints, reference: Reference, line: Line) -> None:
    _say(f"{variant}: {line.label}: simulating")
    model = load_reference(found.llama)
    megabytes = simulate(model, name)
    line.size = Size(language=megabytes, whole=None)
    line.scores[variant] = reference.score(lambda window: [whole_logits(model, window)])
    _say(f"  {_told(line.scores[variant])}")


def _measure_speeds(plan: Plan, lines: Mapping[str, Line]) -> None:
    """Of those bundles of the first variant that answered."""
    first = plan.variants[0]
    bundles = {row.label: _bundle(plan, first, row) for row in plan.rows if first in lines[row.label].scores}
    speeds = measure_speeds(bundles, plan.rounds, plan.root / "speed.log", _say)
    for label, speed in speeds.items():
        lines[label].speed = speed
    if not plan.keep:
        for row in plan.rows:
            shutil.rmtree(_bundle(plan, first, row), ignore_errors=True)


def _bundle(plan: Plan, variant: str, row: Row) -> Path:
    return plan.root / variant / "bundles" / row.folder


def _told(scored: Scored) -> str:
    """A row's figures on a variant, and its KL by kind of text."""
    total = scored.total
    kinds = ", ".join(f"{kind} {score.kl:.3g}" for kind, score in scored.kinds.items())
    return (
        f"perplexity {total.perplexity:.2f} (float32 {total.reference_perplexity:.2f}), KL {total.kl:.3g}, "
        f"99% {total.kl_99:.3g}, top-1 {total.top1:.1%} of {total.positions:,}; KL of {kinds}"
    )


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
