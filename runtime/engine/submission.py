"""A request to an engine, from `submit` until its future is settled.

Enters: what was asked, and how the answer is wanted. Leaves: a future, and text on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pumice.engine.futures import AnswerFuture
from pumice.generation.options import GenerationOptions
from pumice.generation.strategy import Piece
from pumice.scheduler.request import Request


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked: a prompt with its images, and the options for its answer."""

    prompt: Any
    images: Sequence[Any]
    raw: bool
    options: GenerationOptions

    @classmethod
    def of(cls, prompt: Any, images: Sequence[Any], *, raw: bool, options: GenerationOptions) -> Question:
        """A question that stays as it is when the caller goes on writing into its lists of messages and images."""
        return cls(prompt=_copied(prompt), images=images, raw=raw, options=options)


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """When an answer must be there, `at` by `time.monotonic`; `seconds` after it was asked for."""

    at: float
    seconds: float


@dataclass(eq=False, kw_only=True, slots=True, weakref_slot=True)
class Submission:
    """A request under way; once it is settled, nothing of what was asked is kept."""

    question: Question | None
    started: float
    """`time.perf_counter` when it came."""
    deadline: Deadline | None = None
    several: bool = False
    """Whether several answers were asked for."""
    sink: Callable[[str], None] | None = None
    """Takes text as it becomes final; must return at once."""
    follower: Callable[[list[Piece]], None] | None = None
    """Takes the answers' tokens and text, in place of `sink`; must return at once."""
    future: AnswerFuture = field(default_factory=AnswerFuture)
    request: Request | None = None
    """Once it is prepared."""
    stopped: bool = False
    ended: bool = False

    def stop(self) -> None:
        """End what is computed for it, within a kernel. For any thread."""
        self.stopped = True
        if (request := self.request) is not None:
            request.cancellation.set()

    def begin(self, request: Request) -> bool:
        """Take the request that was made of the question; False if the request was stopped."""
        self.question, self.request = None, request
        # Looked at only now: either `stop` saw the request, or this sees the stop.
        return not self.stopped

    def end(self) -> None:
        """Let go of prompt, images and request."""
        self.stop()
        self.ended = True
        self.question = self.request = self.sink = self.follower = None


def _copied(value: Any) -> Any:
    """Lists and mappings anew, with the same leaves."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value
