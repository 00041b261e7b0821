"""Ten minutes of everything: memory's slope, open files and threads; and that a planted leak is seen.

The pictures and questions are drawn from a few hundred, so that caches are full before the half that is judged.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.runtime.serve.running import image_part, png, question, text
from tests.runtime.serve.test_fuzz import images, mutated
from tests.serving.bounds import Bounds
from tests.serving.client import ask, leave
from tests.serving.figures import Figure, slope
from tests.serving.process import Served, served

CLIENTS, SAMPLES, LEAVING, BAD = 8, 60, 0.2, 0.05
GROWTH_MIB, SLOPE_MIB = 100, 1.0
LEAKY = ("-m", "tests.serving.leaky")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the process has, behind so many requests."""

    requests: int
    mib: float
    files: int
    threads: int


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """The server as it is, then one that keeps 64 KiB of each request, for a tenth of the time."""
    with served(bundle, "--slots", 4) as server:
        samples, found = asyncio.run(_soak(server, bounds.minutes * 60))
        code = server.end()
    yield Figure(check="soak", what="minutes", value=bounds.minutes)
    for kind in ("requests", "left early", "bad images"):
        yield Figure(check="soak", what=kind, value=found[kind])
    yield Figure(check="soak", what="neither 200, 400 nor 429", value=found["others"], most=0)
    yield Figure(check="soak", what="resident memory at the end", value=samples[-1].mib, unit="MiB")
    growth, rise = judged(samples)
    yield Figure(
        check="soak", what="its growth in the second half", value=growth, unit="MiB", most=GROWTH_MIB
    )
    yield Figure(
        check="soak", what="its slope there, a thousand requests", value=rise, unit="MiB", most=SLOPE_MIB
    )
    first, half, last = samples[0], samples[len(samples) // 2], samples[-1]
    yield Figure(
        check="soak", what="open files more than in the beginning", value=last.files - first.files, most=0
    )
    yield Figure(
        check="soak", what="threads more than at half-time", value=last.threads - half.threads, most=0
    )
    yield Figure(check="soak", what="exit code", value=code, most=0, least=0)
    with served(bundle, "--slots", 4, module=LEAKY) as server:
        leaking, _ = asyncio.run(_soak(server, bounds.minutes * 6))
    what = "slope of a server with a planted leak of 64 KiB a request, a thousand requests"
    yield Figure(check="soak", what=what, value=judged(leaking)[1], unit="MiB", least=SLOPE_MIB)


def judged(samples: Sequence[Sample]) -> tuple[float, float]:
    """MiB more at the end of the second half than in its beginning, and the slope there in MiB a thousand requests."""
    half = samples[len(samples) // 2 :]
    quarter = max(1, len(half) // 4)
    beginning, end = (
        sum(each.mib for each in part) / len(part) for part in (half[:quarter], half[-quarter:])
    )
    return end - beginning, slope([(each.requests / 1000, each.mib) for each in half])


async def _soak(server: Served, seconds: float) -> tuple[list[Sample], Counter[str]]:
    chance = random.Random(10)
    bodies, bad = _bodies(chance)
    found: Counter[str] = Counter()
    await asyncio.gather(
        *(ask(server.port, body) for body in bodies[: 4 * CLIENTS])
    )  # so that all threads are there
    samples = [await _sample(server, 0)]
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            found["requests"] += 1
            drawn = chance.random()
            if drawn < LEAVING:
                found["left early"] += 1
                await leave(server.port, chance.choice(bodies), chance.random() * 0.05)
                continue
            body = chance.choice(bad if drawn < LEAVING + BAD else bodies)
            found["bad images"] += body in bad
            status = (await ask(server.port, body)).answer.status
            found["others"] += status not in (200, 400, 429)

    clients = asyncio.gather(*(client() for _ in range(CLIENTS)))
    for _ in range(SAMPLES):
        await asyncio.sleep(seconds / SAMPLES)
        samples.append(
            Sample(requests=found["requests"], mib=server.mib, files=server.files, threads=server.threads)
        )
    await clients
    await asyncio.sleep(1)  # those that left are noticed
    samples.append(await _sample(server, found["requests"]))
    return samples, found


async def _sample(server: Served, requests: int) -> Sample:
    """With nobody connected, once the system has closed what clients have."""
    least = server.files
    for _ in range(20):
        await asyncio.sleep(0.05)
        least = min(least, server.files)
    return Sample(requests=requests, mib=server.mib, files=least, threads=server.threads)


def _bodies(chance: random.Random) -> tuple[list[bytes], list[bytes]]:
    """Sound ones of mixed sizes, and some with damaged images."""
    numbers = np.random.default_rng(7)
    sent: list[bytes] = []
    for number in range(200):
        color = "#{:02x}{:02x}{:02x}".format(*(int(value) for value in numbers.integers(0, 256, 3)))
        size = (chance.randrange(8, 900), chance.randrange(8, 900))
        image = [image_part(png(color, size))] if number % 2 else []
        content = [*image, text("What is this? " * chance.randrange(1, 20))]
        asked = question(content, max_tokens=chance.randrange(1, 60), stream=number % 3 == 0)
        sent.append(json.dumps(asked).encode())
    sound = images()
    broken = [
        json.dumps(
            question([image_part(mutated(chance.choice(sound), chance)), text("?")], max_tokens=1)
        ).encode()
        for _ in range(50)
    ]
    return sent, broken
