"""Models come and go: one move after another, as `residence.py` says.

Enters: tenants for whom requests wait. Leaves: their leases granted, or refused; models loaded and unloaded, of which
there is one at a time under way, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from pumice.errors import InsufficientMemoryError, PumiceError
from pumice.serve.lease import Lease
from pumice.serve.loaded import Loaded, load_bundle, unload_bundle
from pumice.serve.refusals import model_failed, refusal_of
from pumice.serve.residence import Move, Residence, next_move
from pumice.serve.tenant import Tenant

_log = logging.getLogger("pumice.serve")

_LOOK_S = 3600.0
"""No longer than this is slept at a time."""


class Moving:
    """Of `tenants` within `room` bytes; `several`: a tenant that cannot be loaded is no failure of the server."""

    def __init__(self, tenants: Sequence[Tenant], room: int, *, several: bool) -> None:
        self._tenants, self._room, self._several = tenants, room, several
        self._changed = asyncio.Event()
        self.ended = False
        self.failure: Exception | None = None
        """Why the only model could not be loaded at first."""
        self.settled = asyncio.Event()
        """Set once that is known."""

    def look(self) -> None:
        """Something has changed."""
        self._changed.set()

    def end(self, refusal: Exception) -> None:
        """Make no more moves; who waits is refused."""
        self.ended = True
        for tenant in self._tenants:
            _refuse(tenant, refusal)
        self.look()

    async def run(self) -> None:
        """Make moves until the end."""
        while not self.ended:
            self._changed.clear()
            now = time.monotonic()
            move = next_move([tenant.residence for tenant in self._tenants], self._room, now)
            self._allow(move)
            if move.load is not None:
                await self._load(self._of(move.load))
            elif move.unload is not None:
                await self._unload(self._of(move.unload), sleeps=move.sleeps)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), min(max(0.0, move.until - now), _LOOK_S))

    def _of(self, residence: Residence) -> Tenant:
        return next(tenant for tenant in self._tenants if tenant.residence is residence)

    def _allow(self, move: Move) -> None:
        """Who is not called takes what waits for it."""
        for tenant in self._tenants:
            residence = tenant.residence
            residence.called = residence in move.called
            if tenant.loaded is not None and not residence.called and residence is not move.unload:
                _grant(tenant, tenant.loaded)

    async def _load(self, tenant: Tenant) -> None:
        residence, offer, began = tenant.residence, tenant.offer, time.monotonic()
        residence.status = "loading"
        try:
            loaded = await asyncio.to_thread(load_bundle, offer.settings, offer.plan)
        except Exception as error:
            residence.status, residence.dismissed = "unloaded", False
            self._failed(tenant, error)
        else:
            tenant.loaded, tenant.about, tenant.loads = loaded, loaded.about, tenant.loads + 1
            residence.status = "loaded"
            residence.loaded_at = residence.last_used = time.monotonic()
            residence.load_s = residence.loaded_at - began
            _log.info("%s is loaded, in %.1f s", tenant.name, residence.load_s)
            _grant(tenant, loaded)
        self.settled.set()

    def _failed(self, tenant: Tenant, error: Exception) -> None:
        if not self._several and not self.settled.is_set():
            self.failure = error  # which ends the server, and is told then
        elif isinstance(error, PumiceError):
            _log.error("%s cannot be loaded: %s", tenant.name, error)
        if not isinstance(error, PumiceError):
            _log.error("loading failed: %s", type(error).__name__)
        if isinstance(error, (InsufficientMemoryError, MemoryError)):  # of now
            _refuse(tenant, refusal_of(InsufficientMemoryError()))
        else:
            tenant.failure = error
            _refuse(tenant, model_failed(tenant.name, error))

    async def _unload(self, tenant: Tenant, *, sleeps: bool) -> None:
        loaded, tenant.loaded = tenant.loaded, None
        assert loaded is not None
        tenant.residence.status = "sleeping" if sleeps else "unloaded"
        tenant.residence.dismissed = tenant.residence.called = False
        tenant.count(loaded.engine.counters)
        await asyncio.to_thread(unload_bundle, loaded)
        _log.info("%s is unloaded", tenant.name)


def _grant(tenant: Tenant, loaded: Loaded) -> None:
    for lease in _emptied(tenant.residence):
        tenant.residence.leases += 1
        lease.grant(loaded)


def _refuse(tenant: Tenant, refusal: Exception) -> None:
    for lease in _emptied(tenant.residence):
        lease.refuse(refusal)


def _emptied(residence: Residence) -> list[Lease]:
    """Those who wait, who do so no longer; without those who only wanted it to be loaded."""
    leases = [lease for lease in residence.waiting.values() if lease is not None]
    residence.waiting.clear()
    return leases
