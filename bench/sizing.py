"""What a replica gives, for docs/sizing.md: `python -m bench.sizing BUNDLE`. JSON lines, one for each measurement.

first     token of a short prompt, and of one with an image: seconds of the processor
slots     of an engine with 1, 2, 4 and 8 slots that are all in use: tokens for each second of the processor
replicas  the same of one process, and of two beside each other

Replicas have one thread, and what is counted is their processes' own time on a processor, so that a machine that does
other things meanwhile hardly changes it: on a processor of its own a replica gives as many tokens a second. Rounds are
interleaved, and the best of each is taken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import pumice
from bench.engine import OPEN_ENDED, noise_image, run

SLOTS = (1, 2, 4, 8)


def first_token(model: pumice.Model, rounds: int) -> dict[str, Any]:
    """Prompts and images that no cache has."""
    texts: list[float] = []
    images: list[float] = []
    tokens: list[int] = []
    for n in range(rounds):
        for found, image in ((texts, None), (images, noise_image(n))):
            begun = time.process_time()
            usage = model.generate(f"{n} {n * 7}: what is {n}?", image, max_new_tokens=1, **OPEN_ENDED).usage
            found.append(time.process_time() - begun)
            tokens.append(usage.prompt_tokens)
    return {
        "measured": "first",
        "prompt_tokens": tokens[:2],
        "text_cpu_ms": round(min(texts) * 1e3, 1),
        "image_cpu_ms": round(min(images) * 1e3, 1),
    }


def speed(engine: pumice.Engine, tokens: int, first: int) -> float:
    """Tokens for each second of the processor, with all slots in use but at the end."""
    requests = 2 * engine.slots
    begun = time.process_time()
    run(engine, engine.slots, requests, tokens, first)
    return requests * tokens / (time.process_time() - begun)


def slots(model: pumice.Model, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """A line for each number of slots."""
    engines = [pumice.Engine(model, slots=count, context=512) for count in SLOTS]
    speeds: dict[int, list[float]] = {count: [] for count in SLOTS}
    for n in range(rounds):
        for engine in engines:
            speeds[engine.slots].append(speed(engine, tokens, first=n * 1000))
    for engine in engines:
        engine.close()
    one = max(speeds[1])
    return [
        {
            "measured": "slots",
            "slots": count,
            "tokens_per_cpu_second": round(max(found), 1),
            "to_one_slot": round(max(found) / one, 2),
        }
        for count, found in speeds.items()
    ]


def replicas(bundle: str, rounds: int, tokens: int, at_once: int) -> dict[str, Any]:
    """One process alone, and two beside each other, in turn."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=_replica, args=(there, bundle, at_once)) for _, there in pipes]
    for process in processes:
        process.start()
    connections = [here for here, _ in pipes]
    alone, beside = [], []
    for n in range(rounds):
        alone += _speeds(connections[:1], tokens, n)
        beside += _speeds(connections, tokens, n + 500)
    for connection, process in zip(connections, processes, strict=True):
        connection.send(None)
        process.join()
    return {
        "measured": "replicas",
        "slots": at_once,
        "tokens_per_cpu_second_alone": round(max(alone), 1),
        "tokens_per_cpu_second_beside": round(max(beside), 1),
        "efficiency": round(max(beside) / max(alone), 2),
    }


def _speeds(connections: list[Connection], tokens: int, number: int) -> list[float]:
    for connection in connections:
        connection.send((tokens, number * 1000))
    return [connection.recv() for connection in connections]


def _replica(connection: Connection, bundle: str, count: int) -> None:
    """A process that measures when it is asked to."""
    with pumice.Engine(pumice.load(bundle, device="cpu", threads=1), slots=count, context=512) as engine:
        while asked := connection.recv():
            connection.send(speed(engine, *asked))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--only", choices=("first", "slots", "replicas"))
    args = parser.parse_args()
    wanted = {args.only} if args.only else {"first", "slots", "replicas"}
    if wanted & {"first", "slots"}:
        model = pumice.load(args.bundle, device="cpu", threads=1)
        lines = [first_token(model, args.rounds)] if "first" in wanted else []
        lines += slots(model, args.rounds, args.tokens) if "slots" in wanted else []
        for line in lines:
            print(json.dumps(line), flush=True)
        del model
    if "replicas" in wanted:
        print(json.dumps(replicas(args.bundle, args.rounds, args.tokens, at_once=4)), flush=True)


if __name__ == "__main__":
    main()
