"""Requests at once for pumice: its `Engine`, all of them submitted before any is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bursts import Served, bursts

SLOTS = 8


def engine_bursts(
    make: Callable[..., Any], workload: Path, options: dict[str, Any], missing: dict[str, str]
) -> dict[str, float]:
    """Throughput and times to the first token of all numbers of requests, by the engine that `make` makes."""
    work = json.loads((workload / "workload.json").read_text())
    images = [str(workload / name) for name in work["burst_images"]]
    with make(slots=SLOTS, context=len(work["input_ids"]) + work["burst_tokens"]) as engine:
        given = options | {"max_new_tokens": work["burst_tokens"]}
        return bursts(partial(served, engine, work["question"], given), images, missing)


def served(engine: Any, question: str, options: dict[str, Any], images: Sequence[str]) -> Served:
    """A request for each image, all at once."""
    firsts: dict[int, float] = {}
    begun = time.perf_counter()

    def follow(number: int, pieces: list[Any]) -> None:
        if any(piece.token_ids for piece in pieces):
            firsts.setdefault(number, time.perf_counter() - begun)

    futures = [
        engine.follow(question, [image], follower=partial(follow, number), **options)
        for number, image in enumerate(images)
    ]
    answers = [answer for future in futures for answer in future.result()]
    seconds = time.perf_counter() - begun
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    return Served(firsts=list(firsts.values()), seconds=seconds, tokens=tokens)
