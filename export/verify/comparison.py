"""Does a bundle say what its checkpoint says? Graphs, preprocessing, generated tokens and texts against transformers.

Enters: a bundle and the checkpoint it was exported from. Leaves: a `Report` with its verdict, printed as tables and
stored in the bundle as `parity.json` and `PARITY.md`, with a summary in the manifest.

    probes ─probe_comparison─▶ cases ─┐
    texts ──text_comparison──▶ scores ┴─parity, verdict─▶ report
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from pumice import TextTokenizer
from pumice.errors import UsageError
from pumice.export.adapters.folder import Adapter, open_adapters
from pumice.export.adapters.merged import merge_adapters
from pumice.export.bundle.writing import replace_in_bundle
from pumice.export.checkpoint.folder import Checkpoint, open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.tying import as_stored
from pumice.export.progress import Progress, Silent
from pumice.export.verify.bundle_graphs import BundleGraphs
from pumice.export.verify.parity import Report, TextCase, summarize
from pumice.export.verify.parity_table import markdown
from pumice.export.verify.probe_comparison import compare_probes
from pumice.export.verify.probes import Probe
from pumice.export.verify.text_comparison import TextReference, score_texts
from pumice.export.verify.texts import Texts, Windows
from pumice.manifest import FileEntry, Manifest, load_manifest
from pumice.manifest.regular_file import named


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found, and the manifest that now records it."""

    report: Report
    manifest: Manifest


def verify_bundle(
    bundle: Path,
    checkpoint: str | Path,
    *,
    adapters: Sequence[str | Path | Adapter] = (),
    probes: Sequence[Probe] = (),
    texts: Texts | None = None,
    max_new_tokens: int = 32,
    device: str | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Compare `bundle` with `checkpoint` in float32, judge it, and store the figures in the bundle.

    Args:
        bundle: a bundle made by `export_bundle`.
        checkpoint: the folder, or hub id, that it was made from.
        adapters: those that were merged into it, as `export_bundle` was given them.
        probes: prompts and images to compare on; some of our own where none are given.
        texts: texts to score as well, by which the bundle then is judged.
        max_new_tokens: greedy tokens to compare for each probe.
        device: where the bundle runs, `cpu`, `cuda` or `auto`; by default `cpu` for float32 and `auto` for what is
            meant for GPUs. transformers runs on the CPU.
        progress: told what is being done.

    Raises:
        BundleError: the bundle is damaged, or its graphs' outputs have other shapes than transformers'.
        CheckpointError: transformers cannot load the checkpoint.
        DeviceError: `device` is not usable.
        PromptError: a probe does not fit the model.
        UsageError: a text is too short to be scored, or the adapters are not those of the bundle.
    """
    progress = progress or Silent()
    bundle = named(bundle)
    manifest = load_manifest(bundle)
    windows = _windows(bundle, manifest, texts) if texts and texts.files else []
    opened = _merged(open_checkpoint(checkpoint, progress=progress), manifest, adapters, progress)
    cases, used = compare_probes(
        bundle, manifest, opened, probes, max_new_tokens=max_new_tokens, device=device, progress=progress
    )
    scored, together = _scored(opened, windows, BundleGraphs(bundle, manifest, used), progress)
    report = Report(
        precision=manifest.precision.name,
        checkpoint=manifest.source.checkpoint,
        versions={name: version(name) for name in ("pumice", "onnxruntime", "torch", "transformers")},
        summary=summarize(
            manifest.precision.name,
            cases,
            together,
            built_in=not probes,
            rounded_cache=manifest.decoder.kv_dtype == "int8",
        ),
        cases=tuple(cases),
        texts=tuple(scored),
        text=together,
    )
    return Verified(report=report, manifest=_store(bundle, manifest, report))


def _merged(
    checkpoint: Checkpoint,
    manifest: Manifest,
    adapters: Sequence[str | Path | Adapter],
    progress: Progress,
) -> Checkpoint:
    """The checkpoint with the bundle's adapters, which are looked for where the caller says."""
    opened = open_adapters(adapters, progress)
    wanted = manifest.source.adapters or ()
    if tuple(adapter.applied() for adapter in opened) != wanted:
        raise UsageError(
            f"the bundle was exported with {_told([(a.adapter, a.scale) for a in wanted])}, and given are "
            f"{_told([(a.name, a.scale) for a in opened])}: give the same files in the same order (--adapter DIR)"
        )
    tied = as_stored(read_config(checkpoint.config), checkpoint).tie_word_embeddings
    return merge_adapters(checkpoint, opened, tied=tied)


def _told(adapters: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"the adapter {name} (scale {scale:g})" for name, scale in adapters) or "no adapters"


def _windows(bundle: Path, manifest: Manifest, texts: Texts) -> list[Windows]:
    return texts.windows(TextTokenizer.of(bundle, manifest), manifest.decoder.context_length)


def _scored(
    checkpoint: Checkpoint, windows: Sequence[Windows], graphs: BundleGraphs, progress: Progress
) -> tuple[list[TextCase], TextCase | None]:
    """The texts' figures, and those of all together if there are any; what transformers computed is gone afterwards."""
    if not windows:
        return [], None
    with tempfile.TemporaryDirectory(prefix="pumice-verify-") as folder:
        return score_texts(TextReference(checkpoint, windows, Path(folder), progress), graphs, progress)


def _store(bundle: Path, manifest: Manifest, report: Report) -> Manifest:
    summary: dict[str, Any] = msgspec.to_builtins(report.summary)
    contents = {
        "parity.json": msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n",
        "PARITY.md": markdown(report).encode(),
    }
    entries = {
        name: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in contents.items()
    }
    updated = replace(manifest, parity=summary, files=manifest.files | entries)
    replace_in_bundle(bundle, contents, updated)
    return updated
