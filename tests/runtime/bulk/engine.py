"""An engine without a model: answers are made of what was asked, and come in another order than they were asked for."""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pumice.errors import QueueFullError, UsageError
from pumice.images.files import open_image
from pumice.result import Generation, Timings, Usage


class FakeEngine:
    """Counts what is in flight; `pace` says how long a prompt takes, in seconds."""

    def __init__(
        self, workers: int = 4, max_queue: int = 10_000, pace: Callable[[Any], float] | None = None
    ) -> None:
        self._pool = ThreadPoolExecutor(workers)
        self._lock = threading.Lock()
        self._pace = pace or (lambda prompt: 0.0)
        self._max_queue = max_queue
        self.flying = self.most = self.submitted = self.begun = 0

    def submit(self, prompt: Any, images: Any = None, *, raw: bool = False, **options: Any) -> Future[Any]:
        if options.get("max_new_tokens", 1) < 1:
            raise UsageError(f"max_new_tokens is {options['max_new_tokens']}, expected 1 or more")
        with self._lock:
            if self.flying >= self._max_queue:
                raise QueueFullError("full")
            self.flying += 1
            self.submitted += 1
            self.most = max(self.most, self.flying)
        future = self._pool.submit(self._answer, prompt, images or [], raw, options)
        future.add_done_callback(self._land)
        return future

    def close(self, drain: bool = True) -> None:
        self._pool.shutdown(cancel_futures=not drain)

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close(drain=error[0] is None)

    def _land(self, future: Future[Any]) -> None:
        with self._lock:
            self.flying -= 1

    def _answer(self, prompt: Any, images: Any, raw: bool, options: dict[str, Any]) -> Any:
        self.begun += 1
        time.sleep(self._pace(prompt))
        prepared = [open_image(image).tobytes() for image in images]
        text = hashlib.sha256(repr((prompt, raw, sorted(options.items()), prepared)).encode()).hexdigest()[:8]
        answers = [generation(f"{text} {i}") for i in range(options.get("num_return_sequences", 1))]
        return answers[0] if len(answers) == 1 else answers


def generation(text: str) -> Generation:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5, image_tokens=0)
    timings = Timings(
        load=0, preprocess=0, vision=0, prefill=0, time_to_first_token=0, decode=0, tokens_per_second=0
    )
    return Generation(text=text, token_ids=[1, 2], finish_reason="stop", usage=usage, timings=timings)
