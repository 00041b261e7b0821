"""Far more clients than places: an answer, or 429 with when to try again, before any image is decoded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.runtime.serve.running import image_part, png, question, text
from tests.serving.bounds import Bounds
from tests.serving.client import Timed, ask
from tests.serving.figures import Figure, quantile
from tests.serving.polling import polling
from tests.serving.process import Served, served

QUEUE, SLOTS = 32, 4


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """All at once, each with an image of its own; then the server is as before."""
    with served(bundle, "--slots", SLOTS, "--max-queue", QUEUE) as server:
        body = _body(0)
        alone = asyncio.run(ask(server.port, body)).answer.text
        with polling(server.port, "/health/live", 100_000) as polls:
            answers = asyncio.run(_flood(server, int(bounds.flood)))
        refused = [each for each in answers if each.answer.status == 429]
        answered = [each for each in answers if each.answer.status == 200]
        yield Figure(
            check="flood", what=f"clients at once, {QUEUE} may wait for {SLOTS} slots", value=len(answers)
        )
        others = len(answers) - len(refused) - len(answered)
        yield Figure(check="flood", what="neither 200 nor 429", value=others, most=0)
        yield Figure(check="flood", what="429", value=len(refused), least=1)
        untold = sum(not 1 <= int(each.answer.headers.get("retry-after", 0)) <= 60 for each in refused)
        yield Figure(check="flood", what="429 without a Retry-After of 1 to 60 s", value=untold, most=0)
        # Images are decoded by the engine: whoever never came there cost nothing.
        outcomes = ("finished", "cancelled", "failed", "expired")
        came = sum(server.metric(f'pumice_requests_total{{outcome="{outcome}"}}') for outcome in outcomes)
        reached = came - len(answered) - 1
        yield Figure(check="flood", what="refused ones that reached the engine", value=reached, most=0)
        times = [each.seconds * 1e3 for each in refused]
        yield Figure(
            check="flood",
            what="429, median (clients on the same cores)",
            value=quantile(times, 0.5),
            unit="ms",
        )
        yield Figure(
            check="flood",
            what="/health/live, p99 meanwhile",
            value=quantile(polls, 0.99) * 1e3,
            unit="ms",
            most=100,
        )
        again = asyncio.run(ask(server.port, body)).answer.text
        yield Figure(check="flood", what="same answer afterwards", value=again == alone, least=1)


def _body(number: int) -> bytes:
    color = tuple(int(value) for value in np.random.default_rng(number).integers(0, 256, 3))
    image = png("#{:02x}{:02x}{:02x}".format(*color), (640, 480))
    return json.dumps(question([image_part(image), text("What is this?")], max_tokens=20)).encode()


async def _flood(server: Served, clients: int) -> list[Timed]:
    """Their responses."""
    bodies = [_body(number) for number in range(1, clients + 1)]
    return await asyncio.gather(*(ask(server.port, body) for body in bodies))
