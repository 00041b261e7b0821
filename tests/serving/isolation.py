"""Nobody's answer depends on who else asks: alone, and sixteen at once, on servers started anew."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.runtime.serve.running import image_part, png, question, text
from tests.serving.bounds import Bounds
from tests.serving.client import ask
from tests.serving.figures import Figure
from tests.serving.process import served

COLORS = ("red", "green", "blue", "white", "navy", "orange", "black")
RESTARTS, AT_ONCE = 3, 16


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Texts and token ids, of greedy and of drawn answers with a seed."""
    bodies = [_body(number) for number in range(int(bounds.prompts))]
    with served(bundle, "--slots", 8) as server:
        alone = [asyncio.run(_said(server.port, body)) for body in bodies]
    differing = 0
    for restart in range(RESTARTS):
        with served(bundle, "--slots", 8) as server:
            found = asyncio.run(_crowd(server.port, bodies, random.Random(restart)))
        differing += sum(one != other for one, other in zip(alone, found, strict=True))
    yield Figure(
        check="isolation",
        what=f"prompts, alone and {AT_ONCE} at once on {RESTARTS} new servers",
        value=len(bodies),
    )
    yield Figure(
        check="isolation",
        what="different answers among them",
        value=len({str(each) for each in alone}),
        least=2,
    )
    yield Figure(check="isolation", what="answers that are not as alone", value=differing, most=0)


def _body(number: int) -> bytes:
    image = (
        [image_part(png(COLORS[number % len(COLORS)], (20 + 7 * (number % 30), 64)))] if number % 3 else []
    )
    drawn: dict[str, Any] = {"temperature": 1.3, "seed": number} if number % 2 else {}
    content = [*image, text(f"What is this, number {number % 17}?")]
    return json.dumps(question(content, max_tokens=24, return_token_ids=True, **drawn)).encode()


async def _said(port: int, body: bytes) -> tuple[str, list[int]]:
    (choice,) = (await ask(port, body)).answer.json["choices"]
    return choice["message"]["content"], choice["token_ids"]


async def _crowd(port: int, bodies: list[bytes], chance: random.Random) -> list[tuple[str, list[int]]]:
    """In another order each time."""
    order = list(range(len(bodies)))
    chance.shuffle(order)
    turns, found = asyncio.Semaphore(AT_ONCE), {}

    async def one(index: int) -> None:
        async with turns:
            found[index] = await _said(port, bodies[index])

    await asyncio.gather(*(one(index) for index in order))
    return [found[index] for index in range(len(bodies))]
