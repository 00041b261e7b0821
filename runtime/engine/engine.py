"""Many requests to one model at once: the object that servers and bulk requests talk to.

Enters: prompts, images and options, from any thread or event loop. Leaves: futures and streams of answers.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NoReturn, Unpack

from pumice.engine.metrics import EngineCounters
from pumice.engine.streams import AsyncEngineStream, AsyncText, EngineStream, closed_early
from pumice.engine.submission import Deadline, Question, Submission
from pumice.engine.threads import EngineThreads
from pumice.errors import EngineClosedError, QueueFullError, UsageError
from pumice.generation.options import GenerationArguments
from pumice.generation.strategy import Piece
from pumice.images.videos import media_list
from pumice.machine.heap import trim
from pumice.model import Images, Model, Videos
from pumice.pipeline import Pipeline
from pumice.prompt.builder import Prompt
from pumice.result import Generation

MOST_SLOTS = 1024
MOST_QUEUED = 1_000_000


class Engine:
    """Answers many requests at once; for any number of threads and event loops of one process.

    Args:
        model: what `pumice.load` gave; it may be used on its own meanwhile.
        slots: sequences that are decoded together, 1 … 1024: a request needs one, or one for each of its answers or
            beams.
        context: tokens that a prompt and its answer may have together, 2 … the model's context (the default, or as many
            as fit into half of the memory that is left). Keys and values of `slots` × `context` tokens have room from
            the beginning, but take memory only as they are used (on the CPU).
        max_queue: requests that may wait for slots, 1 … 1,000,000.

    Raises:
        UsageError: a number outside its interval.
        InsufficientMemoryError: no memory for that many slots of that context.
    """

    def __reduce__(self) -> NoReturn:
        raise UsageError("an engine cannot be pickled or copied: make one in each process")

    def __init__(
        self, model: Model, *, slots: int = 8, context: int | None = None, max_queue: int = 64
    ) -> None:
        whole = model.context_length
        self._slots = _checked("slots", slots, 1, MOST_SLOTS, "")
        if context is not None:
            _checked("context", context, 2, whole, " (the model's context)")
        waiting = _checked("max_queue", max_queue, 1, MOST_QUEUED, "")
        pipeline = model.pipeline
        self._pipeline: Pipeline | None = pipeline
        self._context = pipeline.slot_context(self._slots) if context is None else context
        self._crew = EngineThreads(pipeline, slots=self._slots, context=self._context, max_queue=waiting)
        # An engine that is let go takes nothing more, but what it accepted is answered.
        weakref.finalize(self, self._crew.retire).atexit = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    @property
    def slots(self) -> int:
        """Sequences that are decoded together."""
        return self._slots

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._context

    @property
    def alive(self) -> bool:
        """Whether it takes requests and can answer them: it is not closed, has not failed, and its threads run."""
        return self._crew.alive

    @property
    def stalled_s(self) -> float:
        """Seconds that the step under way has taken so far; 0 where nothing is to be done."""
        return self._crew.step_loop.stalled_s

    @property
    def counters(self) -> EngineCounters:
        """What the engine has done so far, and does now; also of a closed one."""
        crew = self._crew
        return crew.tally.snapshot(queued=crew.request_queue.queued, running=crew.request_queue.running)

    def submit(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerationArguments],
    ) -> Future[Generation]:
        """Have a prompt answered; returns at once.

        Arrays and PIL images must stay as they are until the answer is there; lists of messages and of images may
        change.

        Args:
            prompt: a question, or messages `[{"role", "content"}]`.
            images, videos: as in `Model.generate`.
            raw: take the prompt as it stands: a text, or a list of token ids.
            deadline: seconds from now until the answer must be there, above 0; then it is given up.
            **options: those of `Model.generate`.

        Returns:
            A future of a `Generation`; of a list of them, best first, where `num_return_sequences` is above 1. Its
            `cancel` works for as long as it is not done. It raises what `Model.generate` raises of a prompt and its
            images, and `DeadlineError`. Its callbacks run in a thread of the engine: they may take a while, but then
            other answers come late.

        Raises:
            UsageError: an option that does not exist or lies outside its interval, or more answers than slots.
            QueueFullError: `max_queue` requests wait already.
            EngineClosedError: the engine was closed, has failed, or belongs to another process.
        """
        return self._submit(prompt, images, videos, raw, deadline, options).future

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerationArguments],
    ) -> EngineStream:
        """Have a prompt answered piece by piece; arguments and errors are those of `submit`."""
        pieces: SimpleQueue[str | None] = SimpleQueue()
        submission = self._submit(prompt, images, videos, raw, deadline, options, sink=pieces.put)
        submission.future.add_done_callback(lambda _: pieces.put(None))
        return EngineStream(pieces, submission.future, partial(self._crew.step_loop.cancel, submission))

    def astream(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerationArguments],
    ) -> AsyncEngineStream:
        """Have a prompt answered piece by piece: `async for piece in engine.astream(…)`.

        Call it where an event loop runs. Arguments and errors are those of `submit`.
        """
        text = AsyncText()
        submission = self._submit(prompt, images, videos, raw, deadline, options, sink=text.put)
        submission.future.add_done_callback(lambda _: text.end())
        return AsyncEngineStream(text, submission.future, partial(self._crew.step_loop.cancel, submission))

    def follow(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        follower: Callable[[list[Piece]], None],
        raw: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerationArguments],
    ) -> Future[list[Generation]]:
        """Have a prompt answered, and be told of every answer's tokens as they come; for servers.

        `follower` is called by the thread that computes, and must return at once; never after the future is done. Beams
        are told in the end only. Arguments and errors are those of `submit`; the future is of all answers, best first.
        """
        return self._submit(prompt, images, videos, raw, deadline, options, follower=follower).future

    async def agenerate(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        videos: Videos = None,
        raw: bool = False,
        deadline: float | None = None,
        **options: Unpack[GenerationArguments],
    ) -> Generation:
        """Answer a prompt; cancelling the task cancels the request. Arguments and errors are those of `submit`."""
        future = self._submit(prompt, images, videos, raw, deadline, options).future
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise closed_early() from None
            raise  # asyncio has cancelled the future

    def place_in_line(self, future: Future[Any]) -> int:
        """Which in line for a slot the request of this future is: 1 is the next.

        0 where it does not wait for one: it has it, will have it once it is prepared, or has ended.
        """
        before = self._crew.request_queue.before(future)
        if before is None:
            return 0
        counters = self.counters
        return max(0, before + 1 - (self._slots - max(counters.slots_in_use, counters.running)))

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, end the engine's threads, and let go of the model; may be called again, and by several
        threads.

        Args:
            drain: answer all that were accepted; otherwise they are cancelled.
            timeout: seconds for that, 0 or more; then those that are left are cancelled.

        Raises:
            UsageError: `timeout` outside its interval.
        """
        if timeout is not None and not timeout >= 0:
            raise UsageError(f"timeout is {timeout!r}, expected seconds, 0 or more")
        self._crew.retire()
        if not drain or not self._crew.join(timeout):
            self._crew.abort()
            self._crew.join()
        if self._crew.here:
            self._pipeline = None
            trim()

    def _submit(
        self,
        prompt: Prompt,
        images: Images,
        videos: Videos,
        raw: bool,
        deadline: float | None,
        options: Mapping[str, Any],
        sink: Callable[[str], None] | None = None,
        follower: Callable[[list[Piece]], None] | None = None,
    ) -> Submission:
        """Let a request in; one with a sink or a follower gives a list of answers in any case."""
        crew = self._crew
        if not crew.here:
            raise EngineClosedError("the engine belongs to another process: make one after forking")
        pipeline = self._pipeline
        if pipeline is None:
            raise EngineClosedError("the engine is closed: make another one")
        started = time.perf_counter()
        limit = None if deadline is None else _deadline(deadline)
        chosen = pipeline.options(options)
        rows = max(chosen.num_beams, chosen.num_return_sequences)
        if rows > self._slots:
            raise UsageError(
                f"the request needs {rows} slots, one for each of its answers or beams, and the engine has "
                f"{self._slots}: make one with more slots"
            )
        submission = Submission(
            question=Question.of(prompt, media_list(images, videos), raw=raw, options=chosen),
            started=started,
            deadline=limit,
            several=sink is not None or follower is not None or chosen.num_return_sequences > 1,
            sink=sink,
            follower=follower,
        )
        try:
            crew.request_queue.enter(submission)
        except QueueFullError:
            crew.tally.refused()
            raise
        submission.future.add_done_callback(partial(_stop_if_cancelled, weakref.ref(submission), crew))
        if limit is not None:
            crew.step_loop.expect(submission)
        return submission


def _stop_if_cancelled(submission: weakref.ref[Submission], crew: EngineThreads, future: Future[Any]) -> None:
    """Called when a future is done, at once where somebody cancels it."""
    cancelled = submission()
    if future.cancelled() and cancelled is not None and not cancelled.ended:
        crew.step_loop.cancel(cancelled)


def _deadline(seconds: float) -> Deadline:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise UsageError(f"deadline is {seconds!r}, expected seconds from now, above 0")
    return Deadline(at=time.monotonic() + seconds, seconds=seconds)


def _checked(name: str, value: int, least: int, most: int, of: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected {least} to {most:,}{of}")
    return value
