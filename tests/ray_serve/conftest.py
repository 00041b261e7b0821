"""The documented example in a process of its own: a Ray of this machine, two replicas of pebble, and a port.

The process executes what it gets on its standard input, a block at a time, and prints a line once it is done.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.runtime.serve.running import PATIENCE, eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "ray-serve.md"
_DRIVER = """
import sys
while block := sys.stdin.buffer.readline():
    exec(bytes.fromhex(block.decode()).decode(), globals())
    print("done", file=sys.__stdout__, flush=True)
"""


def examples() -> list[str]:
    """Of the document: the cluster, a client, another bundle."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray that runs, with all its processes."""

    driver: subprocess.Popen[bytes]
    port: int
    mark: str

    def execute(self, block: str) -> None:
        """Have the driver do something, and wait for it."""
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(block.encode().hex().encode() + b"\n")
        self.driver.stdin.flush()
        for line in self.driver.stdout:  # Ray prints, too
            if line == b"done\n":
                return
        raise AssertionError(f"the driver has ended with {self.driver.wait(PATIENCE)}")

    def processes(self) -> list[psutil.Process]:
        """All that were started by the driver, whoever their parent is now."""
        return [each for each in psutil.process_iter() if _marked(each, self.mark)]

    def replicas(self) -> list[psutil.Process]:
        """Those of Ray Serve's replicas."""
        return [each for each in self.processes() if b"ServeReplica" in _title(each)]


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("PUMICE_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _title(process: psutil.Process) -> bytes:
    """Its command line, which Ray changes."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def port() -> int:
    return _free_port()


@pytest.fixture(scope="session")
def cluster(pebble_bundle: Path, tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Cluster]:
    """Ended, and looked through for what is left, at the end."""
    folder, mark = tmp_path_factory.mktemp("cluster"), uuid.uuid4().hex
    (folder / "bundles").mkdir()
    (folder / "bundles" / "pebble").symlink_to(pebble_bundle)
    environment = os.environ | {"PUMICE_TEST_MARK": mark, "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "errors").open("wb") as errors:
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    cluster = Cluster(driver=driver, port=port, mark=mark)
    try:
        block = examples()[0].replace("8000", str(port)).replace("num_cpus=2", "num_cpus=3", 1)
        cluster.execute(block)
        yield cluster
        cluster.execute("serve.shutdown()\nray.shutdown()")
        assert driver.stdin is not None
        driver.stdin.close()
        assert driver.wait(PATIENCE) == 0
        eventually(lambda: not cluster.processes())
    finally:
        for each in [driver, *cluster.processes()]:
            each.kill()
        driver.wait(PATIENCE)
        print((folder / "errors").read_text(errors="replace")[-8_000:])
