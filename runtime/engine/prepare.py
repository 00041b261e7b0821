"""The thread that makes requests ready: text, images, and the vision encoder, while others decode.

Enters: requests, in the order in which they came. Leaves: requests for the step thread.
"""

from __future__ import annotations

from collections.abc import Callable

from pumice.engine.request_queue import RequestQueue
from pumice.engine.step_loop import StepLoop
from pumice.engine.submission import Question, Submission
from pumice.scheduler.request import Request, as_pumice_error

RequestMaker = Callable[[Question, float], Request]
"""`(question, started) → Request`: renders, tokenises and decodes images. Raises as `Model.generate`."""


class Preparation:
    """Prepares one request after another."""

    def __init__(self, make_request: RequestMaker, request_queue: RequestQueue, step_loop: StepLoop) -> None:
        self._make_request, self._request_queue, self._step_loop = make_request, request_queue, step_loop

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
        request = self._make_request(question, submission.started)
        if not submission.begin(request):
            return
        # Encoded now, and kept: the step thread would wait for images that a cache forgot meanwhile.
        request.features.encode(request.cancellation)
        self._step_loop.prepared(submission)
