"""What the engine gives: `python -m bench.engine BUNDLE`. JSON lines, one for each measurement.

throughput  tokens a second with 1, 4 and 8 requests at once, in turn (`--rounds`); the best of each
first       milliseconds to the first token of 8 requests that come together, and of 8 clients that ask again when they
            are answered, with short and longer prompts; and between the tokens of their answers
between     milliseconds between the tokens of decoding requests: while nothing else happens, and while long prompts and
            new images arrive
memory      resident memory over many requests of which a fifth is cancelled, by chance, in any phase; caches of
            prompts and images have 4 MiB each, so that they are full early

Answers do not end by themselves, so that both sides of a comparison give as many tokens. `--threads` are the model's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import pumice

OPEN_ENDED: dict[str, Any] = {"eos_token_id": [], "do_sample": False, "prompt_lookup_num_tokens": 0}
"""Answers as long as asked for; without drafts, which random weights, repeating themselves, make too easy."""

_NUMBERS = itertools.count(10_000)
"""What prompts begin with that no cache has."""


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
    """1, 4 and 8 at once, measured in turn so that a change of the machine's speed meets all."""
    speeds: dict[int, list[float]] = {1: [], 4: [], 8: []}
    with pumice.Engine(model, slots=8) as engine:
        for n in range(rounds):
            for at_once, found in speeds.items():
                found.append(run(engine, at_once, requests, tokens, first=n * 1000))
    best = {at_once: max(found) for at_once, found in speeds.items()}
    return {
        "measured": "throughput",
        "requests": requests,
        "tokens_each": tokens,
        **{f"tokens_per_second_{at_once}": round(speed, 1) for at_once, speed in best.items()},
        "ratio": round(best[8] / best[1], 2),
    }


def token_times(engine: pumice.Engine, prompt: str, tokens: int) -> list[float]:
    """Milliseconds from asking to each token of an answer."""
    found: list[float] = []
    begun = time.perf_counter()

    def note(pieces: Sequence[Any]) -> None:
        found.extend([(time.perf_counter() - begun) * 1e3] * sum(len(piece.token_ids) for piece in pieces))

    engine.follow(prompt, follower=note, max_new_tokens=tokens, min_new_tokens=tokens, **OPEN_ENDED).result()
    return found


def first(model: pumice.Model, prompt_tokens: int, answers: int, tokens: int) -> dict[str, Any]:
    """Of 8 clients that begin together and ask for so many answers each, one after another; all prompts differ."""
    filler = "word " * max(0, int((prompt_tokens - 20) / tokens_of_word(model)))
    prompts = [next(_NUMBERS) for _ in range(8 * answers)]
    times: list[list[float]] = []
    with pumice.Engine(model, slots=8) as engine:
        together = threading.Barrier(8)

        def ask(client: int) -> None:
            together.wait()
            for n in range(answers):
                times.append(token_times(engine, f"{prompts[client * answers + n]} {filler}", tokens))

        clients = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
        begun = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        seconds = time.perf_counter() - begun
    return {
        "measured": "first",
        "clients": 8,
        "answers_each": answers,
        "prompt_tokens": prompt_tokens,
        "tokens_each": tokens,
        "tokens_per_second": round(sum(map(len, times)) / seconds, 1),
        **percentiles([found[0] for found in times], "first_"),
        **percentiles([later - t for found in times for t, later in itertools.pairwise(found)], "between_"),
    }


def tokens_of_word(model: pumice.Model) -> float:
    """Tokens of "word " in a text."""
    tokens: int = model.prepare("word " * 100, raw=True).tokens
    return tokens / 100


def percentiles(found: Sequence[float], name: str = "") -> dict[str, float]:
    """Median, 95th percentile and greatest."""
    found = sorted(found)
    return {
        f"{name}p50_ms": round(statistics.median(found), 2),
        f"{name}p95_ms": round(found[int(0.95 * len(found))], 2),
        f"{name}max_ms": round(found[-1], 2),
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
        text = "word " * int(long / tokens_of_word(model))

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
                    **percentiles(found),
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
    parser.add_argument("--prompts", type=int, nargs="*", default=[30, 200], help="tokens, for first tokens")
    parser.add_argument("--answers", type=int, default=4, help="of each client, for first tokens")
    parser.add_argument("--long", type=int, default=600, help="tokens of the prompts that disturb")
    parser.add_argument("--memory-requests", type=int, default=2000)
    args = parser.parse_args()
    loaded = pumice.load(args.bundle, device="cpu", threads=args.threads)
    if args.rounds:
        print(json.dumps(throughput(loaded, args.rounds, args.requests, args.tokens)), flush=True)
    for prompt_tokens in args.prompts:
        for answers in (1, args.answers):
            print(json.dumps(first(loaded, prompt_tokens, answers, args.tokens)), flush=True)
    for line in between(loaded, 4 * args.tokens, args.long) if args.long else ():
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
