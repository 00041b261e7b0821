"""An answer under way: text pieces as they are ready, and the whole `Generation` in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np

from pumice.decoder import Decoder
from pumice.detokenizer import Detokenizer
from pumice.errors import UsageError
from pumice.generation import Request, generate
from pumice.result import FinishReason, Generation, Timings, Usage


class TextStream(Iterator[str]):
    """Iterate over it for the pieces of an answer; `result` has the whole once it has ended, or was cancelled.

    The work is done by whoever iterates. Not for several threads at once.
    """

    def __init__(
        self,
        decoder: Decoder,
        request: Request,
        detokenizer: Detokenizer,
        *,
        started: float,
        load_s: float,
        on_end: Callable[[Generation], None] | None = None,
    ) -> None:
        self._decoder, self._request, self._detokenizer = decoder, request, detokenizer
        self._started, self._load_s, self._on_end = started, load_s, on_end
        self._preprocess_s = time.perf_counter() - started
        self._vision_s = self._prefill_s = self._first_s = self._decode_s = 0.0
        self._tokens: Iterator[int] | None = None
        self._ids: list[int] = []
        self._text: list[str] = []
        self._failed = self._interrupted = False
        self._result: Generation | None = None

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> str:
        if self._interrupted:
            self.cancel()
        while self._result is None and not self._failed:
            piece = self._advance()
            if piece:
                self._text.append(piece)
                return piece
        raise StopIteration

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def result(self) -> Generation:
        """The whole answer.

        Raises:
            UsageError: it has not ended.
        """
        if self._result is None:
            raise UsageError(
                "the answer has not ended: iterate over the stream, or cancel it, before asking for its result"
            )
        return self._result

    def cancel(self) -> None:
        """End the answer where it is (`finish_reason` is `cancelled`); no effect on one that has ended or failed."""
        if self._result is None and not self._failed:
            self._end("cancelled")

    def _advance(self) -> str:
        """The text of one more token, or of the answer's end."""
        begun = time.perf_counter()
        try:
            token = next(self._started_tokens(), None)
        except Exception:
            self._failed = True
            raise
        except BaseException:  # Ctrl-C: what was said so far stands
            self._interrupted = True
            raise
        now = time.perf_counter()
        if token is None:
            return self._end("stop" if self._ids and self._ids[-1] in self._request.eos_ids else "length")
        if not self._ids:
            self._prefill_s = now - begun - self._vision_s
            self._first_s = now - self._started
        else:
            self._decode_s += now - begun
        self._ids.append(token)
        return self._detokenizer.add(token)

    def _started_tokens(self) -> Iterator[int]:
        if self._tokens is None:
            begun = time.perf_counter()
            features = self._request.features()
            self._vision_s = time.perf_counter() - begun
            self._tokens = generate(self._decoder, self._request, features, np.random.default_rng())
        return self._tokens

    def _end(self, reason: FinishReason) -> str:
        piece = self._detokenizer.finish()
        prompt, completion = len(self._request.ids), len(self._ids)
        self._result = Generation(
            text="".join(self._text) + piece,
            token_ids=list(self._ids),
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=prompt,
                completion_tokens=completion,
                total_tokens=prompt + completion,
                image_tokens=self._request.ids.count(self._request.image_token_id),
            ),
            timings=self._timings(),
        )
        if self._on_end is not None:
            self._on_end(self._result)
        return piece

    def _timings(self) -> Timings:
        later = len(self._ids) - 1
        return Timings(
            load=self._load_s,
            preprocess=self._preprocess_s,
            vision=self._vision_s,
            prefill=self._prefill_s,
            time_to_first_token=self._first_s,
            decode=self._decode_s,
            tokens_per_second=later / self._decode_s if later > 0 and self._decode_s > 0 else 0.0,
        )
