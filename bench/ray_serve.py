"""What Ray Serve costs beside `pumice serve`: `build/ray-serve/bin/python -m bench.ray_serve BUNDLE`. JSON lines.

Milliseconds of the processor for a request of one token, and microseconds for each event of a stream: of `pumice serve`
alone, then of a replica, and of Ray's proxy before it. Small models show it; with large ones it is lost. Then the
memory of the replica, of the proxy, and of all else that Ray has started, in MiB (proportional set sizes).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

DIRECT, RAY = 8091, 8092


def ask(port: int, tokens: int, stream: bool) -> None:
    """One request, read to its end."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "What is this?"}], "max_tokens": tokens}
    connection = HTTPConnection("127.0.0.1", port)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({**body, "temperature": 0, "stream": stream, "ignore_eos": True}),
    )
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{response.status}: {response.read()[:300]!r}")
    response.read()
    connection.close()


def seconds(processes: list[psutil.Process]) -> list[float]:
    """Of the processor, that each has taken so far."""
    return [sum(process.cpu_times()[:2]) for process in processes]


def cost(port: int, processes: list[psutil.Process], requests: int, tokens: int, stream: bool) -> list[float]:
    """Seconds of each process for one request."""
    before = seconds(processes)
    for _ in range(requests):
        ask(port, tokens, stream)
    return [(after - start) / requests for start, after in zip(before, seconds(processes), strict=True)]


def mebibytes(processes: list[psutil.Process]) -> int:
    """Of memory; what several share counts once."""
    return round(sum(float(process.memory_full_info().pss) for process in processes) / 2**20)


def measure(kind: str, port: int, processes: dict[str, psutil.Process], requests: int) -> None:
    """Print both lines of one kind of server."""
    found = list(processes.values())
    ask(port, 1, False)
    one = cost(port, found, requests, 1, False)
    short, long = (cost(port, found, requests // 8, tokens, True) for tokens in (1, 201))
    for name, request, begun, ended in zip(processes, one, short, long, strict=True):
        event = (ended - begun) / 200
        line = {"server": kind, "process": name, "request_cpu_ms": round(request * 1e3, 2)}
        print(json.dumps({**line, "event_cpu_us": round(event * 1e6)}), flush=True)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--requests", type=int, default=400)
    args = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "pumice",
        "serve",
        args.bundle,
        "--port",
        str(DIRECT),
        "--threads",
        "1",
        "--quiet",
    ]
    with subprocess.Popen(command) as server:
        while b"ok" not in _health():
            time.sleep(0.1)
        measure("pumice serve", DIRECT, {"server": psutil.Process(server.pid)}, args.requests)
        server.terminate()
    import ray
    from ray import serve

    from pumice.ray import serve_app

    ray.init(num_cpus=1, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": RAY})
    serve.run(serve_app(args.bundle, device="cpu"))
    ours = psutil.Process().children(recursive=True)
    titles = {title: _titled(ours, title) for title in ("ServeReplica", "ProxyActor")}
    measure("Ray Serve", RAY, titles, args.requests)
    sizes = {name: mebibytes([process]) for name, process in titles.items()}
    others = [each for each in ours if each not in titles.values() and each.is_running()]
    print(json.dumps({"measured": "memory", **sizes, "others": mebibytes(others)}), flush=True)
    serve.shutdown()
    ray.shutdown()


def _health() -> bytes:
    try:
        connection = HTTPConnection("127.0.0.1", DIRECT)
        connection.request("GET", "/health")
        return connection.getresponse().read()
    except OSError:
        return b""


def _titled(processes: list[psutil.Process], title: str) -> psutil.Process:
    """Of these, the one that Ray calls so."""
    return next(
        each for each in processes if title.encode() in Path(f"/proc/{each.pid}/cmdline").read_bytes()
    )


if __name__ == "__main__":
    main()
