"""Texts scored beside transformers: the figures are what a plain computation makes of both models' logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import pumice
from pumice import TextTokenizer
from pumice.errors import BundleError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.pipeline import export_bundle
from pumice.export.progress import Silent
from pumice.export.verify import bundle_graphs, reference, text_scores
from pumice.export.verify.bundle_graphs import BundleGraphs
from pumice.export.verify.parity import TextCase
from pumice.export.verify.text_comparison import TextReference, score_texts
from pumice.export.verify.texts import TextFile, Texts, Windows
from pumice.manifest import load_manifest
from pumice.sessions.runs import Cancellation
from tests.factory import FAMILIES, Text, make_checkpoint

STORY = (
    "A small yellow star is at the top right, and a large red octagon in the center. Where is the blue square? "
    "It is at the bottom left. How many shapes are there? There are four shapes; one of them is green."
)
TEXTS = Texts(
    files=(TextFile(name="story", content=5 * STORY), TextFile(name="code", content=40 * "x = f(y)\n")),
    window=96,
)


def windows_for(bundle: Path) -> list[Windows]:
    manifest = load_manifest(bundle)
    return TEXTS.windows(TextTokenizer.of(bundle, manifest), manifest.decoder.context_length)


def scored(bundle: Path, checkpoint: Path, folder: Path) -> tuple[list[TextCase], TextCase]:
    manifest = load_manifest(bundle)
    found = TextReference(open_checkpoint(checkpoint), windows_for(bundle), folder, Silent())
    return score_texts(found, BundleGraphs(bundle, manifest, "cpu"), Silent())


def plainly(bundle: Path, checkpoint: Path, step: int) -> list[dict[str, float]]:
    """Each text's figures, and those of all: transformers' logits in float64, ours by `pumice.load`'s decoder."""
    theirs = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float64).eval()
    rows = []
    for text in windows_for(bundle):
        parts = [part for ids in text.windows for part in positions(bundle, theirs, ids, text.context, step)]
        rows.append([torch.cat(column) for column in zip(*parts, strict=True)])
    return [figures(*row) for row in (*rows, [torch.cat(column) for column in zip(*rows, strict=True)])]


def positions(
    bundle: Path, theirs: torch.nn.Module, ids: np.ndarray, context: int, step: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(ids)[None]).logits[0]
    for start, logits in chunks(bundle, ids[:-1].tolist(), context - 1, step):
        after = slice(start + 1, start + 1 + len(logits))
        yield (
            expected[start : start + len(logits)].log_softmax(-1),
            torch.from_numpy(logits).double().log_softmax(-1),
            torch.from_numpy(ids[after]),
        )


def chunks(bundle: Path, ids: list[int], first: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """As answers are made: by the decoder, over what the prefill graph left if there is one."""
    decoder = pumice.load(bundle, device="cpu", prefix_cache_bytes=0).pipeline.decoder
    nothing = np.zeros((0, decoder.shape.hidden_size), np.float32)
    cache = decoder.new_cache(len(ids))
    decoder.prefill(ids[:first], ids[:first], nothing, cache, 0, Cancellation(), ends=False)
    for start in range(first, len(ids), step):
        part = ids[start : start + step]
        yield start, decoder.forward(part, part, nothing, cache, keep=0).copy()
        if decoder.sessions.prefill is not None:
            cache.rewind(0, start)
            decoder.prefill(part, part, nothing, cache, 0, Cancellation(), ends=False)


def figures(p: torch.Tensor, q: torch.Tensor, follows: torch.Tensor) -> dict[str, float]:
    kl = (p.exp() * (p - q)).sum(-1)
    return {
        "positions": len(kl),
        "perplexity": float((-q.gather(1, follows[:, None])).mean().exp()),
        "reference_perplexity": float((-p.gather(1, follows[:, None])).mean().exp()),
        "kl": float(kl.mean()),
        "kl_99": float(kl.quantile(0.99)),
        "top1": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
    }


@pytest.mark.parametrize("recipe", ["portable-fp32", "cpu-int4", "cpu-fast"])
def test_figures_are_those_of_a_plain_computation(
    recipe: str, pebble_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_graphs, "READ_TOKENS", 20)
    monkeypatch.setattr(reference, "LOGIT_VALUES", 7 * 544)
    monkeypatch.setattr(text_scores, "FLOAT64_VALUES", 3 * 544)
    export_bundle(pebble_checkpoint, tmp_path / "bundle", recipe=recipe)
    (tmp_path / "kept").mkdir()
    cases, together = scored(tmp_path / "bundle", pebble_checkpoint, tmp_path / "kept")
    assert [case.name for case in (*cases, together)] == ["story", "code", "all"]
    expected = plainly(tmp_path / "bundle", pebble_checkpoint, 20)
    for case, figure in zip((*cases, together), expected, strict=True):
        assert asdict(case.score) == pytest.approx(figure, rel=2e-4, abs=1e-9), case.name
    assert expected[-1]["positions"] == expected[0]["positions"] + expected[1]["positions"] > 300
    assert together.logits_max == max(case.logits_max for case in cases)
    if recipe == "portable-fp32":
        assert together.logits_max < 1e-5 * together.largest
    else:
        assert together.score.kl > 1e-4


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llava-1.5", {}),
        ("llava-interleave", {}),
        ("llava-1.5", {"text": Text(kind="qwen2", sliding_window=5, full_layers=1, layers=3)}),
        ("llava-1.5", {"text": Text(tied=True, context=64)}),
    ],
    ids=["plain", "no beginning", "sliding window", "small context"],
)
def test_float32_bundles_of_all_kinds_are_transformers(
    family: str, options: dict[str, Text], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_graphs, "READ_TOKENS", 20)
    checkpoint = make_checkpoint(tmp_path / "c", **options) if options else FAMILIES[family](tmp_path / "c")
    export_bundle(checkpoint, tmp_path / "bundle")
    (tmp_path / "kept").mkdir()
    _, together = scored(tmp_path / "bundle", checkpoint, tmp_path / "kept")
    assert together.score.kl < 1e-9
    assert together.score.top1 == 1.0
    assert together.score.perplexity == pytest.approx(together.score.reference_perplexity, rel=1e-5)
    assert 0 < together.logits_max < 1e-5 * together.largest


def test_what_comes_before_is_read_by_the_prefill_graph(pebble_checkpoint: Path, tmp_path: Path) -> None:
    """With the same decoder and no prefill graph other figures come out."""
    export_bundle(pebble_checkpoint, tmp_path / "bundle", recipe="cpu-fast")
    manifest = load_manifest(tmp_path / "bundle")
    alone = replace(manifest, graphs=replace(manifest.graphs, prefill=None))
    (tmp_path / "kept").mkdir()
    found = TextReference(
        open_checkpoint(pebble_checkpoint),
        windows_for(tmp_path / "bundle"),
        tmp_path / "kept",
        Silent(),
    )
    both, one = (
        score_texts(found, BundleGraphs(tmp_path / "bundle", m, "cpu"), Silent())[1].score
        for m in (manifest, alone)
    )
    assert both.reference_perplexity == one.reference_perplexity
    assert both.kl != pytest.approx(one.kl, rel=0.01)


def test_another_vocabulary_is_told(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    export_bundle(checkpoint, tmp_path / "bundle")
    other = make_checkpoint(tmp_path / "other", text=Text(vocab_size=400))
    (tmp_path / "kept").mkdir()
    with pytest.raises(BundleError, match="is this the checkpoint that the bundle was exported from"):
        scored(tmp_path / "bundle", other, tmp_path / "kept")
