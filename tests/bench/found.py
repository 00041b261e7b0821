"""Results of a bench that never ran: two systems of pumice's, two peers, three rounds."""

from __future__ import annotations

from typing import Any

from bench.results import Machine, Measured, Results, Run
from bench.token_cost import TokenCost

LIMITS = {"read_gb_s": 30.0, "int8_gop_s": 1000.0, "fp32_gflop_s": 400.0}


def runs(*values: dict[str, Any]) -> tuple[Run, ...]:
    """A round for each line; even ones are cold."""
    return tuple(Run(round=n, cold=n % 2 == 0, load=0.1, line=line) for n, line in enumerate(values))


def measured(name: str, export: dict[str, Any] | None = None, **values: float | None) -> Measured:
    """A system with the same values in all of three rounds, but for 0.9 and 1.1 times them in the first and last."""
    lines = [
        {key: None if value is None else value * factor for key, value in values.items()}
        for factor in (0.9, 1.0, 1.1)
    ]
    return Measured(system=name, prepared=export, runs=runs(*lines))


def results(
    *systems: Measured, shape: str = "interleave-0.5b", limits: tuple[Run, ...] | None = None
) -> Results:
    """Of those systems. A token in 4 bits reads 0.3 GB: at most 100 tokens a second, and 50 at 2,000 of context."""
    return Results(
        shape=shape,
        parameters=900_000_000,
        token_cost=TokenCost(weights=533_333_333, kv_bytes=150_000),
        machine=Machine(cpu="a CPU", cores=2, memory_gib=24.0, flags=("avx2",), system="Linux x86_64"),
        threads=2,
        rounds=3,
        date="2026-01-01",
        command="python -m bench run",
        limits=runs(LIMITS, LIMITS | {"read_gb_s": 20.0}) if limits is None else limits,
        systems=systems,
    )
