"""A client leaves while its request is held in a state: the request ends there, and its neighbours do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.engine.stand_ins import Gate
from tests.runtime.serve.running import running
from tests.runtime.serve.test_leaving import STATES, Left, leave
from tests.serving.bounds import Bounds
from tests.serving.figures import Figure


def run(bundle: Path, bounds: Bounds) -> Iterator[Figure]:
    """Each state, streamed and not, so many times."""
    found: list[Left] = []
    with running(bundle, slots=2, max_queue=20) as server:
        for state in STATES:
            for stream in (False, True):
                for _ in range(int(bounds.leaving)):
                    gate = Gate()
                    with pytest.MonkeyPatch.context() as patch:
                        try:
                            found.append(leave(server, gate, patch, state, stream=stream))
                        finally:
                            gate.open()
        idle = server.idle()
    what = f"clients that left: {len(STATES)} states, streamed and not"
    yield Figure(check="leaving", what=what, value=len(found))
    changed = sum(not each.neighbours_as_alone for each in found)
    yield Figure(check="leaving", what="neighbours whose answers changed", value=changed, most=0)
    yield Figure(
        check="leaving",
        what="not counted as cancelled",
        value=sum(not each.counted for each in found),
        most=0,
    )
    more = max(each.more_tokens for each in found)
    yield Figure(check="leaving", what="tokens generated after leaving, most", value=more, most=1)
    slowest = max(each.noticed_s for each in found) * 1e3
    yield Figure(check="leaving", what="until it was noticed, slowest", value=slowest, unit="ms", most=500)
    yield Figure(check="leaving", what="all slots free in the end", value=idle, least=1)
