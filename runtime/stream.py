"""An answer under way: text pieces as they are ready, and the whole `Generation` in the end.

Enters: a scheduler with one request. Leaves: text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NoReturn

from pumice.errors import PumiceError, UsageError
from pumice.result import Generation
from pumice.scheduler.request import Request
from pumice.scheduler.scheduler import Scheduler


class TextStream(Iterator[str]):
    """Iterate over it for the pieces of an answer; `result` has the whole once it has ended, or was cancelled.

    The work is done by whoever iterates: one thread at a time, a second one is refused. Where several answers are made
    (`num_beams`, `num_return_sequences`), the best is one piece in the end, and `results` has all.
    """

    def __reduce__(self) -> NoReturn:
        raise UsageError("a stream cannot be pickled or copied: its model is of one process")

    def __init__(
        self,
        scheduler: Scheduler,
        request: Request,
        *,
        on_end: Callable[[Request, Generation], None] | None = None,
    ) -> None:
        self._scheduler, self._request, self._on_end = scheduler, request, on_end
        self._reading, self._working = threading.Lock(), threading.Lock()
        self._replaced_by: int | None = None  # the thread that asked something else
        self._shown = False
        self._interrupted = False
        self._ended = False
        self._error: PumiceError | None = None
        self._results: list[Generation] | None = None
        scheduler.add(request)

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        if not self._reading.acquire(blocking=False):
            raise read_twice()
        try:
            return self._next()
        finally:
            self._reading.release()

    def _next(self) -> str:
        if self._replaced_by is not None and self._replaced_by != threading.get_ident():
            raise UsageError(
                "another thread asked the chat something else, which ended this answer: a chat takes one question "
                "at a time"
            )
        if self._interrupted:
            self.cancel()
        while True:
            piece = self._piece()
            if piece:
                self._shown = True
                return piece
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopIteration
            with self._working:
                self._advance()
            if self._request.cancellation.is_set:  # `cancel` may have come while this thread worked
                self.cancel()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def result(self) -> Generation:
        """The whole answer, the best of several.

        Raises:
            UsageError: it has not ended.
        """
        return self.results[0]

    @property
    def results(self) -> list[Generation]:
        """All answers, best first. Raises as `result`."""
        if self._results is None:
            raise UsageError(
                "the answer has not ended: iterate over the stream, or cancel it, before asking for its result"
            )
        return self._results

    def cancel(self) -> None:
        """End the answer where it is (`finish_reason` is `cancelled`); no effect on one that has ended or failed.

        May be called by another thread than the one that iterates, which then ends within a token.
        """
        self._request.cancellation.set()
        if self._working.acquire(blocking=False):  # nobody works on it
            try:
                self._scheduler.cancel(self._request)
                self._close()
            finally:
                self._working.release()

    def replace(self) -> None:
        """Cancel, because something else is asked; a thread that goes on reading is told so.

        Raises:
            UsageError: another thread is at work on the answer.
        """
        if not self._reading.acquire(blocking=False):
            raise asked_twice()
        try:
            if not self._ended:
                self._replaced_by = threading.get_ident()
                self.cancel()
        finally:
            self._reading.release()

    def _advance(self) -> None:
        try:
            self._scheduler.step()
        except BaseException:  # Ctrl-C: what was said so far stands
            self._interrupted = True
            raise
        if self._request.done:
            self._close()

    def _close(self) -> None:
        """Take the results, once; a failure is for `__next__` to raise, behind the text that came before it."""
        if self._ended:
            return
        self._ended, self._error = True, self._request.error
        if self._error is not None:
            return
        self._results = self._request.results()
        if self._request.cancelled:  # whoever cancels wants no more of it
            self._request.strategy.take_text()
            self._shown = True
        if self._on_end is not None:
            self._on_end(self._request, self._results[0])

    def _piece(self) -> str:
        """What can be shown; the whole answer where it was not shown in pieces."""
        piece = self._request.strategy.take_text()
        if not piece and not self._shown and self._results is not None:
            self._shown = True
            return self._results[0].text
        return piece


def read_twice() -> UsageError:
    """The error for whoever reads a stream that somebody else reads right now."""
    return UsageError(
        "the stream is being read already, expected one reader at a time: read it in one thread, and pass its pieces on"
    )


def asked_twice() -> UsageError:
    """The error for whoever asks a chat that is answering right now."""
    return UsageError(
        "the chat is answering in another thread, and a chat takes one question at a time: wait for the answer, "
        "or make a chat for each thread"
    )
