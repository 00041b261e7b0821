"""Prompts answered by a bundle, and read by transformers: how far each graph is off.

Enters: a bundle, the checkpoint it was exported from, and probes. Leaves: a `Case` for each probe.

Three steps, of which each frees what the one before held:

1. answer    the bundle answers every probe end to end, through `pumice.load`, as a user would have it
2. expect    transformers reads prompt and answer, with one module's weights in memory at a time
3. compare   each graph is fed transformers' intermediate results, so that an error shows in the graph that makes it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pumice
from pumice import Prepared
from pumice.errors import BundleError, ContextLengthError
from pumice.export.checkpoint.folder import Checkpoint
from pumice.export.progress import Progress
from pumice.export.verify.bundle_graphs import BundleGraphs, Cache, VisionGraph
from pumice.export.verify.differences import differences
from pumice.export.verify.parity import Case, Floats, GraphError, LogitError, compare_answers
from pumice.export.verify.probes import Probe, default_probes
from pumice.export.verify.reference import Expected, Head, Inputs, Reference
from pumice.export.weights.rotation import Rotation
from pumice.manifest import Manifest, Tiles


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the bundle makes of a probe, and answers."""

    probe: Probe
    prepared: Prepared
    tokens: tuple[int, ...]
    messages: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """An answer of the bundle's, and what transformers makes of the same probe."""

    answer: _Answer
    inputs: Inputs
    expected: Expected


@dataclass(frozen=True, kw_only=True)
class _Oracle:
    """What transformers said of every answer; `head` makes logits of it, `eos_ids` end its answers."""

    pairs: list[_Pair]
    head: Head
    eos_ids: tuple[int, ...]


def compare_probes(
    bundle: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    probes: Sequence[Probe],
    *,
    max_new_tokens: int,
    device: str | None,
    progress: Progress,
) -> tuple[list[Case], str]:
    """A case for each of `probes`, or of some of our own where there are none, and the device that computed them.

    `device` is as `pumice.load` has it, or None for `device_for`.

    Raises:
        BundleError, CheckpointError, DeviceError, PromptError: as `verify_bundle`.
    """
    wanted = device or device_for(manifest)
    answers, found = _answers(bundle, manifest, probes, max_new_tokens, wanted, progress)
    oracle = _expect(checkpoint, answers, manifest, progress)
    return _compare(oracle, BundleGraphs(bundle, manifest, found), manifest, progress), found


def device_for(manifest: Manifest) -> str:
    """Where a bundle is compared if nobody says: `cpu` for float32, `auto` for what is meant for GPUs."""
    return "cpu" if manifest.precision.float_type in (None, "fp32") else "auto"


def _answers(
    bundle: Path,
    manifest: Manifest,
    probes: Sequence[Probe],
    max_new_tokens: int,
    device: str,
    progress: Progress,
) -> tuple[list[_Answer], str]:
    """The bundle's answers, and the device that it ran on; the model is gone afterwards."""
    asked = probes or default_probes(videos=manifest.videos is not None)
    progress.stage("verify: answers of the bundle", steps=len(asked))
    # Repacking float weights would copy them all; quantised ones would not be computed with as users do.
    model = pumice.load(bundle, device=device, low_memory=manifest.precision.bits is None)
    answers = []
    for probe in asked:
        try:
            answers.append(_answer(model, probe, max_new_tokens))
        except ContextLengthError as error:
            if probes:
                raise
            progress.note(f"left out: {probe.name} ({error})")
        progress.advance()
    if not answers:
        raise BundleError(f"no built-in prompt fits the context of {bundle}: give one with --prompt")
    return answers, model.device


_LIKELIEST: Any = {
    "do_sample": False,
    "num_beams": 1,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": [],
    "stop_strings": [],
}
"""Always the most likely token, whatever the checkpoint's generation defaults are."""


def _answer(model: pumice.Model, probe: Probe, max_new_tokens: int) -> _Answer:
    raw = model.manifest.chat.template_file is None
    clip = model.manifest.videos
    tokens = (model.manifest.image_tokens.token, "" if clip is None else clip.token)
    prompt: Any = probe.raw(*tokens) if raw else list(probe.messages)
    images: Any = list(probe.images) if raw else []  # they stand in the messages
    videos: Any = [list(video) for video in probe.videos] if raw else []
    prepared = model.prepare(prompt, images, videos=videos, raw=raw)
    limit = min(max_new_tokens, model.context_length)
    generation = model.generate(
        prompt, images=images, videos=videos, max_new_tokens=limit, raw=raw, **_LIKELIEST
    )
    counts = len(probe.images), len(probe.videos)
    messages = None if raw else tuple(model.pipeline.builder.messages(prompt, *counts))
    return _Answer(probe=probe, prepared=prepared, tokens=tuple(generation.token_ids), messages=messages)


