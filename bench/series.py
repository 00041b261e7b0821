"""A measure over the rounds: its values, their median and their spread.

Enters: results. Leaves: numbers by system and by measure, and how they are written.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import Measured, Results, Run

PREPARED = ("export_s", "export_load", "export_peak_mb", "bundle_mb")
"""Measures that are taken once, when a system is prepared."""

STARTS = ("load_s", "first_token_s")
"""Measures that depend on whether files are in memory already; `cold_` before their names is where they are not."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one measure, one for each round that gave one; never empty."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the values."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest."""
        return max(self.values)

    def over(self, divisor: float) -> Series:
        """The values divided by a number."""
        return Series(values=tuple(value / divisor for value in self.values))


def series(system: Measured, measure: str) -> Series | None:
    """A system's values of a measure; None where there is none."""
    if measure in PREPARED:
        found = [(system.prepared or {}).get(measure)]
    else:
        name = measure.removeprefix("cold_")
        runs = [run for run in system.runs if name not in STARTS or run.cold == (name != measure)]
        found = [run.line.get(name) for run in runs if run.line is not None]
    values = tuple(float(value) for value in found if value is not None)
    return Series(values=values) if values else None


def all_series(results: Results, measure: str) -> dict[str, Series]:
    """By system, those that have a value."""
    found = {system.system: series(system, measure) for system in results.systems}
    return {name: values for name, values in found.items() if values is not None}


def best_limit(results: Results, name: str) -> float | None:
    """The greatest value of a limit over the rounds: a lesser one was no limit."""
    return max(limit_values(results.limits, name), default=None)


def limit_values(runs: Sequence[Run], name: str) -> list[float]:
    """A limit's value in each round that measured it."""
    return [float(run.line[name]) for run in runs if run.line is not None]


def is_ours(system: str) -> bool:
    """Whether a system's name is one of pumice's."""
    return system.startswith("pumice-")


def reasons(system: Measured) -> dict[str, str]:
    """Why measures are missing: by measure, or by `all` where a system, or a round, gave nothing."""
    found: dict[str, str] = {}
    if system.failure is not None:
        found["all"] = system.failure
    for run in system.runs:
        if run.failure is not None:
            found[f"round {run.round + 1}"] = run.failure
        found |= (run.line or {}).get("missing") or {}
    return found


def number(value: float) -> str:
    """Three digits, no exponents."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"
