"""What the engine gives: `python -m bench.engine BUNDLE`. JSON lines, one for each measurement.

throughput  tokens a second with 1 and with 8 requests at once, in turn (`--rounds`); the best of each
between     milliseconds between the tokens of decoding requests: while nothing else happens, and while long prompts and
            new images arrive
memory      resident memory over many requests of which a fifth is cancelled, by chance, in any phase; caches of
            prompts and images have 4 MiB each, so that they are full early

Answers do not end by themselves, so that both sides of a comparison give as many tokens. `--threads` are the model's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import pumice

OPEN_ENDED: dict[str, Any] = {"eos_token_id": [], "do_sample": False, "prompt_lookup_num_tokens": 0}
"""Answers as long as asked for; without drafts, which random weights, repeating themselves, make too easy."""


def noise_image(seed: int) -> Any:
    """Noise, uint8 [96, 96, 3]: an image that no cache has."""
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def run(engine: pumice.Engine, at_once: int, requests: int, tokens: int, first: int) -> float:
    """Tokens a second over `requests`, of which `at_once` are under way at any time."""
    turns = threading.Semaphore(at_once)
    futures: list[Future[Any]] = []
    begun = time.perf_counter()
    for n in range(requests):
        turns.acquire()
        question = f"Question {first + n}: what is this?"
        future = engine.submit(question, max_new_tokens=tokens, min_new_tokens=tokens, **OPEN_ENDED)
        future.add_done_callback(lambda _: turns.release())
        futures.append(future)
    generated = sum(future.result().usage.completion_tokens for future in futures)
    return float(generated / (time.perf_counter() - begun))


def throughput(model: pumice.Model, rounds: int, requests: int, tokens: int) -> dict[str, Any]:
    """1 at once against 8, measured in turn so that a change of the machine's speed meets both."""
    speeds: dict[int, list[float]] = {1: [], 8: []}
    with pumice.Engine(model, slots=8) as engine:
        for n in range(rounds):
            for at_once, found in speeds.items():
                found.append(run(engine, at_once, requests, tokens, first=n * 1000))
    one, eight = max(speeds[1]), max(speeds[8])
    return {
        "measured": "throughput",
        "requests": requests,
        "tokens_each": tokens,
        "tokens_per_second_1": round(one, 1),
        "tokens_per_second_8": round(eight, 1),
        "ratio": round(eight / one, 2),
    }


def gaps(engine: pumice.Engine, tokens: int, disturb: Callable[[], object] | None) -> list[float]:
    """Milliseconds between the pieces of four streams, while `disturb` is called again and again."""
    found: list[float] = []

    def read(number: int) -> None:
        last = 0.0
        asked = f"Count from {number} to a hundred."
        for _ in engine.stream(asked, max_new_tokens=tokens, min_new_tokens=tokens, **OPEN_ENDED):
            now = time.perf_counter()
            if last:
                found.append((now - last) * 1e3)
            last = now

    readers = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        if disturb is None:
            time.sleep(0.01)
        else:
            disturb()
    return sorted(found)


def between(model: pumice.Model, tokens: int, long: int) -> list[dict[str, Any]]:
    """Alone, and while prompts of about `long` tokens with a new image each arrive one after another."""
    lines = []
    with pumice.Engine(model, slots=8) as engine:
        seeds = iter(range(10**6))
        words = model.prepare("word " * 100, raw=True).tokens / 100
        text = "word " * int(long / words)

        def arrive() -> None:
            seed = next(seeds)
            with contextlib.suppress(CancelledError):
                engine.submit(f"{seed} {text}", noise_image(seed), max_new_tokens=2, **OPEN_ENDED).result()

        for name, disturb in (("alone", None), ("long prompts arrive", arrive)):
            found = gaps(engine, tokens, disturb)
            lines.append(
                {
                    "measured": "between",
                    "while": name,
                    "long_prompts": next(seeds) if disturb else 0,
                    "prompt_tokens": long if disturb else 0,
                    "p50_ms": round(statistics.median(found), 2),
                    "p95_ms": round(found[int(0.95 * len(found))], 2),
                    "max_ms": round(found[-1], 2),
                }
            )
    return lines


def memory(model: pumice.Model, requests: int) -> dict[str, Any]:
    """Resident memory in MiB after each tenth of the requests; growth is what comes after the first two tenths."""
    chance = random.Random(0)
    process = psutil.Process()
    resident: list[float] = []
    futures: list[Future[Any]] = []
    with pumice.Engine(model, slots=8, max_queue=16) as engine:
        for n in range(requests):
            while True:
                try:
                    image = noise_image(n) if n % 2 else None
                    futures.append(
                        engine.submit(f"Question {n}?", image, max_new_tokens=chance.randint(1, 16))
                    )
                    break
                except pumice.QueueFullError:
                    time.sleep(0.002)
            if n % 5 == 4:
                threading.Timer(chance.random() * 0.05, futures[-1].cancel).start()
            futures = [future for future in futures if not future.done()]
            if n % (requests // 10) == requests // 10 - 1:
                resident.append(round(process.memory_info().rss / 2**20, 1))
        engine.close()
        counters = engine.counters
    return {
        "measured": "memory",
        "requests": requests,
        "cancelled": counters.cancelled,
        "finished": counters.finished,
        "failed": counters.failed,
        "resident_mib": resident,
        "growth_mib": round(resident[-1] - resident[1], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Throughput, time between tokens, and memory of the engine.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32, help="for throughput, in each round")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--long", type=int, default=600, help="tokens of the prompts that disturb")
    parser.add_argument("--memory-requests", type=int, default=2000)
    args = parser.parse_args()
    loaded = pumice.load(args.bundle, device="cpu", threads=args.threads)
    print(json.dumps(throughput(loaded, args.rounds, args.requests, args.tokens)), flush=True)
    for line in between(loaded, 4 * args.tokens, args.long):
        print(json.dumps(line), flush=True)
    if args.memory_requests:
        del loaded
        small = pumice.load(
            args.bundle,
            device="cpu",
            threads=args.threads,
            prefix_cache_bytes=2**22,
            feature_cache_bytes=2**22,
        )
        print(json.dumps(memory(small, args.memory_requests)), flush=True)
