"""What Ray Serve is told of a replica: how many requests it takes, and when there should be more replicas.

Enters: the slots of a replica. Leaves: Ray Serve's numbers. Ray's own defaults are made for functions that answer one
request at a time, or a hundred: an engine answers `slots` of them together, and is best used when they are all taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pumice.errors import UsageError

_WELL_USED = 0.75
"""Of a replica's slots, with which neither a replica more nor one less is asked for."""
_UPSCALE_S = 30.0
"""For which there were too few replicas before one is started: Ray's own default."""
_DOWNSCALE_S = 600.0
"""For which there were too many before one is ended: loading a bundle again takes longer than keeping it."""


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """Of one replica.

    Args:
        slots: answers at a time.
    """

    slots: int

    @property
    def beside(self) -> int:
        """Requests that wait within the replica, whose images are prepared while others are answered: half as many as
        there are slots, and two at least, for those that only ask for the models take a place, too."""
        return max(2, math.ceil(self.slots / 2))

    @property
    def max_ongoing_requests(self) -> int:
        """Requests that Ray gives a replica at most. Below `slots` some would always be idle; all others wait at Ray's
        proxy, which gives them to the replica that is free first."""
        return self.slots + self.beside

    @property
    def target_ongoing_requests(self) -> float:
        """Requests a replica, on average, that Ray keeps to by starting and ending replicas."""
        return _WELL_USED * self.slots

    def scaling(self, num_replicas: int | Sequence[int]) -> dict[str, Any]:
        """Options of a deployment of so many replicas, or of `(least, most)`.

        Raises:
            UsageError: neither a number above 0 nor two in their order.
        """
        if isinstance(num_replicas, int) and not isinstance(num_replicas, bool) and num_replicas >= 1:
            return {"num_replicas": num_replicas}
        bounds = list(num_replicas) if isinstance(num_replicas, (tuple, list)) else []
        if (
            len(bounds) != 2
            or not all(type(each) is int for each in bounds)
            or not 0 <= bounds[0] <= bounds[1] > 0
        ):
            raise UsageError(
                f"num_replicas is {num_replicas!r}, expected a number of 1 or more, or (least, most) of them"
            )
        return {
            "autoscaling_config": {
                "min_replicas": bounds[0],
                "max_replicas": bounds[1],
                "target_ongoing_requests": self.target_ongoing_requests,
                "upscale_delay_s": _UPSCALE_S,
                "downscale_delay_s": _DOWNSCALE_S,
            }
        }
