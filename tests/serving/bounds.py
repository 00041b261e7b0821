"""How much is tried of each promise."""

from __future__ import annotations

from dataclasses import dataclass, field


def _flag(default: float, help: str) -> float:
    value: float = field(default=default, metadata={"help": help})
    return value


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Counts, and minutes."""

    fuzz: float = _flag(10_000, "mutated images")
    flood: float = _flag(500, "clients at once")
    leaving: float = _flag(20, "times that a client leaves in each state")
    drains: float = _flag(50, "servers ended under eight streams")
    deaths: float = _flag(20, "engines stalled, killed and poisoned")
    contract: float = _flag(5_000, "cases made of OpenAI's schema")
    minutes: float = _flag(10, "of the soak")
    prompts: float = _flag(100, "alone, and sixteen at once")
    requests: float = _flag(300, "pairs of requests, over HTTP and in process")
    polls: float = _flag(500, "calls of /health")
