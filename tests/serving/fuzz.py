"""Damaged images over HTTP: an answer or a typed refusal, nothing of the inside, and a golden answer as before."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.runtime.serve.running import Answer, image_part, question, text
from tests.runtime.serve.test_fuzz import LEAKS, images, mutated
from tests.serving.bounds import Bounds
from tests.serving.client import ask
from tests.serving.figures import Figure
from tests.serving.process import Served, served

HELDOUT = Path(__file__).parents[2] / "pebble" / "heldout"
AT_ONCE = 4


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Mutated images of ten kinds, one in ten streamed, a few at once."""
    with served(bundle, "--slots", AT_ONCE) as server:
        body = json.dumps(
            question([image_part((HELDOUT / "stop-sign.png").read_bytes()), text("Describe it.")])
        ).encode()
        golden = asyncio.run(ask(server.port, body)).answer.text
        found = asyncio.run(_all(server, int(bounds.fuzz)))
        again = asyncio.run(ask(server.port, body)).answer.text
        yield Figure(check="fuzz", what="mutated images", value=bounds.fuzz)
        for kind in ("answered", "refused"):
            yield Figure(check="fuzz", what=kind, value=found[kind], least=1)
        for kind in ("neither an answer nor a typed 4xx", "leaks"):
            yield Figure(check="fuzz", what=kind, value=found[kind], most=0)
        yield Figure(check="fuzz", what="golden answer as before", value=again == golden, least=1)
        yield Figure(check="fuzz", what="exit code", value=server.end(), most=0, least=0)
        said = [line for line in server.said.splitlines() if LEAKS.search(line.encode())]
        print(*dict.fromkeys(said), sep="\n", end="\n" * bool(said))
        yield Figure(check="fuzz", what="leaks into the log", value=len(said), most=0)


async def _all(server: Served, cases: int) -> Counter[str]:
    found: Counter[str] = Counter()
    chance = random.Random(160)
    sound = images()
    left = iter(range(cases))

    async def work() -> None:
        for _ in left:
            stream = chance.random() < 0.1
            image = image_part(mutated(chance.choice(sound), chance), chance.choice(("jpeg", "png")))
            body = json.dumps(question([image, text("?")], max_tokens=1, stream=stream)).encode()
            answer = (await ask(server.port, body)).answer
            found[kind_of(answer, stream=stream)] += 1
            found["leaks"] += bool(LEAKS.search(answer.body))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


def kind_of(answer: Answer, *, stream: bool) -> str:
    """Answered with the image, refused as OpenAI refuses, or neither."""
    try:
        if stream and answer.status == 200:
            *events, last = answer.events
            if last == "[DONE]":
                return "answered" if events else "neither an answer nor a typed 4xx"
            return "refused" if _typed(last) else "neither an answer nor a typed 4xx"
        if answer.status == 200:
            counted = answer.json["usage"]["prompt_tokens_details"]["image_tokens"] > 0
            return "answered" if counted else "neither an answer nor a typed 4xx"
        if 400 <= answer.status < 500 and _typed(answer.json):
            return "refused"
    except (ValueError, KeyError, TypeError):
        pass
    return "neither an answer nor a typed 4xx"


def _typed(value: dict[str, dict[str, str]]) -> bool:
    error = value["error"]
    return set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
