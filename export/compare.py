"""Which recipe? Each exported to a temporary bundle and measured beside transformers: size, accuracy and speed.

Enters: a checkpoint, recipes, and texts or prompts. Leaves: a `Comparison`, and nothing on the disk.

transformers reads the texts once; what it makes of them lies in the temporary folder until the end. Prompts it reads
again for each recipe, as each bundle answers in its own words. One bundle is there at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pumice
from pumice import TextTokenizer
from pumice.errors import PumiceError, UsageError
from pumice.export.adapters.folder import Adapter, open_adapters
from pumice.export.adapters.merged import merge_adapters
from pumice.export.checkpoint.folder import Checkpoint, open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.config.tying import as_stored
from pumice.export.pipeline import export_bundle
from pumice.export.processor import describe as companions
from pumice.export.processor.videos import with_known_videos
from pumice.export.progress import Progress, showing
from pumice.export.recipes.recipe import load_recipe
from pumice.export.verify.bundle_graphs import BundleGraphs
from pumice.export.verify.probe_comparison import compare_probes, device_for
from pumice.export.verify.probes import Probe
from pumice.export.verify.text_comparison import TextReference, score_texts
from pumice.export.verify.text_scores import TextScore
from pumice.export.verify.texts import Texts, Windows
from pumice.export.verify.verdict import Band, band_of
from pumice.manifest import Manifest, load_manifest

SpeedMeter = Callable[[pumice.Model], tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class PromptScore:
    """KL in nats (mean over prompts, and the largest of their 99th percentiles), and top-1 from 0 to 1."""

    kl: float
    kl_99: float
    top1: float


@dataclass(frozen=True, kw_only=True)
class RecipeScore:
    """One recipe: `megabytes` of the bundle, scores where there were texts or prompts, tokens a second, the verdict."""

    recipe: str
    megabytes: float
    text: TextScore | None
    prompts: PromptScore | None
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    verdict: str
    meaning: str

    @property
    def kl(self) -> float:
        """What the verdict is by: of the texts if there are any."""
        if self.text is not None:
            return self.text.kl
        assert self.prompts is not None
        return self.prompts.kl

    @property
    def band(self) -> Band:
        """Where that lies."""
        return band_of(self.kl)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All recipes in the order asked for; `failed` says why others could not be measured; `advice` is a sentence.

    `adapters` are the names of those that were merged into the checkpoint.
    """

    checkpoint: str
    adapters: tuple[str, ...]
    recipes: tuple[RecipeScore, ...]
    failed: dict[str, str]
    advice: str


def compare_recipes(
    checkpoint: str | Path,
    recipes: Sequence[str],
    *,
    adapters: Sequence[str | Path | Adapter] = (),
    texts: Texts | None = None,
    probes: Sequence[Probe] = (),
    work: Path | None = None,
    device: str | None = None,
    max_new_tokens: int = 32,
    quiet: bool = True,
    speed_of: SpeedMeter,
) -> Comparison:
    """Export each of `recipes`, compare it with transformers in float32, and remove it again.

    Args:
        checkpoint: a folder, or a hub id.
        recipes: names of pumice's own recipes, or TOML files.
        adapters: merged into the checkpoint, in bundles and in transformers alike (docs/adapters.md).
        texts: texts to score by.
        probes: prompts and images to compare on as well, or instead.
        work: where the temporary folder is made: room for one bundle, and for 4 bytes × the model's width for each
            token of the texts; by default the current directory.
        device: where the bundles run, as for `verify_bundle`.
        max_new_tokens: greedy tokens to compare for each probe.
        quiet: show no progress on stderr.
        speed_of: measures a loaded model: tokens a second of decoding, and of prefill.

    Raises:
        CheckpointError: transformers cannot load the checkpoint, or an adapter cannot be merged.
        UsageError: an unknown recipe, nothing to compare on, a text that is too short, or `work` is no folder.
    """
    if not probes and not (texts and texts.files):
        raise UsageError(
            "there is nothing to compare recipes on: give --text FILE, or --prompt with -i IMAGE"
        )
    for recipe in recipes:
        load_recipe(recipe)
    work = Path.cwd() if work is None else work
    if not work.is_dir():
        raise UsageError(f"{work} is not a folder to work in")
    with showing(quiet=quiet) as progress:
        opened = open_checkpoint(checkpoint, progress=progress)
        merging = open_adapters(adapters, progress)
        config = as_stored(read_config(opened.config), opened)
        merged = merge_adapters(opened, merging, tied=config.tie_word_embeddings)
    scores: list[RecipeScore] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pumice-compare-", dir=work) as folder:
        place = Path(folder)
        windows = _windows(opened, texts, place) if texts and texts.files else []
        desk = _Desk(merged, adapters, windows, probes, place, device, max_new_tokens, speed_of)
        for recipe in dict.fromkeys(recipes):
            try:
                scores.append(desk.score(recipe, quiet=quiet))
            except PumiceError as error:
                failed[recipe] = str(error)
    return Comparison(
        checkpoint=opened.name,
        adapters=tuple(adapter.name for adapter in merging),
        recipes=tuple(scores),
        failed=failed,
        advice=advice(scores) if scores else "",
    )


