"""The models of a server, by name: today one, loaded in the background while the server listens already.

Enters: settings. Leaves: a `Loaded` bundle with its engine, or an error that says why there is none yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.errors import PumiceError
from pumice.serve.refusals import RefusalError
from pumice.serve.settings import Settings

if TYPE_CHECKING:
    from pumice.engine import Engine
    from pumice.model import Model

_log = logging.getLogger("pumice.serve")

STALLED_S = 10.0
"""An engine that has work and makes no step for so long is not ready."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A bundle that answers. `created` is when it was exported, in seconds since 1970."""

    name: str
    aliases: tuple[str, ...]
    model: Model
    engine: Engine
    created: int
    loaded_at: float

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.engine.context

    @property
    def samples(self) -> bool:
        """Whether answers are drawn where a request says nothing of it."""
        return bool(self.model.manifest.generation.do_sample)

    @cached_property
    def fingerprint(self) -> str:
        """The same for as long as answers are."""
        manifest = self.model.manifest
        hashes = sorted(entry.sha256 for entry in manifest.files.values())
        return "fp_" + hashlib.sha256("".join(hashes).encode()).hexdigest()[:12]

    @cached_property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.model.manifest.files.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what it consists of."""
        hashes = sorted(entry.sha256 for entry in self.model.manifest.files.values())
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def template(self) -> str:
        """The chat template; empty if there is none."""
        file = self.model.manifest.chat.template_file
        return "" if file is None else (self.model.path / file).read_text(encoding="utf-8")

    def word_ids(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of words, each at a text's beginning and behind a space."""
        found = [self.text_ids(form) for word in words if word for form in (word, f" {word}")]
        return [ids for ids in found if ids]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        from pumice.prompt.sealed import Span

        tokenizer = self.model.pipeline.tokenizer
        return tokenizer.encode_spans([Span(text=text, trusted=False)], add_special_tokens=False)


class Bundles:
    """What can be asked by name. All of it belongs to the event loop, but for the loading itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.names = (settings.name, *settings.alias)
        """All names by which there is a model."""
        self._loaded: Loaded | None = None
        self._loading: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        """Why a bundle could not be loaded."""
        self.settled = asyncio.Event()
        """Set once loading has ended, well or not."""

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Those that answer now."""
        return () if self._loaded is None else (self._loaded,)

    def begin(self) -> None:
        """Load what is to be loaded from the start; returns at once."""
        self._loading = asyncio.get_running_loop().create_task(self._load())

    def find(self, name: str | None) -> Loaded:
        """The model of a name; without one, the first.

        Raises:
            RefusalError: there is none of this name, or it is not loaded yet.
        """
        plain = None if name is None else name.removesuffix(":latest")
        if plain is not None and plain not in self.names and name not in self.names:
            raise RefusalError(
                f"there is no model {plain[:200]!r}: {', '.join(map(repr, self.names))}",
                status=404,
                param="model",
                code="model_not_found",
            )
        if self._loaded is None:
            raise RefusalError(
                "Loading model",
                status=503,
                type="unavailable_error",
                code="loading",
                headers={"Retry-After": "2"},
            )
        return self._loaded

    @property
    def not_ready(self) -> str | None:
        """Why requests would not be answered now; None if they would."""
        if self._loaded is None:
            return "loading" if self.failure is None else "failed"
        engine = self._loaded.engine
        if not engine.alive:
            return "the engine has ended"
        return "the engine is stalled" if engine.stalled_s > STALLED_S else None

    async def close(self, *, drain: bool, timeout: float | None = None) -> None:
        """End all engines; what is under way is answered first, if that is asked for."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
        for loaded in self.loaded:
            await asyncio.to_thread(loaded.engine.close, drain, timeout)

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            self._loaded = await asyncio.to_thread(_load, self._settings)
        except Exception as error:
            self.failure = error
            if not isinstance(error, PumiceError):
                _log.error("loading failed: %s", type(error).__name__)
        else:
            _log.info("%s is loaded, in %.1f s", self._loaded.name, time.monotonic() - began)
        self.settled.set()


def _load(settings: Settings) -> Loaded:
    from pumice.engine import Engine
    from pumice.loading import load

    model = load(
        settings.bundle,
        device=settings.device,
        threads=settings.threads,
        low_memory=settings.low_memory,
        context_length=settings.context_length,
    )
    arguments: dict[str, Any] = {"slots": settings.slots, "max_queue": settings.slots + settings.max_queue}
    return Loaded(
        name=settings.name,
        aliases=settings.alias,
        model=model,
        engine=Engine(model, **arguments),
        created=int((Path(model.path) / "manifest.json").stat().st_mtime),
        loaded_at=time.time(),
    )
