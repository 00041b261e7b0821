"""What a run of the bench found, as it is kept in JSON.

Results ─ Machine, limits, systems ─ Measured ─ what preparing gave, and a Run for each round
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.token_cost import TokenCost

_SETS = {
    "amx": {"amx_int8"},
    "avx512-vnni": {"avx512_vnni"},
    "avx-vnni": {"avx_vnni"},
    "avx512": {"avx512f"},
    "avx2": {"avx2"},
    "neon-i8mm": {"i8mm"},
    "neon-dotprod": {"asimddp"},
}
"""Flags that an instruction set needs, quickest first."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured. `memory_gib` is all there is; `flags` are those that matter to matrix products."""

    cpu: str
    cores: int
    memory_gib: float
    flags: tuple[str, ...]
    system: str

    @property
    def instruction_set(self) -> str:
        """The best of the sets that matter to matrix products: results are kept apart by it."""
        return next((name for name, needed in _SETS.items() if needed <= set(self.flags)), "plain")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A process: the line that it printed, or why there is none. `cold`: model files were not in memory before.

    `load` is the machine's load average (processes, of the last minute) when it began.
    """

    round: int
    cold: bool
    load: float
    line: dict[str, Any] | None = None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A system: what preparing it gave, or why it could not be prepared, and its runs."""

    system: str
    prepared: dict[str, Any] | None = None
    failure: str | None = None
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Results:
    """One shape's. `limits` has a line for each round, as `limits.py` prints it."""

    shape: str
    parameters: int
    token_cost: TokenCost
    machine: Machine
    threads: int
    rounds: int
    date: str
    command: str
    limits: tuple[Run, ...]
    systems: tuple[Measured, ...]


def save(results: Results, path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def load(path: Path) -> Results:
    """Read results.

    Raises:
        msgspec.ValidationError: the file has another form.
    """
    return msgspec.json.decode(path.read_bytes(), type=Results)