def _windows(checkpoint: Checkpoint, texts: Texts, folder: Path) -> list[Windows]:
    """The texts as every bundle of the checkpoint will read them."""
    config = with_known_videos(checkpoint, as_stored(read_config(checkpoint.config), checkpoint))
    parts = companions.describe(checkpoint, config)
    companions.copy(checkpoint, folder)
    tokenizer = TextTokenizer(folder, parts["tokens"], parts["image_tokens"], parts["chat"])
    return texts.windows(tokenizer, config.text.max_position_embeddings)


class _Desk:
    """Where one recipe after the other is measured."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        adapters: Sequence[str | Path | Adapter],
        windows: Sequence[Windows],
        probes: Sequence[Probe],
        folder: Path,
        device: str | None,
        max_new_tokens: int,
        speed_of: SpeedMeter,
    ) -> None:
        self._checkpoint, self._adapters, self._windows, self._probes = checkpoint, adapters, windows, probes
        self._folder, self._device, self._max_new_tokens = folder, device, max_new_tokens
        self._speed_of = speed_of
        self._reference: TextReference | None = None

    def score(self, recipe: str, *, quiet: bool) -> RecipeScore:
        """Export, measure, and remove the bundle."""
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            bundle = Path(place) / "bundle"
            export_bundle(self._checkpoint.path, bundle, recipe=recipe, adapters=self._adapters, quiet=quiet)
            with showing(quiet=quiet) as progress:
                return self._score(recipe, bundle, progress)

    def _score(self, recipe: str, bundle: Path, progress: Progress) -> RecipeScore:
        manifest = load_manifest(bundle)
        progress.stage(f"{recipe}: speed")
        device = self._device or device_for(manifest)
        model = pumice.load(bundle, device=device, prefix_cache_bytes=0, feature_cache_bytes=0)
        decode, prefill = self._speed_of(model)
        device = model.device
        del model
        prompts = self._prompts(bundle, manifest, progress) if self._probes else None
        graphs = BundleGraphs(bundle, manifest, device)
        text = self._text(graphs, progress) if self._windows else None
        scored = text or prompts
        assert scored is not None
        band = band_of(scored.kl)
        return RecipeScore(
            recipe=recipe,
            megabytes=sum(entry.size for entry in manifest.files.values()) / 1e6,
            text=text,
            prompts=prompts,
            decode_tokens_per_s=decode,
            prefill_tokens_per_s=prefill,
            verdict=band.word,
            meaning=band.meaning,
        )

    def _prompts(self, bundle: Path, manifest: Manifest, progress: Progress) -> PromptScore:
        cases, _ = compare_probes(
            bundle,
            manifest,
            self._checkpoint,
            self._probes,
            max_new_tokens=self._max_new_tokens,
            device=self._device,
            progress=progress,
        )
        return PromptScore(
            kl=float(np.mean([case.decoder.kl for case in cases])),
            kl_99=float(np.max([case.decoder.kl_99 for case in cases])),
            top1=float(np.mean([case.decoder.top1 for case in cases])),
        )

    def _text(self, graphs: BundleGraphs, progress: Progress) -> TextScore:
        if self._reference is None:
            self._reference = TextReference(self._checkpoint, self._windows, self._folder, progress)
        return score_texts(self._reference, graphs, progress)[1].score


def advice(scores: Sequence[RecipeScore]) -> str:
    """Which to take: the smallest of those that are near float32, else the nearest."""
    near = [score for score in scores if score.band.word == "near"]
    if near:
        best = min(near, key=lambda score: score.megabytes)
        return f"Take {best.recipe}: the smallest of those that are near float32 ({best.megabytes:,.1f} MB)."
    best = min(scores, key=lambda score: (np.isnan(score.kl), score.kl))
    told = f"{best.recipe} is the nearest (KL {best.kl:.2g}), {best.verdict}: {best.meaning}."
    if best.band.word == "not usable":
        return f"Take none of these: {told} Try one of 8 bits, or float32."
    return f"None of these is near float32: {told}"
