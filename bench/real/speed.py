"""How quick a bundle reads and writes text: `python -m bench.real.speed BUNDLE`, one JSON line. Each is a process.

Enters: bundles. Leaves: tokens a second of each, the median of rounds in which all took turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import process
from bench.rounds import turned

PROMPT = 512
"""Tokens that are read, and behind which others are decoded."""
NEW = 64
_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens a second."""

    prefill: float
    decode: float


def measure_speeds(
    bundles: Mapping[str, Path], rounds: int, log: Path, say: Callable[[str], None]
) -> dict[str, Speed]:
    """Speeds by name; one that fails in any round has none, and its reason is said."""
    lines: dict[str, list[dict[str, float]]] = {name: [] for name in bundles}
    for number in range(rounds):
        for name in turned(list(bundles), number):
            say(f"speed, round {number + 1} of {rounds}: {name}")
            command = [sys.executable, "-m", "bench.real.speed", str(bundles[name])]
            outcome = process.run(command, log=log, timeout_s=_TIMEOUT_S)
            if outcome.line is None:
                say(f"  {outcome.failure}")
            else:
                lines[name].append(outcome.line)
    return {
        name: Speed(**{key: statistics.median(line[key] for line in found) for key in ("prefill", "decode")})
        for name, found in lines.items()
        if rounds and len(found) == rounds
    }


def measure_speed(bundle: Path) -> Speed:
    """One bundle in this process: a prompt, and the median token behind one of the same length; warmed up before."""
    import pumice
    from pumice.benchmark.workload import Parts

    model = pumice.load(bundle, device="cpu", prefix_cache_bytes=0, feature_cache_bytes=0)
    pipeline = model.pipeline
    parts = Parts(manifest=model.manifest, decoder=pipeline.decoder, encoder=pipeline.encoder)
    parts.prefill(PROMPT)
    parts.decode(PROMPT, 4)
    return Speed(
        prefill=PROMPT / statistics.median(parts.prefill(PROMPT) for _ in range(3)),
        decode=1 / statistics.median(parts.decode(PROMPT, NEW)),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="a bundle's tokens a second")
    parser.add_argument("bundle", type=Path)
    speed = measure_speed(parser.parse_args().bundle)
    print(json.dumps({"prefill": speed.prefill, "decode": speed.decode}))


if __name__ == "__main__":
    main()
