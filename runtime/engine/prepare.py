"""The thread that makes requests ready: text, pictures, and the vision encoder, while others decode.

Enters: requests, in the order in which they came. Leaves: jobs for the step thread.
"""

from __future__ import annotations

from collections.abc import Callable

from pumice.engine.request_queue import Admission
from pumice.engine.step_loop import Stepper
from pumice.engine.submission import Question, Request, typed
from pumice.scheduler.request import Job

JobMaker = Callable[[Question, float], Job]
"""`(question, started) → Job`: renders, tokenises and decodes pictures. Raises as `Model.generate`."""


class Preparation:
    """Prepares one request after another."""

    def __init__(self, make_job: JobMaker, admission: Admission, stepper: Stepper) -> None:
        self._make_job, self._admission, self._stepper = make_job, admission, stepper

    def run(self) -> None:
        """Prepare until the engine is closed."""
        while (request := self._admission.next()) is not None:
            try:
                self._prepare(request)
            except BaseException as error:  # of this request, whatever it is: the thread goes on
                if (
                    request.stopped
                ):  # the error says no more than that, and may come before the cancelling's own mail
                    self._stepper.cancel(request)
                else:
                    self._stepper.failed(request, typed(error))
            del request  # or it would live until the next one comes

    def _prepare(self, request: Request) -> None:
        question = request.question
        if question is None or request.stopped:
            return
        job = self._make_job(question, request.started)
        if not request.begin(job):
            return
        # Encoded now, and kept: the step thread would wait for pictures that a cache forgot meanwhile.
        job.features.encode(job.cancellation)
        self._stepper.prepared(request)
