"""A request's hold on a model: it waits until the model is there, which stays for as long as it is held.

Enters: a request. Leaves: a `Loaded` model, or why there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from pumice.errors import DeadlineError

if TYPE_CHECKING:
    from pumice.serve.loaded import Loaded


class Lease:
    """Of the model `name`; let go by leaving its `with` block. For one event loop."""

    def __init__(self, name: str, number: int, let_go: Callable[[Lease], None]) -> None:
        self.name, self.number = name, number
        self._let_go = let_go
        self._loaded: Loaded | None = None
        self._refusal: Exception | None = None
        self._settled = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether the model is there, and stays."""
        return self._loaded is not None

    async def loaded(self, timeout: float) -> Loaded:
        """The model, once it is there.

        Raises:
            PumiceError: it cannot be loaded, or the server ends.
            DeadlineError: it has taken more than `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            raise DeadlineError(
                f"the deadline of {timeout:g} s passed while the request waited for its model: allow more time"
            ) from None
        if self._loaded is None:
            assert self._refusal is not None
            raise self._refusal
        return self._loaded

    def grant(self, loaded: Loaded) -> None:
        """The model is there."""
        self._loaded = loaded
        self._settled.set()

    def refuse(self, refusal: Exception) -> None:
        """It will not be."""
        self._refusal = refusal
        self._settled.set()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go(self)
        self._loaded = None
