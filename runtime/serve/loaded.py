"""A bundle in memory, with its engine: how it comes there, and goes.

Enters: settings of a bundle, and what it may take. Leaves: a `Loaded` bundle; or none, and its memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pumice.bundle.footprint import PROCESS
from pumice.bundle.plan import MemoryPlan
from pumice.serve.catalogue import About, about, planned
from pumice.serve.settings import Settings

if TYPE_CHECKING:
    from pumice.engine import Engine
    from pumice.model import Model


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A bundle that answers. `nbytes` are those that it may take, by its plan."""

    about: About
    model: Model
    engine: Engine
    loaded_at: float
    nbytes: int

    @property
    def name(self) -> str:
        """Its folder's."""
        return self.about.name

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.engine.context

    @property
    def samples(self) -> bool:
        """Whether answers are drawn where a request says nothing of it."""
        return bool(self.model.manifest.generation.do_sample)

    @property
    def fingerprint(self) -> str:
        """The same for as long as answers are."""
        return f"fp_{self.about.digest[:12]}"

    @property
    def template(self) -> str:
        """The chat template; empty if there is none."""
        return self.about.template

    def word_ids(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of words, each at a text's beginning and behind a space."""
        found = [self.text_ids(form) for word in words if word for form in (word, f" {word}")]
        return [ids for ids in found if ids]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        from pumice.prompt.sealed import Span

        tokenizer = self.model.pipeline.tokenizer
        return tokenizer.encode_spans([Span(text=text, trusted=False)], add_special_tokens=False)


def load_bundle(settings: Settings, plan: MemoryPlan | None = None) -> Loaded:
    """Load a bundle and make its engine, neither of which takes more than is planned.

    Raises:
        PumiceError: as `pumice.load` and `Engine`.
    """
    from pumice.engine import Engine
    from pumice.loading import load

    model = load(
        settings.bundle,
        device=settings.device,
        threads=settings.threads,
        low_memory=settings.low_memory,
        **_limits(settings, plan),
    )
    try:
        model.wait()  # who is told that it is ready may send an image
        engine = Engine(
            model,
            slots=settings.slots,
            max_queue=settings.slots + settings.max_queue,
            context=None if plan is None else plan.context,
        )
        needed = plan or planned(replace(settings, context_length=engine.context), model.manifest, None)
    except BaseException:
        model.close()
        raise
    return Loaded(
        about=about(settings, model.manifest, Path(model.path), engine.context),
        model=model,
        engine=engine,
        loaded_at=time.time(),
        nbytes=needed.total - PROCESS,
    )


def unload_bundle(loaded: Loaded) -> None:
    """Give its memory back; what is under way is cancelled."""
    loaded.engine.close(drain=False)
    loaded.model.close()


def _limits(settings: Settings, plan: MemoryPlan | None) -> dict[str, Any]:
    """What `load` is told of contexts and caches."""
    from pumice.sessions.device import choose_device

    if plan is None:
        return {"context_length": settings.context_length}
    longest = settings.context_length and min(settings.context_length, plan.context_length)
    if choose_device(settings.device) != "cpu":
        return {"context_length": longest}  # caches are made for the CPU
    return {
        "context_length": longest,
        "prefix_cache_bytes": plan.answering["prefix cache"],
        "feature_cache_bytes": plan.answering["feature cache"],
    }
