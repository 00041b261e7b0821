"""Figures and profiles as tables for a terminal, and as values for JSON.

Enters: a `Measurement` or a `Recording`. Leaves: lines of text; dictionaries of plain values.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pumice.benchmark.measurement import Figure, Measurement
from pumice.benchmark.profile import GraphProfile, NodeTime
from pumice.benchmark.profiler import Phase, Recording

_HEADER = ("operator", "nodes", "ms", "%", "GFLOP/s", "weights MB", "GB/s")
_LEAST = 0.02
"""Of a phase's time: a graph that takes less is told in one line."""
_SHOWN = 0.005
"""Of a graph's time, or of its weights: what has less of them is not told by itself."""


def measurement_table(found: Measurement) -> str:
    """A line for each figure: median, least and most, unit."""
    rows = [("", "median", "least", "most", "")]
    for figure in found.figures:
        several = len(figure.values) > 1
        least, most = (_number(end) if several else "" for end in (min(figure.values), max(figure.values)))
        rows.append((figure.name, _number(figure.median), least, most, figure.unit))
    return _table(rows)


def measurement_json(found: Measurement) -> dict[str, Any]:
    """`{"figures": {NAME: {"unit", "median", "values"}}, …}`."""
    return {
        "device": found.device,
        "threads": found.threads,
        "figures": {f.name: _figure(f) for f in found.figures},
    }


def recording_table(found: Recording) -> str:
    """For each phase and graph: a table of operators, and one of layers."""
    return "\n\n".join(block for phase in found.phases for block in _phase_blocks(phase))


def recording_json(found: Recording) -> dict[str, Any]:
    """All nodes of all phases; seconds, bytes and operations are of the whole phase."""
    return dataclasses.asdict(found)


def _figure(figure: Figure) -> dict[str, Any]:
    return {"unit": figure.unit, "median": figure.median, "values": list(figure.values)}


def _phase_blocks(phase: Phase) -> Iterable[str]:
    inside = sum(graph.seconds for graph in phase.graphs) / phase.times
    yield f"{phase.name}: {1000 * phase.unit_s:,.2f} ms a {phase.unit}, of it {1000 * inside:,.2f} in graphs"
    for graph in phase.graphs:
        spent, runs = graph.seconds / phase.times, graph.runs / phase.times
        title = f"{graph.graph}: {1000 * spent:,.2f} ms a {phase.unit}, in {runs:g} run{'s' * (runs != 1)}"
        if spent >= _LEAST * phase.unit_s:
            yield f"{title}\n{_operators(graph, phase.times)}"
            yield _layers(graph, phase.times)
        else:
            yield title


def _operators(graph: GraphProfile, times: int) -> str:
    """Operators, those that take longest first; what takes little in one line; and what lies between them."""
    groups: defaultdict[str, list[NodeTime]] = defaultdict(list)
    for node in graph.nodes:
        groups[node.operator].append(node)
    order = sorted(groups.items(), key=lambda item: -_seconds(item[1]))
    shown = [(name, nodes) for name, nodes in order if _seconds(nodes) >= _SHOWN * graph.seconds]
    rest = [node for _, nodes in order[len(shown) :] for node in nodes]
    weights = sum(node.weight_bytes or 0 for node in graph.nodes)
    rows = [_HEADER, *(_operator(name, nodes, graph, times, weights) for name, nodes in shown)]
    if rest:
        rows.append(_operator("(others)", rest, graph, times, weights))
    share = 100 * graph.between_s / graph.seconds
    rows.append(("(between them)", "", _ms(graph.between_s / times), f"{share:.1f}", "", "", ""))
    return _table(rows)


def _operator(
    name: str, nodes: Sequence[NodeTime], graph: GraphProfile, times: int, weights: int
) -> tuple[str, ...]:
    seconds = _seconds(nodes)
    flops = sum(node.flops or 0 for node in nodes)
    size = sum(node.weight_bytes or 0 for node in nodes)
    told = size >= _SHOWN * weights and seconds > 0 and size > 0
    return (
        name,
        str(len(nodes)),
        _ms(seconds / times),
        f"{100 * seconds / graph.seconds:.1f}",
        f"{flops / seconds / 1e9:,.1f}" if flops and seconds else "",
        f"{size / times / 1e6:,.1f}" if told else "",
        f"{size / seconds / 1e9:,.1f}" if told else "",
    )


def _seconds(nodes: Iterable[NodeTime]) -> float:
    return sum(node.seconds for node in nodes)


def _layers(graph: GraphProfile, times: int) -> str:
    """A line for each layer, a column for each part of it; what is in no layer stands below."""
    cells: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for node in graph.nodes:
        layer, part = node.place
        cells[layer][part] += node.seconds / times
    outside = dict(cells.pop("", {}))
    columns = list(dict.fromkeys(part for parts in cells.values() for part in parts))
    rows = [("layer", "ms", *(column or "other" for column in columns))]
    for layer, parts in sorted(cells.items(), key=lambda item: _place(item[0])):
        spent = (_ms(parts[column]) if column in parts else "" for column in columns)
        rows.append((layer, _ms(sum(parts.values())), *spent))
    for part, seconds in sorted(outside.items(), key=lambda item: -item[1]):
        rows.append((part or "(elsewhere)", _ms(seconds), *("" for _ in columns)))
    return _table(rows)


def _place(layer: str) -> tuple[str, int]:
    path, _, number = layer.rpartition(".")
    return path, int(number)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.3f}"


def _number(value: float) -> str:
    digits = 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:,.{digits}f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
