"""SIGTERM under eight streams: each ends in [DONE], or in an error event where there was no time; exit code 0."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.runtime.serve.running import question
from tests.serving.bounds import Bounds
from tests.serving.client import Timed, ask
from tests.serving.figures import Figure
from tests.serving.process import Served, served

STREAMS, DRAIN_S = 8, 30


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Every fifth server has no time to drain."""
    chance = random.Random(50)
    found: Counter[str] = Counter()
    slowest = 0.0
    for number in range(int(bounds.drains)):
        at_once = number % 5 == 4
        with served(bundle, "--slots", 4, "--drain", 0 if at_once else DRAIN_S) as server:
            answers, new, took = asyncio.run(_ended(server, chance))
            for each in answers:
                found[_end_of(each, may_fail=at_once)] += 1
            found["new ones that are not 503"] += new not in (0, 503)
            found["exit codes that are not 0"] += server.process.returncode != 0
            slowest = max(slowest, took)
    yield Figure(
        check="drain",
        what="streams, eight a server",
        value=sum(found[end] for end in ("done", "cut", "out of time", "ended otherwise")),
    )
    yield Figure(check="drain", what="ended in [DONE]", value=found["done"], least=1)
    yield Figure(
        check="drain",
        what="cut off with an error event, no [DONE] (every fifth server: --drain 0)",
        value=found["cut"],
    )
    what = f"cut off so where {DRAIN_S} s were not enough: the machine is too busy for so many tokens"
    yield Figure(check="drain", what=what, value=found["out of time"])
    for kind in ("ended otherwise", "new ones that are not 503", "exit codes that are not 0"):
        yield Figure(check="drain", what=kind, value=found[kind], most=0)
    yield Figure(check="drain", what="slowest end", value=slowest, unit="s", most=DRAIN_S + 2)


async def _ended(server: Served, chance: random.Random) -> tuple[list[Timed], int, float]:
    """The streams; the status of a request that comes too late, 0 where nothing listens; seconds until the exit."""
    bodies = [
        json.dumps(
            question(f"Count to {n}", stream=True, ignore_eos=True, max_tokens=chance.randrange(1, 1500))
        ).encode()
        for n in range(STREAMS)
    ]
    asking = [asyncio.ensure_future(ask(server.port, body)) for body in bodies]
    await asyncio.sleep(0)
    while True:  # all have come in
        page = (await ask(server.port, path="/metrics", method="GET")).answer.body
        if b"pumice_http_in_flight 9" in page or all(each.done() for each in asking):
            break
    await asyncio.sleep(chance.random() * 0.2)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)
    try:
        new = (await ask(server.port, bodies[0])).answer.status
    except (OSError, IndexError):
        new = 0
    answers = await asyncio.gather(*asking)
    await asyncio.to_thread(server.process.wait, 60)
    return answers, new, time.monotonic() - began


def _end_of(each: Timed, *, may_fail: bool) -> str:
    events = each.answer.events if each.answer.status == 200 else []
    if events and events[-1] == "[DONE]":
        return "done"
    # Cut off before its first byte it is a plain refusal.
    last = events[-1] if events else each.answer.json
    told = "error" in last and last["error"]["code"] == "draining" and "[DONE]" not in events
    if not told:
        return "ended otherwise"
    return "cut" if may_fail else "out of time"
