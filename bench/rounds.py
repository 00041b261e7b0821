"""A shape's measurements: every system is prepared once, then all are measured in turn, round after round.

Enters: a plan. Leaves: `Results`. Nothing that fails is left out: it has its reason in place of its measures.

    round 0   limits  a  b  c     model files dropped from the system's cache before: cold starts
    round 1   a  b  c  limits     model files read before: warm starts
    round 2   b  c  limits  a     cold …

Each is a process of its own, and the order turns, so that a slow minute of the machine meets none of them alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench import page_cache, process
from bench.environments import PeerUnavailableError, python_for
from bench.machine import memory_bytes, this_machine
from bench.results import Measured, Results, Run
from bench.shapes import checkpoint, parameters
from bench.systems import System
from bench.token_cost import token_cost
from bench.workload import write_workload

Environments = Literal["make", "have", "own"]
"""Of peers: made where they are missing; only those that are there; or the project's own for all."""

_MOST_FAILURES = 2
"""After so many a system is not tried again."""

_LIMITS = "limits"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how. `reuse`: which systems keep the files that an earlier run prepared, `peers` being all
    but pumice's. `root` has all big files. Requests at once are measured in the first `burst_rounds` rounds, or in all.

    No round begins when `minutes` have passed since the first.
    """

    shape: str
    systems: tuple[System, ...]
    rounds: int
    threads: int
    timeout_s: float
    minutes: float | None
    root: Path
    environments: Environments
    reuse: Literal["none", "peers", "all"]
    quick_limits: bool
    burst_rounds: int | None = None
    command: str


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A prepared system: its Python, its folder, and what preparing printed."""

    system: System
    python: Path
    model: Path
    prepared: dict[str, Any]


def run(plan: Plan) -> Results:
    """Measure everything."""
    folder = checkpoint(plan.shape, plan.root / "checkpoints")
    workload = write_workload(folder, plan.root / "workloads" / plan.shape)
    ready: dict[str, _Ready] = {}
    failed: dict[str, str] = {}
    for system in plan.systems:
        _say(f"{plan.shape}: preparing {system.name}")
        try:
            plain = ready.get(system.name.removesuffix("+optimized")) if system.optimized else None
            ready[system.name] = _prepared(plan, system, folder, plain)
        except PeerUnavailableError as error:
            failed[system.name] = str(error)
            _say(f"  {error}")
    runs = _all_rounds(plan, ready, folder, workload)
    return Results(
        shape=plan.shape,
        parameters=parameters(plan.shape),
        token_cost=token_cost(folder),
        machine=this_machine(),
        threads=plan.threads,
        rounds=max(len(each) for each in runs.values()),
        date=datetime.now(UTC).date().isoformat(),
        command=plan.command,
        limits=tuple(runs[_LIMITS]),
        systems=tuple(
            Measured(
                system=system.name,
                prepared=ready[system.name].prepared if system.name in ready else None,
                failure=failed.get(system.name),
                runs=tuple(runs.get(system.name, ())),
            )
            for system in plan.systems
        ),
    )


