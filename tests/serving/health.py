"""What the server says of itself is so: of an engine that stands, that has failed, whose logits are no numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import eventually, running
from tests.runtime.serve.test_health import POISON, die, poison, stall
from tests.serving.bounds import Bounds
from tests.serving.figures import Figure


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """So many of each."""
    count = int(bounds.deaths)
    yield from _stalled(bundle, count)
    yield from _dead(bundle, count)
    yield from _poisoned(bundle, count)


def _stalled(bundle: Path, count: int) -> Iterator[Figure]:
    slowest, recovered = 0.0, 0
    with running(bundle, deadline=300) as server, ThreadPoolExecutor(1) as pool:
        for _ in range(count):
            gate = Gate()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pumice.serve.bundles.STALLED_S", 0.5)
                stall(gate, patch)
                asked = pool.submit(server.chat, "Hi", max_tokens=2)
                assert gate.reached.wait(300)
                began = time.perf_counter()
                try:
                    eventually(lambda: server.get("/ready").status == 503)
                    slowest = max(slowest, time.perf_counter() - began)
                finally:
                    gate.open()
            recovered += asked.result(300).status == 200
            eventually(lambda: server.get("/ready").status == 200)
    yield Figure(check="health", what="stalled engines", value=count)
    what = "/ready 503 behind a step that stands, slowest (stalled: 0.5 s here, 10 s by default)"
    yield Figure(check="health", what=what, value=slowest, unit="s", most=10)
    yield Figure(check="health", what="answered and ready again", value=recovered, least=count)


def _dead(bundle: Path, count: int) -> Iterator[Figure]:
    found: Counter[str] = Counter()
    for _ in range(count):
        with running(bundle) as server:
            with pytest.MonkeyPatch.context() as patch:
                die(patch)
                found["typed"] += server.chat("Hi").error["code"] == "draining"
            eventually(lambda: not server.loaded.engine.alive)
            found["ready"] += server.get("/ready").status == 200
            found["healthy"] += server.get("/health").status == 200
            found["answered"] += server.chat("Hi").status != 503
    yield Figure(
        check="health", what="engines that failed, each with a typed 503", value=found["typed"], least=count
    )
    for what in ("ready", "healthy", "answered"):
        yield Figure(check="health", what=f"… and the server says it is {what}", value=found[what], most=0)


def _poisoned(bundle: Path, count: int) -> Iterator[Figure]:
    found: Counter[str] = Counter()
    with running(bundle, slots=4) as server, ThreadPoolExecutor(8) as pool:
        alone = server.chat("Describe it.", max_tokens=20).text
        for number in range(count):
            with pytest.MonkeyPatch.context() as patch:
                poison(patch, server, after=number % 2 * 5)
                asked = [pool.submit(server.chat, "Describe it.", max_tokens=20) for _ in range(6)]
                stream = number % 4 > 1
                bad = server.chat(POISON, max_tokens=20, ignore_eos=True, stream=stream)
                told = bad.events[-1]["error"] if stream else bad.error
                found["typed"] += told["code"] == "internal_error" and "[DONE]" not in bad.body.decode()
                found["others"] += sum(each.result(300).text != alone for each in asked)
            found["next"] += server.chat("Describe it.", max_tokens=20).text != alone
            found["ready"] += server.get("/ready").status != 200
    yield Figure(
        check="health", what="logits that are NaN, each a typed error", value=found["typed"], least=count
    )
    yield Figure(
        check="health", what="… others' answers that changed", value=found["others"] + found["next"], most=0
    )
    yield Figure(check="health", what="… and the server is not ready then", value=found["ready"], most=0)
