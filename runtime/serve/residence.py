"""Which models are in memory: whose turn it is, and who goes for it. Rules alone: no thread, no task, no clock.

Enters: what every model has of requests, a budget, and the time. Leaves: the next move.

1. An idle model goes once its `keep` has passed, or at once where it was dismissed.
2. Of the models that requests wait for and that are not there, the one whose first request came first is next.
3. Where there is no room for it, others go: idle ones first, those unused for longest before others; then busy ones,
   those here for longest before others, which are answered to the end and take nothing new meanwhile.
4. Nobody goes before its turn is over: it lasts as long as loading took, so that loading takes half of the time at
   most where several have work, however requests alternate. Whoever is idle for a moment ends its turn early.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["unloaded", "loading", "loaded", "sleeping"]
"""llama.cpp's words; a sleeping model went because nobody asked for it, and comes again when somebody does."""

TURN_S = 1.0
"""The least that a turn lasts while there is something to do."""
IDLE_S = 1.0
"""Longer than this nobody is waited for that may ask again; nor longer than loading took."""


@dataclass(eq=False, kw_only=True)
class Residence:
    """What is known of one model; times are seconds of one clock.

    `waiting` are those who wait for it, by their numbers in the order in which all have come.
    """

    needed: int
    """Of the budget."""
    status: Status = "unloaded"
    leases: int = 0
    """Requests that are answered."""
    waiting: dict[int, Any] = field(default_factory=dict)
    keep: float = math.inf
    """Seconds without requests after which it goes."""
    dismissed: bool = False
    """It goes as soon as nothing is answered."""
    called: bool = False
    """It takes nothing new, for another one needs its room."""
    load_s: float = 0.0
    loaded_at: float = 0.0
    last_used: float = 0.0

    @property
    def first(self) -> float:
        """The number of who waits for longest."""
        return next(iter(self.waiting), math.inf)

    @property
    def expires(self) -> float:
        """When it goes if nobody asks for it."""
        if self.leases or self.waiting:
            return math.inf
        return self.last_used + self.keep

    @property
    def turn_ends(self) -> float:
        """Until when it does not go for another one's sake."""
        end = self.loaded_at + max(self.load_s, TURN_S)
        return end if self.leases else min(end, self.last_used + min(self.load_s, IDLE_S))


@dataclass(frozen=True, kw_only=True)
class Move:
    """What is to be done now: one model loaded, one unloaded, or nothing `until` something changes or it is so late.

    `called` take nothing new.
    """

    load: Residence | None = None
    unload: Residence | None = None
    sleeps: bool = False
    """Whether the one that is unloaded goes only because nobody asks for it."""
    called: Collection[Residence] = ()
    until: float = math.inf


def next_move(models: Sequence[Residence], budget: int, now: float) -> Move:
    """The next move; whoever makes it asks again."""
    here = [model for model in models if model.status == "loaded"]
    dismissed = [model for model in here if model.dismissed]
    if done := [model for model in dismissed if not model.leases]:
        return Move(unload=done[0], called=dismissed)
    if over := [model for model in here if model.expires <= now]:
        return Move(unload=min(over, key=_used), sleeps=True, called=dismissed)
    until = min((model.expires for model in here), default=math.inf)
    wanted = min((m for m in models if m.status in ("unloaded", "sleeping")), key=_first, default=None)
    if wanted is None or not wanted.waiting:
        return Move(called=dismissed, until=until)
    lacking = sum(model.needed for model in here) + wanted.needed - budget
    if lacking <= 0:
        return Move(load=wanted, called=dismissed)
    going, ready_at = _going(here, lacking, now)
    idle = [model for model in going if not model.leases]
    return Move(
        unload=idle[0] if idle else None,
        called=[*dismissed, *going],
        until=min(until, ready_at),
    )


def _going(here: Sequence[Residence], lacking: int, now: float) -> tuple[list[Residence], float]:
    """Whoever goes so that there is room, in their order; nobody before all may, which is looked at again at a time."""
    going: list[Residence] = []
    for model in sorted(here, key=_readiness):
        if lacking > 0:
            going.append(model)
            lacking -= model.needed
    later = [model.turn_ends for model in going if model.turn_ends > now]
    return ([], min(later)) if later else (going, math.inf)


def _readiness(model: Residence) -> tuple[bool, float]:
    return (True, model.loaded_at) if model.leases else (False, model.last_used)


def _used(model: Residence) -> float:
    return model.last_used


def _first(model: Residence) -> float:
    return model.first
