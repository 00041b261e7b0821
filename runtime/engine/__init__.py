"""Many requests at once over the slots of one cache: `Engine`. docs/engine.md has how to use it.

Enters: prompts, from any thread or coroutine. Leaves: futures and streams of text.

    submit ─▶ request_queue ─▶ prepare ──▶ step_loop ──▶ futures
    checks    a bounded        a thread:   a thread:     a thread: results,
    options   queue            text and    the           errors, callbacks
                               images      scheduler
                                             └─ text ──▶ streams
"""

from pumice.engine.engine import Engine
from pumice.engine.metrics import EngineCounters, Histogram
from pumice.engine.streams import AsyncEngineStream, EngineStream

__all__ = ["AsyncEngineStream", "Engine", "EngineCounters", "EngineStream", "Histogram"]
