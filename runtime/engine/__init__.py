"""Many requests at once over the slots of one cache: `Engine`. docs/engine.md has how to use it.

submit ─▶ request_queue.py ─▶ prepare.py ─────▶ step_loop.py ─▶ futures.py ────▶ future
checks    a bounded           a thread: text,   a thread: the   a thread: results,
options   line                images, vision    scheduler       errors, callbacks
                                                └─ text ──────▶ streams.py
"""

from pumice.engine.engine import Engine
from pumice.engine.metrics import EngineCounters, Histogram
from pumice.engine.streams import AsyncEngineStream, EngineStream

__all__ = ["AsyncEngineStream", "Engine", "EngineCounters", "EngineStream", "Histogram"]
