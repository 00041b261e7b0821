"""What pumice is to reach beside its peers, and whether it does.

Enters: results. Leaves: a `Verdict` for each target and each of pumice's systems that it is about.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.results import Results
from bench.series import Series, all_series, best_limit, is_ours, number

_NOT_JUDGED = ("pebble", "quick-0.1b")
"""Shapes so small that a step of Python's counts."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`ratio` is of `system`'s measure to `against`; it is met at most (`ceiling`) or at least at `bound`.

    `goal` is what the measure itself must be.
    """

    target: str
    measure: str
    system: str
    against: str
    ratio: Series
    bound: float
    goal: float
    ceiling: bool

    @property
    def met(self) -> bool:
        """By the median."""
        return self.ratio.median <= self.bound if self.ceiling else self.ratio.median >= self.bound


def verdicts(results: Results) -> list[Verdict]:
    """All that can be judged, on shapes that are real."""
    if results.shape in _NOT_JUDGED:
        return []
    return [
        *_against_best(results, "time to first token, image + question", "ttft_s", 0.50, ceiling=True),
        *_decoding(results),
        *_against_best(results, "resident memory, image + 512 tokens", "resident_mb", 0.55, ceiling=True),
        *_warm_load(results),
        *_second_turn(results),
        *_against_best(results, "tokens/s in all, 8 requests at once", "throughput_8", 1.5, ceiling=False),
        *_export(results),
    ]


def _against_best(
    results: Results, target: str, measure: str, bound: float, *, ceiling: bool, four_bits: bool = False
) -> list[Verdict]:
    """Against the peer that is best by its median; of those that see images, unless it is about decoding."""
    values = all_series(results, measure)
    sees = all_series(results, "ttft_s")
    peers = {n: s for n, s in values.items() if not is_ours(n) and (four_bits or n in sees)}
    if not peers:
        return []
    best = (min if ceiling else max)(peers, key=lambda name: peers[name].median)
    return [
        Verdict(
            target=target,
            measure=measure,
            system=name,
            against=f"best peer, {best} {number(peers[best].median)}",
            ratio=ours.over(peers[best].median),
            bound=bound,
            goal=bound * peers[best].median,
            ceiling=ceiling,
        )
        for name, ours in values.items()
        if is_ours(name) and (not four_bits or _decodes_in_four_bits(name))
    ]


def _decoding(results: Results) -> list[Verdict]:
    """Tokens a second against the best peer's, and against what reading memory allows."""
    read = best_limit(results, "read_gb_s")
    share = 0.80 if results.shape == "llava-1.5-7b" else 0.75
    found = []
    for context in (100, 2000):
        measure, target = f"decode_{context}", f"decode tokens/s in 4 bits at {context:,} tokens"
        found += _against_best(results, target, measure, 1.15, ceiling=False, four_bits=True)
        if read is None:
            continue
        limit = results.token_cost.tokens_per_second(read, context)
        found += [
            Verdict(
                target=target,
                measure=measure,
                system=name,
                against=f"bandwidth limit {number(limit)}",
                ratio=ours.over(limit),
                bound=share,
                goal=share * limit,
                ceiling=False,
            )
            for name, ours in all_series(results, measure).items()
            if is_ours(name) and _decodes_in_four_bits(name)
        ]
    return found


def _warm_load(results: Results) -> list[Verdict]:
    """Seconds, of the optimised copies."""
    return [
        Verdict(
            target="warm load to ready",
            measure="load_s",
            system=name,
            against="in seconds",
            ratio=ours,
            bound=0.5,
            goal=0.5,
            ceiling=True,
        )
        for name, ours in all_series(results, "load_s").items()
        if is_ours(name) and name.endswith("+optimized")
    ]


def _second_turn(results: Results) -> list[Verdict]:
    first = all_series(results, "ttft_s")
    return [
        Verdict(
            target="second turn, same image",
            measure="second_turn_s",
            system=name,
            against="its own first turn",
            ratio=ours.over(first[name].median),
            bound=0.1,
            goal=0.1 * first[name].median,
            ceiling=True,
        )
        for name, ours in all_series(results, "second_turn_s").items()
        if is_ours(name) and name in first
    ]


def _export(results: Results) -> list[Verdict]:
    """Against the quickest peer that makes a form of its own; transformers loads checkpoints as they are."""
    seconds = all_series(results, "export_s")
    peers = {n: s for n, s in seconds.items() if not is_ours(n) and not n.startswith("transformers-")}
    if not peers:
        return []
    quickest = min(peers, key=lambda name: peers[name].median)
    found = []
    for target, measure, bound in (("time", "export_s", 0.5), ("memory", "export_peak_mb", 0.2)):
        values = all_series(results, measure)
        if quickest not in values:
            continue
        found += [
            Verdict(
                target=f"export {target}",
                measure=measure,
                system=name,
                against=f"quickest peer, {quickest} {number(values[quickest].median)}",
                ratio=ours.over(values[quickest].median),
                bound=bound,
                goal=bound * values[quickest].median,
                ceiling=True,
            )
            for name, ours in values.items()
            if is_ours(name)
        ]
    return found


def _decodes_in_four_bits(system: str) -> bool:
    return "int4" in system or "cpu-fast" in system
