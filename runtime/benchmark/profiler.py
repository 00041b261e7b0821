"""A bundle's graphs at work under ONNX Runtime's profiler.

Enters: a bundle, an image, a workload. Leaves: profiles of all graphs, for an image, a prompt and tokens. They run as
in answers: through the decoder and its cache, whose keys and values are not copied.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

from onnxruntime import InferenceSession

from pumice.benchmark.node_bytes import node_weights
from pumice.benchmark.profile import GraphProfile, graph_profiles
from pumice.benchmark.workload import Parts, Workload
from pumice.bundle.folder import Bundle, open_bundle
from pumice.decoder.decoder import Decoder
from pumice.images.files import ImageInput
from pumice.images.prepared import PreparedImage, model_key, prepare_image
from pumice.sessions.later import Later
from pumice.sessions.opening import Opened, open_sessions
from pumice.vision.cache import FeatureCache
from pumice.vision.encoder import ImageEncoder

GRAPHS = ("vision_encoder", "embedding", "prefill", "decoder")
_WARMING_UP = "warming up"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of an answer, done for so many images, prompts or tokens; `unit_s` are seconds of one, from outside."""

    name: str
    unit: str
    times: int
    unit_s: float
    graphs: tuple[GraphProfile, ...]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All phases, and what they were computed with."""

    device: str
    threads: int
    phases: tuple[Phase, ...]


def record(
    bundle: str | os.PathLike[str],
    image: ImageInput,
    workload: Workload,
    *,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Recording:
    """Profile a bundle. Raises as `pumice.benchmark.measurement.measure`."""
    opened = open_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="pumice-profile-") as folder:
        progress("loading")
        sessions = open_sessions(opened, device=device, threads=threads, profile=Path(folder))
        watched = {name: _Watched(getattr(sessions, name)) for name in GRAPHS if getattr(sessions, name)}
        vision = Later.of(Opened(session=cast(InferenceSession, watched["vision_encoder"])))
        others = {name: session for name, session in watched.items() if name != "vision_encoder"}
        shown = replace(sessions, vision=vision, **cast(Any, others))
        parts = Parts(
            manifest=opened.manifest,
            decoder=Decoder(shown, opened.manifest),
            encoder=ImageEncoder(shown.vision, opened.manifest, FeatureCache(0)),
        )
        fitted = workload.fitted(opened.manifest.decoder.context_length)
        kinds = _parts(parts, prepare_image(image, opened.manifest, model_key(opened.manifest)), fitted)
        spent = _run(kinds, watched, workload.repeats, progress)
        profiles = [p for name, session in watched.items() for p in _profiles(opened, name, session)]
    return Recording(
        device=sessions.device,
        threads=sessions.threads,
        phases=tuple(
            replace(phase, graphs=tuple(graph for graph in profiles if graph.phase == phase.name))
            for phase in spent
        ),
    )


class _Watched:
    """A session that notes in which phase each of its runs was."""

    def __init__(self, session: InferenceSession) -> None:
        self._session, self.phase = session, _WARMING_UP
        self.phases: list[str] = []

    def run(self, *arguments: Any) -> Any:
        self.phases.append(self.phase)
        return self._session.run(*arguments)

    def run_with_iobinding(self, *arguments: Any) -> Any:
        self.phases.append(self.phase)
        return self._session.run_with_iobinding(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A phase to be: `step` gives seconds of one unit, or of several; it makes `units` of them."""

    name: str
    unit: str
    units: int
    step: Callable[[], Sequence[float]]


def _parts(parts: Parts, image: PreparedImage, workload: Workload) -> list[_Part]:
    prompt = workload.prompt
    found = [
        _Part(name="vision", unit="image", units=1, step=lambda: [parts.encode(image)]),
        _Part(
            name=f"prefill, {prompt:,} tokens", unit="prompt", units=1, step=lambda: [parts.prefill(prompt)]
        ),
    ]
    for context in workload.contexts:
        # The last token of the context is prefilled alone, by the same run as those that follow.
        found.append(
            _Part(
                name=f"decode, {context:,} tokens of context",
                unit="token",
                units=workload.new + 1,
                step=partial(parts.decode, context, workload.new),
            )
        )
    return found


def _run(
    parts: Sequence[_Part], watched: Mapping[str, _Watched], repeats: int, progress: Callable[[str], None]
) -> list[Phase]:
    """Each part once to warm up, and then `repeats` times."""
    phases = []
    for part in parts:
        progress(part.name)
        _enter(watched, _WARMING_UP)
        part.step()
        _enter(watched, part.name)
        seconds = [second for _ in range(repeats) for second in part.step()]
        phases.append(
            Phase(
                name=part.name, unit=part.unit, times=repeats * part.units, unit_s=median(seconds), graphs=()
            )
        )
    return phases


def _enter(watched: Mapping[str, _Watched], phase: str) -> None:
    for session in watched.values():
        session.phase = phase


def _profiles(bundle: Bundle, name: str, session: _Watched) -> list[GraphProfile]:
    """End a session's profile and read it."""
    file = getattr(bundle.manifest.graphs, name).file
    events = json.loads(Path(session.end_profiling()).read_bytes())
    return graph_profiles(name, events, session.phases, node_weights(bundle.read(file)))
