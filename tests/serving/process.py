"""A server in a process of its own, as users start it, and what the system says of it.

Enters: a bundle and flags. Leaves: a process that is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from tests.runtime.serve.running import PATIENCE
from tests.serving.client import ask


@dataclass(frozen=True, kw_only=True)
class Served:
    """A process that serves."""

    port: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def mib(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return int(psutil.Process(self.process.pid).num_fds())

    @property
    def threads(self) -> int:
        """Of the process."""
        return int(psutil.Process(self.process.pid).num_threads())

    @property
    def said(self) -> str:
        """What it has written to standard error."""
        return Path(self.log.name).read_text(errors="replace")

    def metric(self, name: str) -> float:
        """A line of `/metrics`."""
        page = asyncio.run(ask(self.port, path="/metrics", method="GET")).answer.body.decode()
        return next(float(line.split(" ")[-1]) for line in page.splitlines() if line.startswith(f"{name} "))

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def served(bundle: Path, *flags: Any, module: Sequence[str] = ("-m", "pumice")) -> Iterator[Served]:
    """A server of a bundle on a free port, with one thread, once it is ready; ended at the end."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        command = [sys.executable, *module, "serve", str(bundle), "--port", "0", "--threads", "1", "--quiet"]
        process = subprocess.Popen([*command, *map(str, flags)], stderr=log, stdout=log)
        try:
            yield Served(port=_port(process, Path(log.name)), process=process, log=log)
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"at http://[^:]+:(\d+)", log.read_text(errors="replace"))
        if found:
            port = int(found[1])
            with contextlib.suppress(OSError):  # it may be ending
                if asyncio.run(ask(port, path="/ready", method="GET")).answer.status == 200:
                    return port
        time.sleep(0.05)
    raise RuntimeError(f"the server did not become ready: {log.read_text(errors='replace')[-2000:]}")
