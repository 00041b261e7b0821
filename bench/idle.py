"""A server that does nothing: how soon it is ready, what it holds, what it takes of a core.

    python -m bench.idle BUNDLE [--pumice COMMAND] [--rounds 5] [--seconds 30]

Enters: a bundle. Leaves: a JSON line a round, for `pumice serve` and for the same engine in a process without a server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

SLOTS = 4
PATIENCE_S = 120.0
_ENGINE = """
import sys, pumice
with pumice.Engine(pumice.load(sys.argv[1]), slots=int(sys.argv[2])) as engine:
    print("ready", flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pumice", default="pumice", help="the command; Python is taken from beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args()
    for number in range(chosen.rounds):
        print(
            json.dumps(served(chosen.pumice, chosen.bundle, chosen.seconds if number == 0 else 0)), flush=True
        )
    python = Path(chosen.pumice).with_name("python")
    print(json.dumps(in_process(str(python), chosen.bundle)), flush=True)


def served(pumice: str, bundle: Path, idle_s: float) -> dict[str, Any]:
    """One start, and `idle_s` of nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    command = [pumice, "serve", str(bundle), "--port", str(port), "--slots", str(SLOTS)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            listening_s = _answered(f"http://127.0.0.1:{port}/health/live") - began
            ready_s = _answered(f"http://127.0.0.1:{port}/ready") - began
            line = {"what": "serve", "listening_s": listening_s, "ready_s": ready_s, "ready_cpu_s": _cpu(process.pid),
                    "rss_mib": _rss(process.pid)}  # fmt: skip
            if idle_s:
                before = _cpu(process.pid)
                time.sleep(idle_s)
                line |= {
                    "idle_cpu_s": _cpu(process.pid) - before,
                    "idle_s": idle_s,
                    "idle_rss_mib": _rss(process.pid),
                }
            return line
        finally:
            process.terminate()


def in_process(python: str, bundle: Path) -> dict[str, Any]:
    """The same engine without a server."""
    command = [python, "-c", _ENGINE, str(bundle), str(SLOTS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        line = {"what": "engine", "rss_mib": _rss(process.pid), "ready_cpu_s": _cpu(process.pid)}
        process.stdin.close()
    return line


def _answered(url: str) -> float:
    """When it was first 200."""
    end = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < end:
        try:
            with urlopen(url, timeout=5):
                return time.perf_counter()
        except (URLError, ConnectionError):
            time.sleep(0.005)
    raise TimeoutError(f"{url} was not 200 within {PATIENCE_S} s")


def _rss(pid: int) -> float:
    """MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _cpu(pid: int) -> float:
    """Seconds of all its threads, in user space and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
