"""Results as images: PNG files by matplotlib.

    SHAPE-first-token.png   seconds to the first token of image + question, of it encoding and prefill
    SHAPE-decode.png        tokens a second at 100 and 2,000 tokens of context
    SHAPE-throughput.png    tokens a second in all of 1, 4 and 8 requests at once
    SHAPE-memory.png        resident memory with image + 512 tokens
    SHAPE-load.png          seconds from a new process to the first token, and of a warm load

The best system is on top, by the first measure. What pumice is to reach (`targets.py`) is a dashed line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.panels import Goal, Panel, figure_of
from bench.results import Results
from bench.series import Series, all_series, number
from bench.targets import verdicts


def draw(results: Results, folder: Path) -> list[Path]:
    """Write the images that the results have values for; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, image in _IMAGES.items():
        figure = image(results)
        if figure is not None:
            path = folder / f"{results.shape}-{name}.png"
            figure.savefig(path, dpi=130, metadata={"Software": None})
            drawn.append(path)
    matplotlib.pyplot.close("all")
    return drawn


def _first_token(results: Results) -> Any:
    whole, encode, prefill = (all_series(results, name) for name in ("ttft_s", "encode_s", "prefill_s"))
    names = [name for name in whole if name in encode and name in prefill]
    vision = {name: min(encode[name].median, whole[name].median) for name in names}
    text = {name: max(0.0, min(prefill[name].median, whole[name].median - vision[name])) for name in names}
    panel = Panel(
        title="seconds, less is better: image encode (full), prefill (lighter), rest (lightest)",
        values={name: whole[name] for name in names},
        unit=" s",
        goals=_goals(results, "ttft_s", " s"),
        parts=(vision, text),
    )
    return _figure(results, "First token, image + question", [panel], less=True)


def _decode(results: Results) -> Any:
    panels = [
        Panel(
            title=f"tokens/s at {context:,} tokens of context",
            values=all_series(results, f"decode_{context}"),
            unit="",
            goals=_goals(results, f"decode_{context}", " tokens/s"),
        )
        for context in (100, 2000)
    ]
    return _figure(results, "Decoding, one sequence (more is better)", panels, less=False)


def _throughput(results: Results) -> Any:
    panels = []
    for level in (1, 4, 8):
        measure = f"throughput_{level}"
        values = all_series(results, measure) | all_series(results, f"text_{measure}")
        goals = _goals(results, measure, " tokens/s")
        title = f"{level} at once" if level > 1 else "1 request"
        panels.append(Panel(title=f"tokens/s in all, {title}", values=values, unit="", goals=goals))
    return _figure(results, "Requests at once, an image each (more is better)", panels, less=False, lead=2)


def _memory(results: Results) -> Any:
    panel = Panel(
        title="resident MB, image + 512 tokens (less is better)",
        values=all_series(results, "resident_mb"),
        unit=" MB",
        goals=_goals(results, "resident_mb", " MB"),
    )
    return _figure(results, "Memory", [panel], less=True)


def _load(results: Results) -> Any:
    titles = {
        "load_s": "load, files in memory",
        "first_token_s": "to the first answer, in memory",
        "cold_first_token_s": "to the first answer, on disk",
    }
    panels = [
        Panel(
            title=f"seconds: {title}",
            values=all_series(results, measure),
            unit=" s",
            goals=_goals(results, measure, " s"),
        )
        for measure, title in titles.items()
    ]
    return _figure(results, "A new process (less is better)", panels, less=True)


def _figure(results: Results, title: str, panels: Sequence[Panel], *, less: bool, lead: int = 0) -> Any:
    """Of the panels that have values; systems in the order of the panel that leads, others behind."""
    ordered = sorted(
        dict.fromkeys(name for panel in panels for name in panel.values),
        key=lambda name: _place(panels[lead].values.get(name), less),
    )
    shown = [panel for panel in panels if panel.values]
    if not shown:
        return None
    sees = all_series(results, "ttft_s")
    notes = {name: "" if name in sees else " (text only)" for name in ordered}
    kind = results.machine.instruction_set
    return figure_of(f"{title}: {results.shape}, {kind}", shown, ordered, notes)


def _place(values: Series | None, less: bool) -> float:
    if values is None:
        return float("inf")
    return values.median if less else -values.median


def _goals(results: Results, measure: str, unit: str) -> tuple[Goal, ...]:
    """What pumice is to reach, each once."""
    found = {
        verdict.goal: f"target {'≤' if verdict.ceiling else '≥'} {number(verdict.goal)}{unit}"
        + ("" if verdict.against == "in seconds" else f": {verdict.bound:g} × {_short(verdict.against)}")
        for verdict in verdicts(results)
        if verdict.measure == measure
    }
    return tuple(Goal(value=value, words=words) for value, words in found.items())


def _short(against: str) -> str:
    """`best peer, NAME 1.23` without its value."""
    kind, comma, named = against.partition(", ")
    return f"{kind}, {named.rpartition(' ')[0]}" if comma else against.rpartition(" ")[0]


_IMAGES = {
    "first-token": _first_token,
    "decode": _decode,
    "throughput": _throughput,
    "memory": _memory,
    "load": _load,
}
