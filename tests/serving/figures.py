"""What was found, beside what was promised.

Enters: figures. Leaves: a table in Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number, and its bounds where one is promised."""

    check: str
    what: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def kept(self) -> bool:
        """Whether it is as promised; what is no number never is."""
        if math.isnan(self.value):
            return False
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    @property
    def promised(self) -> str:
        """The bounds in words."""
        if self.most == 0 or self.most == self.least is not None:
            return number(self.most)
        bounds = [
            f"{sign} {number(bound)}"
            for sign, bound in (("≥", self.least), ("≤", self.most))
            if bound is not None
        ]
        return ", ".join(bounds) or "–"


def number(value: float | None) -> str:
    """As many digits as say something."""
    if value is None:
        return "–"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def row(figure: Figure) -> str:
    """A line of the table."""
    shown = f"{number(figure.value)} {figure.unit}".strip()
    return (
        f"| {figure.check} | {figure.what} | {shown} | {figure.promised} | "
        f"{'yes' if figure.kept else '**no**'} |"
    )


HEAD = "| check | what | figure | promised | kept |\n|---|---|---|---|---|"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line through points (x, y) by least squares."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else math.nan
