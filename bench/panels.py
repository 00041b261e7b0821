"""Bars of all systems beside one another, as every plot of the bench has them.

Enters: measures by system, and goals. Leaves: a matplotlib figure: the best system on top, pumice's names bold and in
its colour, a dashed line with its name where a goal is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.series import Series, is_ours, number
from bench.systems import SYSTEMS

_FAMILIES = {
    "pumice": ("#0b4f6c", "#274690", "#1b7a9e", "#3ba3c9", "#5f8fd0", "#7cc6de"),
    "transformers": ("#b5651d", "#dd9a5b"),
    "genai": ("#6a4c93",),
    "openvino": ("#3f7d3a", "#83b57e"),
    "openvino-genai": ("#1f5c4b", "#62a08d"),
    "llama": ("#a4303f", "#d77a86"),
}
_OTHER = "#777777"
INK = "#222222"
_GOAL = "#c1121f"
OURS = _FAMILIES["pumice"][0]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A line across the bars."""

    value: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure: a bar for each system that has a value; `parts` are its pieces, from the left."""

    title: str
    values: dict[str, Series]
    unit: str
    goals: Sequence[Goal] = ()
    parts: Sequence[dict[str, float]] = ()


def family(system: str) -> str:
    """The program that a system is of."""
    return next(
        (name for name in sorted(_FAMILIES, key=len, reverse=True) if system.startswith(f"{name}-")), ""
    )


def colour(system: str) -> str:
    """A system's colour: its place among those of its family in the table of systems.

    A bundle and its optimised copy share one.
    """
    plain, kind = system.removesuffix("+optimized"), family(system)
    kin = [name for name in SYSTEMS if family(name) == kind and not name.endswith("+optimized")]
    shades = _FAMILIES.get(kind, (_OTHER,))
    return shades[kin.index(plain) % len(shades)] if plain in kin else shades[0]


def figure_of(title: str, panels: Sequence[Panel], names: Sequence[str], notes: dict[str, str]) -> Any:
    """Panels side by side, with the same systems in the same order; `notes` stand behind systems' names."""
    from matplotlib import pyplot

    width = 6.4 + 3.6 * (len(panels) - 1)
    figure, grid = pyplot.subplots(
        1,
        len(panels),
        figsize=(width + 2.6, 1.9 + 0.36 * len(names)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, panel in zip(grid[0], panels, strict=True):
        _draw(axes, panel, names)
    _name(grid[0][0], names, notes)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    return figure


def _draw(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    """Bars, spreads, values behind them, and goals."""
    for place, name in enumerate(names):
        values = panel.values.get(name)
        if values is None:
            axes.annotate(
                "–", (0, place), xytext=(4, 0), textcoords="offset points", va="center", color=_OTHER
            )
            continue
        _bar(axes, place, name, values.median, [part.get(name, 0.0) for part in panel.parts])
        axes.plot([values.low, values.high], [place, place], color=INK, linewidth=1)
        axes.annotate(
            number(values.median) + panel.unit,
            (max(values.high, values.median), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold" if is_ours(name) else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85},
        )
    for number_of, goal in enumerate(panel.goals):
        axes.axvline(
            goal.value, color=_GOAL, linestyle=("--", ":")[number_of % 2], linewidth=1.5, label=goal.words
        )
    most = max([values.high for values in panel.values.values()] + [goal.value for goal in panel.goals])
    axes.set_xlim(0, most * 1.22)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(panel.title, fontsize=10)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel.goals:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), frameon=False, fontsize=8.5)


def _bar(axes: Any, place: int, name: str, whole: float, parts: Sequence[float]) -> None:
    """One bar, or its parts, each lighter than the one before."""
    look = {
        "height": 0.72,
        "color": colour(name),
        "hatch": "///" if name.endswith("+optimized") else "",
        "edgecolor": "white",
        "linewidth": 0.5,
    }
    if not parts:
        axes.barh(place, whole, **look)
        return
    left = 0.0
    for part, alpha in zip((*parts, max(0.0, whole - sum(parts))), (1.0, 0.6, 0.3), strict=False):
        axes.barh(place, part, left=left, alpha=alpha, **look)
        left += part


def _name(axes: Any, names: Sequence[str], notes: dict[str, str]) -> None:
    axes.set_yticks(range(len(names)), [name + notes.get(name, "") for name in names], fontsize=9.5)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if is_ours(name) else "normal")
        tick.set_color(OURS if is_ours(name) else INK)
