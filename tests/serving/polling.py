"""One route asked again and again, in a process of its own: clients of the same process would hold it up.

Enters: a port, a path, and how often at most. Leaves: seconds of each call, once it is done or told to end.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAUSE_S = 0.005


@contextlib.contextmanager
def polling(port: int, path: str, most: int, *, whole: bool = False) -> Iterator[list[float]]:
    """A list, filled at the end (with `whole` once all calls are made); one has been answered before it begins."""
    command = [sys.executable, "-m", "tests.serving.polling", str(port), path, str(most)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.readline()
    found: list[float] = []
    try:
        yield found
        if not whole:
            process.send_signal(signal.SIGINT)
        found += json.loads(process.stdout.read())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main(port: int, path: str, most: int) -> None:
    """Poll, and print."""
    found: list[float] = []
    with contextlib.suppress(KeyboardInterrupt):
        for _ in range(most):
            began = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", port, timeout=300)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                found.append(time.perf_counter() - began)
            else:
                found.append(float("inf"))
            connection.close()
            if len(found) == 1:
                print("begun", flush=True)
            time.sleep(PAUSE_S)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
