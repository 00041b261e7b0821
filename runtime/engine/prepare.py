"""The thread that makes requests ready: text, images, and the vision encoder, while others decode.

Enters: requests, in the order in which they came. Leaves: requests for the step thread.
"""

from __future__ import annotations

import time

from pumice.engine.request_queue import RequestQueue
from pumice.engine.step_loop import StepLoop
from pumice.engine.submission import Submission
from pumice.pipeline import Pipeline
from pumice.scheduler.request import as_pumice_error


class Preparation:
    """Prepares one request after another."""

    def __init__(
        self, pipeline: Pipeline, context: int, request_queue: RequestQueue, step_loop: StepLoop
    ) -> None:
        """A prompt and its answer may have `context` tokens."""
        self._pipeline, self._context = pipeline, context
        self._request_queue, self._step_loop = request_queue, step_loop

    def run(self) -> None:
        """Prepare until the engine is closed."""
        while (submission := self._request_queue.next()) is not None:
            try:
                self._prepare(submission)
            except BaseException as error:  # of this request, whatever it is: the thread goes on
                if (
                    submission.stopped
                ):  # the error says no more than that, and may come before the cancelling's own mail
                    self._step_loop.cancel(submission)
                else:
                    self._step_loop.failed(submission, as_pumice_error(error))
            del submission  # or it would live until the next one comes

    def _prepare(self, submission: Submission) -> None:
        question = submission.question
        if question is None or submission.stopped:
            return
        request = self._pipeline.request(
            question.prompt,
            question.images,
            question.options,
            started=submission.started,
            raw=question.raw,
            context=self._context,
        )
        if not submission.begin(request):
            return
        # Encoded now, and kept: the step thread would wait for images that a cache forgot meanwhile.
        began = time.perf_counter()
        try:
            request.features.encode(request.cancellation)
        finally:
            request.clock.vision_s += time.perf_counter() - began
        self._step_loop.prepared(submission)
