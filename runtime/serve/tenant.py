"""One bundle of a server: what is known of it, whether it is in memory, and what it has done so far.

Enters: moves of `bundles.py`. Leaves: its state, for lists of models and for metrics.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pumice.serve.catalogue import About, Offer
from pumice.serve.residence import Residence, Status

if TYPE_CHECKING:
    from pumice.engine import EngineCounters
    from pumice.serve.loaded import Loaded


@dataclass(eq=False, kw_only=True)
class Tenant:
    """For one event loop."""

    offer: Offer
    residence: Residence
    loaded: Loaded | None = None
    loads: int = 0
    """How many times it was loaded."""
    past: EngineCounters | None = None
    """What engines of it have done that are gone."""
    failure: Exception | None = None
    """Why it cannot be opened."""
    about: About | None = None

    def __post_init__(self) -> None:
        self.failure, self.about = self.offer.failure, self.offer.about

    @property
    def name(self) -> str:
        """The bundle's own."""
        return self.offer.names[0]

    @property
    def status(self) -> Status:
        """As clients see it: one that is waited for is loading."""
        here = self.residence.status == "loaded"
        return "loading" if self.residence.waiting and not here else self.residence.status

    @property
    def expires_at(self) -> float | None:
        """When it will be unloaded if nobody asks for it any more, in seconds since 1970; None for never."""
        residence = self.residence
        since = time.monotonic() if residence.leases else residence.last_used
        left = since + residence.keep - time.monotonic()
        return time.time() + left if left < 100 * 365 * 86_400 else None

    @property
    def counters(self) -> EngineCounters | None:
        """What all engines of it have done; None if there was none."""
        if self.loaded is None:
            return self.past
        now = self.loaded.engine.counters
        return now if self.past is None else self.past + now

    def count(self, counters: EngineCounters) -> None:
        """An engine of it is gone."""
        self.past = counters if self.past is None else self.past + counters
