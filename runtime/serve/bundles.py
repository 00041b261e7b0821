"""The models of a server, by name: which are in memory, and how they come and go.

Enters: settings, then requests' leases. Leaves: `Loaded` bundles with their engines. One bundle alone is loaded while
the server listens already, and stays; of several each is loaded when it is asked for, and goes as `residence.py` says.

    lease ─▶ waits in its model's line ─▶ moving: others unloaded, the model loaded ─▶ all that wait have it
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time

from pumice.bundle.footprint import PROCESS
from pumice.errors import InsufficientMemoryError
from pumice.serve.catalogue import About, Offer, read_catalogue, read_offer
from pumice.serve.lease import Lease
from pumice.serve.loaded import Loaded
from pumice.serve.moving import Moving
from pumice.serve.refusals import RefusalError, draining, loading, model_failed, model_not_found, no_memory
from pumice.serve.residence import Residence
from pumice.serve.settings import Settings
from pumice.serve.tenant import Tenant

STALLED_S = 10.0
"""An engine that has work and makes no step for so long is not ready."""

_MIB = 2**20


class Bundles:
    """What can be asked by name. All of it belongs to the event loop, but for loading and unloading themselves."""

    def __init__(self, settings: Settings) -> None:
        """Raises as `read_catalogue`."""
        self._settings = settings
        catalogue = read_catalogue(settings)
        self.several = len(catalogue.offers) > 1
        """Whether there is more than one bundle, so that none is loaded before it is asked for."""
        self.budget = catalogue.budget
        """Bytes for all models together, the process among them; None where there is no such number."""
        keep = math.inf if settings.idle_unload is None else settings.idle_unload
        self.keeps = self.several or settings.idle_unload is not None
        """Whether models go when nobody asks for them, and requests say after how long."""
        self.tenants = tuple(
            Tenant(offer=offer, residence=Residence(needed=self._needed(offer), keep=keep))
            for offer in catalogue.offers
        )
        self._by_name = {name: tenant for tenant in self.tenants for name in tenant.offer.names}
        self.names = tuple(self._by_name)
        """All names by which there is a model."""
        self._numbers = itertools.count()
        room = 1 if self.budget is None else self.budget - PROCESS
        self._moving = Moving(self.tenants, room, several=self.several)
        self._work: asyncio.Task[None] | None = None
        self.settled = self._moving.settled
        """Set once loading from the start has ended, well or not."""

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Those that answer now."""
        return tuple(tenant.loaded for tenant in self.tenants if tenant.loaded is not None)

    @property
    def failure(self) -> Exception | None:
        """Why the only bundle could not be loaded when the server began."""
        return self._moving.failure

    @property
    def started(self) -> bool:
        """Whether models are there, or come when they are asked for."""
        return self.settled.is_set() and self.failure is None

    @property
    def ended(self) -> bool:
        """Whether the only model's engine has ended by itself; one of several is loaded anew when it is asked for."""
        return not self.several and any(not loaded.engine.alive for loaded in self.loaded)

    @property
    def not_ready(self) -> str | None:
        """Why requests would not be answered now; None if they would."""
        if not self.started:
            return "loading" if self.failure is None else "failed"
        engines = [loaded.engine for loaded in self.loaded]
        if any(engine.alive and engine.stalled_s > STALLED_S for engine in engines):
            return "the engine is stalled"
        if self.ended:
            return "the engine has ended"
        return "failed" if all(tenant.failure is not None for tenant in self.tenants) else None

    def begin(self) -> None:
        """Load what is to be loaded from the start; returns at once."""
        first = self.tenants[0]
        if not self.several and (reason := self._too_large(first)) is not None:
            self._moving.failure = InsufficientMemoryError(reason)
        if self.several or self.failure is not None:
            self.settled.set()
        else:
            first.residence.waiting[next(self._numbers)] = None
        self._work = asyncio.get_running_loop().create_task(self._moving.run())

    def tenant(self, name: str | None) -> Tenant:
        """The bundle of a name; without one, the first.

        Raises:
            RefusalError: there is none of this name.
        """
        if name is None:
            return self.tenants[0]
        found = self._by_name.get(name) or self._by_name.get(name.removesuffix(":latest"))
        if found is None:
            raise model_not_found(name.removesuffix(":latest"), self.names)
        return found

    def about(self, name: str | None) -> About:
        """What is known of a model, loaded or not. Raises as `lease`."""
        tenant = self._usable(name)
        if tenant.about is None:
            raise loading()
        return tenant.about

    def lease(self, name: str | None, keep: float | None = None) -> Lease:
        """A hold on a model for a request, which stays loaded for `keep` seconds behind it (as was said before).

        Raises:
            RefusalError: there is none of this name; it cannot be loaded; the only one is not there yet.
        """
        tenant = self._usable(name)
        if (reason := self._too_large(tenant)) is not None:
            raise no_memory(reason)
        residence = tenant.residence
        if keep is not None and self.keeps:
            residence.keep = keep
        lease = Lease(tenant.name, next(self._numbers), lambda lease: self._let_go(tenant, lease))
        if tenant.loaded is not None and self.several and not tenant.loaded.engine.alive:
            residence.dismissed = True  # it is made anew
        if tenant.loaded is not None and not (residence.called or residence.dismissed):
            residence.leases += 1
            lease.grant(tenant.loaded)
        else:
            residence.waiting[lease.number] = lease
            self._moving.look()
        return lease

    def call(self, name: str | None) -> None:
        """Have a model loaded, one that could not be opened before too; returns at once.

        Raises:
            RefusalError: it is there already, or comes; and as `lease`.
        """
        tenant = self.tenant(name)
        if tenant.status in ("loaded", "loading"):
            raise RefusalError("model is already running", param="model", code="model_running")
        if tenant.failure is not None:
            tenant.offer = read_offer(tenant.offer.settings, self.budget)
            tenant.failure = tenant.offer.failure
            tenant.residence.needed = self._needed(tenant.offer)
        with self.lease(name):
            tenant.residence.waiting[next(self._numbers)] = None

    def dismiss(self, name: str | None) -> None:
        """Have a model unloaded once its requests are answered; returns at once.

        Raises:
            RefusalError: there is none of this name, or it is not loaded.
        """
        tenant = self.tenant(name)
        if tenant.status == "unloaded":
            raise RefusalError("model is not running", param="model", code="model_not_running")
        if tenant.residence.status == "sleeping":
            tenant.residence.status = "unloaded"
        else:
            tenant.residence.dismissed = True
        self._moving.look()

    async def close(self, *, drain: bool, timeout: float | None = None) -> None:
        """End all engines; what is under way is answered first, if that is asked for. Who waits is refused."""
        self._moving.end(draining())
        if self._work is not None:
            await asyncio.wait([self._work])
        for loaded in self.loaded:
            await asyncio.to_thread(loaded.engine.close, drain, timeout)

    def _usable(self, name: str | None) -> Tenant:
        tenant = self.tenant(name)
        if self._moving.ended:
            raise draining()
        if not self.started:
            raise loading()
        if tenant.failure is not None:
            raise model_failed(tenant.name, tenant.failure)
        return tenant

    def _too_large(self, tenant: Tenant) -> str | None:
        """Why a model would not fit if it were alone; None if it does."""
        plan, budget = tenant.offer.plan, self.budget
        if plan is None or budget is None or plan.total <= budget:
            return None
        return (
            f"{tenant.name!r} needs {plan.total / _MIB:,.0f} MiB of memory, and all models together may have "
            f"{budget / _MIB:,.0f} MiB: --memory, --slots and --context-length say how much"
        )

    def _let_go(self, tenant: Tenant, lease: Lease) -> None:
        residence = tenant.residence
        if lease.held:
            residence.leases -= 1
            residence.last_used = time.monotonic()
        residence.waiting.pop(lease.number, None)
        self._moving.look()

    def _needed(self, offer: Offer) -> int:
        """Of the budget; where there is none, one model at a time."""
        if self.budget is None or offer.plan is None:
            return 1
        return offer.plan.total - PROCESS
