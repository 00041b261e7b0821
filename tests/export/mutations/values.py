"""Values put in place of others in JSON files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tests.export.mutations.mutation import Apply, read, write

REMOVED = "(removed)"
HUGE = (10**9, 10**12, 2**63, -(10**12), 10**400)
ODD: tuple[Any, ...] = (
    REMOVED, None, True, False, -1, 0, 1, 2, 3, 7, *HUGE, 0.5, -0.5, 1e-30, 1e30, math.nan, math.inf, -math.inf,
    "", "7", "default", "full", "gelu", "two\nlines \x1b[31mred", "x" * 100_000,
    [], [1], [-1, 1], [None], ["a", 2], {}, {"a": 1},
    {"factor": 2.0, "rope_type": "linear"}, {"height": 28, "width": 28}, {"shortest_edge": 56}, [[[[]]]],
)  # fmt: skip


def changes(value: Any) -> tuple[Any, ...]:
    """What a value may become: odd values, and ones near it."""
    if isinstance(value, bool):
        return (not value, *ODD)
    if isinstance(value, int | float):
        return (value + 1, value - 1, value * 2, value / 2, -value, str(value), [value], float(value), *ODD)
    if isinstance(value, str):
        return (value.upper(), value + "x", value[:-1], [value], *ODD)
    if isinstance(value, list):
        return (value[:-1], value + value[:1], value[::-1], *ODD)
    return ODD


def paths(content: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON document but the root."""
    items: Any = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list) and len(value) < 50:
            yield from paths(value, (*at, key))


def get(content: Any, path: tuple[str | int, ...]) -> Any:
    """What lies at a path."""
    for key in path:
        content = content[key]
    return content


def put(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Put a value at a path, or take away what is there."""
    parent = get(content, path[:-1])
    if isinstance(value, str) and value == REMOVED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def setting(name: str, path: tuple[str | int, ...], value: Any) -> Apply:
    """Put a value into a file, which is made if it is missing."""

    def apply(folder: Path, _random: Random) -> None:
        content = read(folder / name) if (folder / name).exists() else {}
        section = content
        for key in path[:-1]:
            section = section.setdefault(key, {}) if isinstance(section, dict) else section[key]
        write(folder / name, put(content, path, value))

    return apply


def any_value(name: str) -> Apply:
    """Some value of a file becomes another."""

    def apply(folder: Path, random: Random) -> None:
        content = read(folder / name)
        path = random.choice(list(paths(content)))
        write(folder / name, put(content, path, random.choice(changes(get(content, path)))))

    return apply
