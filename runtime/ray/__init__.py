"""Many machines: a bundle in a Ray Data pipeline (docs/ray.md), and behind Ray Serve (docs/ray-serve.md).

Enters: batches of columns; HTTP requests. Leaves: batches with answers; answers. Ray schedules, restarts and scales;
what runs on its actors are the engine of `pumice batch`, and the app of `pumice serve`.

    data ◀─ Ray Data's actors        serving ─▶ replica ◀─ Ray Serve's proxies
                                     concurrency: what Ray is told of a replica's slots
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pumice.ray.data import COLUMNS, BatchGenerator
    from pumice.ray.serving import serve_app

__all__ = ["COLUMNS", "BatchGenerator", "serve_app"]

_MODULES = {"COLUMNS": "data", "BatchGenerator": "data", "serve_app": "serving"}
"""Where a name is defined: each half needs another extra."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pumice.ray' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pumice.ray.{_MODULES[name]}"), name)
