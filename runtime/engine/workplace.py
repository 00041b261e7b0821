"""What an engine works with: a model's parts, and a cache with a slot for each sequence.

Enters: a model. Leaves: functions, and a scheduler for the step thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pumice.bundle.plan import default_slot_context
from pumice.engine.prepare import RequestMaker
from pumice.engine.submission import Question
from pumice.generation.options import GenerationOptions
from pumice.model import Model
from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """`options` checks options, `make_request` prepares a prompt and its images; a slot has `context` tokens."""

    options: Callable[[Mapping[str, Any]], GenerationOptions]
    make_request: RequestMaker
    scheduler: Scheduler
    context: int


def make_workplace(model: Model, *, slots: int, context: int | None) -> Workplace:
    """Make room for `slots` sequences of `context` tokens: by default the model's, or what half of the memory holds.

    Raises:
        InsufficientMemoryError: there is not so much memory.
    """
    pipeline = model.pipeline
    if context is None:
        on_cpu = model.device == "cpu"
        context = default_slot_context(model.manifest, slots) if on_cpu else model.context_length

    def make_request(question: Question, started: float) -> Request:
        return pipeline.request(
            question.prompt,
            question.images,
            question.options,
            started=started,
            raw=question.raw,
            context=context,
        )

    cache = pipeline.decoder.new_cache(context, slots)
    return Workplace(
        options=pipeline.options,
        make_request=make_request,
        scheduler=Scheduler(pipeline.decoder, cache, pipeline.prefixes),
        context=context,
    )
