"""What all routes of a server share.

Enters: settings. Leaves: a `Server`, which belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.types import Scope

from pumice.machine.heap import trim
from pumice.result import Generation
from pumice.serve.admission import Admission
from pumice.serve.answers import CHECKS
from pumice.serve.bundles import Bundles
from pumice.serve.fetching import Fetching
from pumice.serve.refusals import draining
from pumice.serve.settings import Settings
from pumice.serve.tally import Tally

_LARGE = 4 * 2**20
"""Bytes of a body from which on memory is given back behind it; smaller ones leave little."""
_TRIM_AFTER_S = 1.0
"""So that a burst of them is followed once."""


@dataclass(kw_only=True)
class Record:
    """What is logged of a request: counts and times, never its contents."""

    id: str
    route: str = "-"
    model: str = "-"
    key: str = "-"
    images: int = 0
    results: list[Generation] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)


def record_of(scope: Scope) -> Record:
    """The record of a request."""
    record: Record = scope["pumice.record"]
    return record


class Server:
    """Settings, models, places and counts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bundles = Bundles(settings)
        self.admission = Admission(settings.slots, settings.max_queue, settings.most_waiting_bytes)
        self.fetching = Fetching(settings.fetch_images, settings.max_body)
        self.tally = Tally()
        self.draining = False
        """Whether it is about to end: what came is answered, nothing else comes in."""
        self.trims = False
        """Whether memory will be given back in a moment."""

    def check_open(self) -> None:
        """Whether new requests are answered.

        Raises:
            RefusalError: the server is about to end.
        """
        if self.draining:
            raise draining()

    def served(self, record: Record, results: list[Generation]) -> None:
        """Note what a request took."""
        record.results = results
        if results and results[0].finish_reason != "cancelled":
            self.admission.served(results)
        self.tally.answered(results)

    def ended(self, nbytes: int) -> None:
        """A request of so many bytes has ended: the memory of large ones goes back to the system, in a moment.

        What was freed is in pieces all over the allocator's heaps, which keep it: some hundred megabytes.
        """
        if nbytes >= _LARGE and not self.trims:
            self.trims = True
            asyncio.get_running_loop().call_later(_TRIM_AFTER_S, self._trim)

    def _trim(self) -> None:
        self.trims = False
        CHECKS.submit(trim)