def _prepared(plan: Plan, system: System, folder: Path, plain: _Ready | None) -> _Ready:
    """A system's environment and its form of the checkpoint; `plain` has the bundle that is only to be optimised.

    Raises:
        PeerUnavailableError: it cannot run here, or could not be prepared.
    """
    if not system.file.is_file():
        raise PeerUnavailableError(f"there is no bench/peers/{system.file.name}")
    needed, there = system.gb_per_billion * parameters(plan.shape), memory_bytes()
    if needed > there:
        raise PeerUnavailableError(
            f"needs about {needed / 1e9:.0f} GB of memory, this machine has {there / 1e9:.0f}"
        )
    python = Path(sys.executable)
    if plan.environments != "own":
        root, install = plan.root / "env", plan.environments == "make"
        python = python_for(system.file.with_suffix(".txt"), root, install=install)
    model = plan.root / "models" / plan.shape / system.name
    told = model.with_name(f"{system.name}.json")
    if plan.reuse in ("all", "peers" if not system.ours else "all") and told.is_file():
        return _Ready(system=system, python=python, model=model, prepared=json.loads(told.read_text()))
    shutil.rmtree(model, ignore_errors=True)
    told.unlink(missing_ok=True)
    model.parent.mkdir(parents=True, exist_ok=True)
    given = {"checkpoint": folder, "out": model} | ({"bundle": plain.model} if plain else {})
    command = _command(system, python, "prepare", **given)
    load = round(os.getloadavg()[0], 2)
    outcome = process.run(command, log=_log(plan, system.name), timeout_s=plan.timeout_s)
    if outcome.line is None:
        raise PeerUnavailableError(f"preparing: {outcome.failure}")
    prepared = {"export_load": load} | (plain.prepared if plain else {}) | outcome.line
    told.write_text(json.dumps(prepared))
    return _Ready(system=system, python=python, model=model, prepared=prepared)


def _all_rounds(plan: Plan, ready: dict[str, _Ready], folder: Path, workload: Path) -> dict[str, list[Run]]:
    """Runs by system, and of the limits."""
    runs: dict[str, list[Run]] = {name: [] for name in (_LIMITS, *ready)}
    began = time.monotonic()
    for number in range(plan.rounds):
        if number and plan.minutes is not None and time.monotonic() - began > 60 * plan.minutes:
            _say(f"{plan.shape}: {plan.minutes:g} minutes have passed, no more rounds")
            break
        for name in turned([_LIMITS, *ready], number):
            if _done(ready.get(name), runs[name]):
                continue
            _say(f"{plan.shape}: round {number + 1} of {plan.rounds}: {name}")
            cold = number % 2 == 0
            if name == _LIMITS:
                command = _limits_command(plan)
            else:
                one = ready[name]
                cold = _files(one, folder, cold)
                given = {"model": one.model, "checkpoint": folder, "workload": workload}
                command = _command(one.system, one.python, "measure", **given, threads=plan.threads)
                if not one.system.bursts or number >= (plan.burst_rounds or plan.rounds):
                    command.append("--no-bursts")
            load = round(os.getloadavg()[0], 2)
            outcome = process.run(command, log=_log(plan, name), timeout_s=plan.timeout_s)
            if outcome.failure:
                _say(f"  {outcome.failure}")
            runs[name].append(
                Run(round=number, cold=cold, load=load, line=outcome.line, failure=outcome.failure)
            )
    return runs


def _done(one: _Ready | None, runs: list[Run]) -> bool:
    """Whether a system, or None for the limits, takes no more part."""
    most = one.system.most_rounds if one else None
    failures = sum(run.failure is not None for run in runs)
    return failures >= _MOST_FAILURES or (most is not None and len(runs) >= most)


def turned(names: list[str], number: int) -> list[str]:
    """The order of a round: each begins with another."""
    first = number % len(names)
    return names[first:] + names[:first]


def _files(one: _Ready, folder: Path, cold: bool) -> bool:
    """Make a system's files cold or warm; whether they are cold.

    Peers that have no files of their own load the checkpoint's.
    """
    own = one.model.exists() and any(one.model.iterdir())
    folders = [one.model] if own else [folder]
    if cold and page_cache.evict(folders):
        return True
    page_cache.read(folders)
    return False


def _command(system: System, python: Path, verb: str, **given: Path | int) -> list[str]:
    """A peer's command line."""
    command = [str(python), str(system.file), verb, "--precision", system.precision]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    if system.export:
        command.append(f"--export={' '.join(system.export)}")
    return [*command, "--optimized"] if system.optimized else command


def _limits_command(plan: Plan) -> list[str]:
    quick = ["--quick"] if plan.quick_limits else []
    return [sys.executable, "-m", "bench", "limits", "--threads", str(plan.threads), *quick]


def _log(plan: Plan, name: str) -> Path:
    return plan.root / "logs" / plan.shape / f"{name}.log"


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
