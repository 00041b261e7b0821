"""A row's bundle: exported, weighed, and asked for the logits of windows as it would answer.

Enters: a row (a label, a recipe, and what else `export_bundle` is told) and a LLaVA checkpoint. Leaves: a bundle, its
sizes in megabytes, and a `Reader` of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import pumice
from bench.real.reference import Floats, Reader
from bench.real.windows import CONTEXT, Window
from pumice.export.pipeline import export_bundle
from pumice.export.recipes.recipe import NAMES
from pumice.manifest import Manifest, load_manifest
from pumice.sessions.runs import Cancellation

FLOAT = "portable-fp32"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to export: `options` are arguments of `export_bundle` beside the recipe (a name, or a TOML file)."""

    label: str
    recipe: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in self.label)


MORE = (
    Row(label="cpu-int4 --calibrate text", recipe="cpu-int4", options={"calibrate": "text"}),
    Row(label="cpu-int8 --kv-cache int8", recipe="cpu-int8", options={"kv_cache": "int8"}),
    Row(label="cpu-int4 --kv-cache int8", recipe="cpu-int4", options={"kv_cache": "int8"}),
)
"""Rows beside those of pumice's own recipes."""


def all_rows() -> list[Row]:
    """Float32, pumice's own recipes for CPUs, and `MORE`."""
    names = [FLOAT, *(name for name in NAMES if name.startswith("cpu-"))]
    return [*(Row(label=name, recipe=name) for name in names), *MORE]


def chosen_rows(wanted: Sequence[str]) -> list[Row]:
    """Rows by label, others by the name or file of a recipe; all where none is named."""
    known = {row.label: row for row in all_rows()}
    named = {name: known.get(name) or Row(label=Path(name).stem, recipe=name) for name in wanted}
    return list((named or known).values())


def export(row: Row, llava: Path, bundle: Path) -> None:
    """Export a row's bundle, in place of what is there. Raises as `export_bundle`."""
    bundle.parent.mkdir(parents=True, exist_ok=True)
    export_bundle(llava, bundle, recipe=row.recipe, overwrite=True, **row.options)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Megabytes (10⁶ bytes): of what language is computed with, and of all files; None where there are no files."""

    language: float
    whole: float | None


def size(bundle: Path) -> Size:
    """How large a bundle is; its `language` are the decoder, embedding and prefill graphs with their data."""
    manifest = load_manifest(bundle)
    language = sum(manifest.files[name].size for name in _language_files(manifest))
    whole = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    return Size(language=language / 1e6, whole=whole / 1e6)


def _language_files(manifest: Manifest) -> set[str]:
    """Each once: graphs share data where a head is tied."""
    graphs = manifest.graphs
    parts = [part for part in (graphs.embedding, graphs.decoder, graphs.prefill) if part is not None]
    return {file for part in parts for file in (part.file, *part.external_data)}


def bundle_reader(bundle: Path) -> Reader:
    """Logits as answers get them: by the decoder, over what the bundle's own reader of prompts left in the cache.

    Where there is a prefill graph, `CONTEXT` tokens at a time are read by the decoder for their logits, and then once
    more by the prefill graph for those behind them.
    """
    decoder = pumice.load(bundle, device="cpu", prefix_cache_bytes=0).pipeline.decoder
    nothing_MD = np.zeros((0, decoder.shape.hidden_size), np.float32)
    twice = decoder.sessions.prefill is not None

    def read(window: Window) -> Iterator[Floats]:
        cache = decoder.new_cache(len(window.read))
        for start, ids in _parts(window):
            if start:
                yield decoder.forward(ids, ids, nothing_MD, cache, keep=0)
            if not start or twice:
                cache.rewind(0, start)
                decoder.prefill(ids, ids, nothing_MD, cache, 0, Cancellation(), ends=False)

    return read


def _parts(window: Window) -> Iterable[tuple[int, list[int]]]:
    """Where each part begins, and its ids: the context, and then `CONTEXT` tokens at a time."""
    assert window.context
    starts = [0, *range(window.context, len(window.read), CONTEXT)]
    for start, stop in zip(starts, [*starts[1:], len(window.read)], strict=True):
        yield start, list(window.read[start:stop])
