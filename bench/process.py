"""One measurement is one process: started, watched, and read.

Enters: a command. Leaves: the JSON line that it printed last, or why there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a process: `line`, or `failure` in a line."""

    line: dict[str, Any] | None = None
    failure: str | None = None


def run(
    command: list[str], *, log: Path, timeout_s: float, settings: dict[str, str] | None = None
) -> Outcome:
    """Run a command to its end, or to its time limit; what it says beside its line goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as words:
        words.write(f"$ {' '.join(command)}\n")
        words.flush()
        # a session of its own, so that what it started ends with it
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=words,
            stdin=subprocess.DEVNULL,
            env=os.environ | (settings or {}),
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                return Outcome(failure=f"not done after {timeout_s:.0f} s")
            raise
        words.write(said)
    if process.returncode:
        return Outcome(failure=f"{_how(process.returncode)}: {_last_line(log)}")
    return _read(said)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _how(code: int) -> str:
    """How a process ended."""
    if code == -signal.SIGKILL:
        return "killed, as the system does where memory ends"
    return f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was said"


def _read(said: str) -> Outcome:
    """The last line, which must be a JSON object."""
    lines = said.strip().splitlines()
    try:
        line = json.loads(lines[-1])
    except (IndexError, ValueError):
        return Outcome(
            failure=f"its last line is no JSON: {lines[-1][:200] if lines else 'it printed nothing'}"
        )
    if not isinstance(line, dict):
        return Outcome(failure=f"its last line is no JSON object: {lines[-1][:200]}")
    return Outcome(line=line)
