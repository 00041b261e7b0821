"""`serve_app`: the server as an application of Ray Serve.

Enters: a bundle, numbers of replicas and CPUs, settings of `pumice serve`. Leaves: an application for `serve.run`, or
for the command `serve run`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.errors import UsageError
from pumice.ray.concurrency import Concurrency
from pumice.serve.settings import Settings, gather

if TYPE_CHECKING:
    from ray.serve import Application

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Requests of one session go to one replica, whose cache knows how the chat began."""

_OF_THE_PROXY = ("port", "uds", "fd", "log_format")
"""Settings for which there is nothing here: Ray listens, and logs."""


Bundles = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def serve_app(
    bundle: Bundles,
    *,
    num_replicas: int | Sequence[int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retry_after: float = 5,
    name: str = "pumice",
    deployment: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Application:
    """A bundle as an application of Ray Serve, for `serve.run`. Each replica holds one model and one engine.

    Args:
        bundle: a folder that every machine of the cluster sees at the same path. Several, or a folder of them, come and
            go within each replica, as in `pumice serve`.
        num_replicas: how many; or `(least, most)`, between which Ray keeps three quarters of the slots in use.
        num_cpus: of each replica, which computes with as many threads unless `threads` says otherwise.
        num_gpus: of each replica.
        retry_after: seconds after which a client that found no place is to try again.
        name: of the deployment.
        deployment: options of Ray's `serve.deployment`, which count before those that are made here.
        **settings: those of `pumice serve`, by their names there with `_`: `slots`, `context_length`, `max_queue` (of
            each of Ray's proxies), `max_body`, `deadline`, `drain`, `device`, `api_key_file`, … `host` is where Ray's
            proxies listen: off this machine there have to be keys, or `no_key=True`.

    Raises:
        UsageError: a setting that does not exist or lies outside its interval; Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError(
            f"Ray Serve needs an extra: pip install 'pumice[ray-serve]' (no {error.name})"
        ) from None
    from pumice.ray.replica import Replica

    chosen = replica_settings(bundle, num_cpus=num_cpus, settings=settings)
    options: dict[str, Any] = {
        **ray_options(chosen, num_replicas=num_replicas, retry_after=retry_after),
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
        **(deployment or {}),
    }
    application: Application = serve.deployment(name=name, **options)(serve.ingress()(Replica)).bind(chosen)
    return application


def replica_settings(bundle: Bundles, *, num_cpus: float, settings: Mapping[str, Any]) -> Settings:
    """Settings of each replica's server. What is here is named as from everywhere.

    Raises:
        UsageError: as `serve_app`.
    """
    known = {each.name for each in dataclasses.fields(Settings)} - {"bundle", "others", *_OF_THE_PROXY}
    if unknown := sorted(set(settings) - known):
        belongs = "is Ray's own matter" if unknown[0] in _OF_THE_PROXY else "is unknown"
        raise UsageError(f"the setting {unknown[0]!r} {belongs}: expected one of {', '.join(sorted(known))}")
    bundles = [bundle] if isinstance(bundle, (str, os.PathLike)) else bundle
    given = {"threads": max(1, int(num_cpus)), **settings, "bundle": [_everywhere(each) for each in bundles]}
    if (keys := settings.get("api_key_file")) is not None:
        given["api_key_file"] = _everywhere(keys)
    return gather(given, {})


def _everywhere(path: str | os.PathLike[str]) -> str:
    """A path that is here as it is called from everywhere; replicas run in other folders."""
    found = Path(path)
    return str(found.absolute() if found.exists() else found)


def ray_options(
    settings: Settings, *, num_replicas: int | Sequence[int], retry_after: float
) -> dict[str, Any]:
    """Options of a deployment that follow from its replicas' settings.

    Raises:
        UsageError: `num_replicas` is no such number, or `retry_after` is none.
    """
    if not isinstance(retry_after, (int, float)) or not 0 <= retry_after < float("inf"):
        raise UsageError(f"retry_after is {retry_after!r}, expected seconds, 0 or more")
    concurrency = Concurrency(slots=settings.slots)
    return {
        **concurrency.scaling(num_replicas),
        "max_ongoing_requests": concurrency.max_ongoing_requests,
        "max_queued_requests": settings.max_queue,
        "graceful_shutdown_timeout_s": settings.drain,
        "backpressure_config": {"status_code": 429, "retry_after_s": retry_after},
        "request_router_config": {"request_router_class": ROUTER},
    }