def _expect(
    checkpoint: Checkpoint, answers: list[_Answer], manifest: Manifest, progress: Progress
) -> _Oracle:
    """transformers' results, turned as the bundle's weights are; its model is gone afterwards."""
    progress.stage("verify: transformers", steps=len(answers))
    tiled = manifest.layout if isinstance(manifest.layout, Tiles) else None
    videos = any(answer.probe.videos for answer in answers)
    reference = Reference(checkpoint, pinpoints=tiled.pinpoints if tiled else (), videos=videos)
    pairs = []
    for answer in answers:
        inputs = reference.inputs(answer.probe, answer.messages)
        expected = reference.run(inputs, answer.tokens)
        pairs.append(_Pair(answer=answer, inputs=inputs, expected=_turned(expected, manifest)))
        progress.advance()
    return _Oracle(pairs=pairs, head=reference.head, eos_ids=reference.eos_ids)


def _turned(expected: Expected, manifest: Manifest) -> Expected:
    """What passes between the graphs, in the basis of the bundle's residual stream."""
    if not manifest.precision.rotated:
        return expected
    turn = Rotation(manifest.decoder.hidden_size).turn
    return replace(
        expected,
        features=turn(torch.from_numpy(expected.features)).numpy(),
        embeds=turn(torch.from_numpy(expected.embeds)).numpy(),
    )


def _compare(oracle: _Oracle, graphs: BundleGraphs, manifest: Manifest, progress: Progress) -> list[Case]:
    """One graph after the other over all pairs, so that one session is open at a time."""
    pairs = oracle.pairs
    progress.stage("verify: comparing graphs", steps=3 * len(pairs))
    visions: list[GraphError | None] = []
    with graphs.vision_encoder() as vision:
        for pair in _counted(pairs, progress):
            ours = _seen(vision, pair.inputs, manifest)
            visions.append(None if ours is None else _error("vision_encoder", ours, pair.expected.features))
    del vision
    embeddings = []
    with graphs.embedding() as embedding:
        for pair in _counted(pairs, progress):
            words = np.array([pair.answer.tokens[:-1]], np.int64)
            ours = embedding.embeds(pair.inputs.input_ids, pair.expected.features, words)
            embeddings.append(_error("embedding", ours, pair.expected.embeds))
    del embedding
    pasts = _pasts(graphs, pairs)
    cases = []
    with graphs.decoder() as decoder:
        for index, pair in enumerate(_counted(pairs, progress)):
            logits_TV = decoder.logits(pair.expected.embeds, pasts[index])
            cases.append(_case(pair, oracle, manifest, visions[index], embeddings[index], logits_TV))
    return cases


def _seen(vision: VisionGraph, inputs: Inputs, manifest: Manifest) -> Floats | None:
    """Features of images and videos as they stand in the prompt, [M, D]; None where there are none."""
    sizes, clip = inputs.image_sizes, manifest.videos
    own = None if sizes is None else [(height, width) for height, width in sizes.tolist()]
    stills = vision.features(inputs.images, own) if inputs.images else None
    if not inputs.videos or clip is None:
        return stills
    clips = np.concatenate([vision.video(video) for video in inputs.videos])
    if stills is None:
        return clips
    ids = inputs.input_ids[0][np.isin(inputs.input_ids[0], manifest.feature_token_ids)]
    together = np.empty((len(ids), clips.shape[1]), np.float32)
    together[ids == manifest.image_tokens.token_id], together[ids == clip.token_id] = stills, clips
    return together


def _pasts(graphs: BundleGraphs, pairs: list[_Pair]) -> list[Cache | None]:
    """What the prefill graph, if there is one, makes of each prompt but its last token."""
    with graphs.prefill() as prefill:
        if prefill is None:
            return [None] * len(pairs)
        return [prefill.cache(p.expected.embeds[:, : p.inputs.input_ids.shape[1] - 1]) for p in pairs]


def _counted(pairs: list[_Pair], progress: Progress) -> Iterator[_Pair]:
    for pair in pairs:
        yield pair
        progress.advance()


def _error(graph: str, ours: Floats, theirs: Floats) -> GraphError:
    if ours.size != theirs.size:
        raise BundleError(
            f"the {graph} graph gives {list(ours.shape)}, transformers {list(theirs.shape)}: "
            "is this the checkpoint that the bundle was exported from?"
        )
    return GraphError.of(ours, theirs)


def _case(
    pair: _Pair,
    oracle: _Oracle,
    manifest: Manifest,
    vision: GraphError | None,
    embedding: GraphError,
    logits_TV: Floats,
) -> Case:
    answer, inputs = pair.answer, pair.inputs
    best: list[int] = []

    def theirs() -> Iterator[Floats]:
        for part_NV in oracle.head.logits(pair.expected.hidden):
            best.extend(part_NV.argmax(-1).tolist())
            yield part_NV

    decoder = LogitError.of(logits_TV, theirs())
    expected, first = compare_answers(
        answer.tokens, best[-len(answer.tokens) :], manifest.tokens.eos_ids, oracle.eos_ids
    )
    found = differences(answer.prepared, inputs)
    return Case(
        name=answer.probe.name,
        prompt_tokens=inputs.input_ids.shape[1],
        images=len(answer.probe.images),
        same_input_ids=not found.ids,
        same_pixel_values=not found.pixels,
        vision_encoder=vision,
        embedding=embedding,
        decoder=decoder,
        expected_tokens=expected,
        tokens=answer.tokens,
        first_difference=first,
        input_differences=(*found.ids, *found.pixels),
    )
