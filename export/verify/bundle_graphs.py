"""A bundle's graphs, in as little memory as ONNX Runtime takes: each by itself, or together to read a text.

Enters: a bundle, and transformers' intermediate results as inputs; or token ids. Leaves: outputs in float32. Float
weights stay in their files, mapped into memory: no session prepares copies of them (prepacking). Quantised ones are
prepared as `pumice.load` has them: without it ONNX Runtime computes with other arithmetic than users get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pumice.errors import BundleError
from pumice.export.verify.parity import Floats
from pumice.images.layout import among, join, kept
from pumice.manifest import DecoderShape, GraphSpec, ImageLayout, Manifest, Tiles
from pumice.manifest.tensors import (
    ATTENTION_MASK,
    IMAGE_FEATURES,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LOGITS,
    NUM_LOGITS_TO_KEEP,
    PAST,
    PIXEL_VALUES,
    PRESENT,
    cache_names,
)

READ_TOKENS = 256
"""Tokens of a text that the decoder reads together, if their logits are no more than `READ_LOGITS`."""
READ_LOGITS = 1 << 24
"""Logits in memory at a time while a text is read: 64 MiB."""

Cache = tuple[NDArray[Any], ...]
"""Keys and values, as `cache_names` has them in order."""

_ONLY_FATAL = 4
"""ONNX Runtime's log level: errors arrive as exceptions."""
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class BundleGraphs:
    """The graphs of `bundle` on `device`, `cpu` or `cuda`; each is open for the length of a `with` block."""

    def __init__(self, bundle: Path, manifest: Manifest, device: str) -> None:
        self._bundle, self._manifest = bundle, manifest
        self._providers = [_CUDA, _CPU] if device == "cuda" else [_CPU]

    @contextmanager
    def vision_encoder(self) -> Iterator[VisionGraph]:
        """Images to features."""
        yield VisionGraph(self._open(self._manifest.graphs.vision_encoder), self._manifest)

    @contextmanager
    def embedding(self) -> Iterator[EmbeddingGraph]:
        """Token ids and features to embeddings."""
        yield EmbeddingGraph(self._open(self._manifest.graphs.embedding))

    @contextmanager
    def decoder(self) -> Iterator[DecoderGraph]:
        """Embeddings to logits."""
        yield DecoderGraph(self._open(self._manifest.graphs.decoder), self._manifest)

    @contextmanager
    def prefill(self) -> Iterator[PrefillGraph | None]:
        """Embeddings to keys and values; None where the decoder does that too."""
        graph = self._manifest.graphs.prefill
        yield None if graph is None else PrefillGraph(self._open(graph), self._manifest)

    @contextmanager
    def reader(self) -> Iterator[TextReader]:
        """Token ids to logits: all graphs but the vision encoder, open together as in a loaded bundle."""
        with self.embedding() as embedding, self.prefill() as prefill, self.decoder() as decoder:
            yield TextReader(embedding, prefill, decoder, self._manifest.decoder)

    def _open(self, graph: GraphSpec) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ONLY_FATAL
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        if self._manifest.precision.bits is None:
            options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        try:
            return onnxruntime.InferenceSession(self._bundle / graph.file, options, providers=self._providers)
        except Exception as error:  # ONNX Runtime has no public root of its exceptions
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"ONNX Runtime refuses {self._bundle / graph.file}: {reason}") from None


class VisionGraph:
    """The vision encoder."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session, self._manifest, self._layout = session, manifest, manifest.layout

    def features(self, images: Sequence[Floats], sizes: Sequence[tuple[int, int]] | None) -> Floats:
        """Images [3, height, width], or their tiles [N, 3, height, width], → [M, D].

        Together where they may be stacked, else one by one; `sizes` are the images' (height, width) where they vary.
        """
        if isinstance(self._layout, Tiles):
            layout = among(self._layout, alone=len(images) == 1)
            pairs = zip(images, sizes or (), strict=True)
            return np.concatenate([self._tiled(layout, image, size) for image, size in pairs])
        batches = [images] if self._layout.stackable else [[image] for image in images]
        return np.concatenate([self._encoded(np.stack(batch)) for batch in batches])

    def video(self, frames_NCHW: Floats) -> Floats:
        """A video's frames → [M, D]."""
        clip = self._manifest.clip(len(frames_NCHW))
        return join(clip, clip.size, [kept(clip, self._encoded(frame[None])) for frame in frames_NCHW])

    def _tiled(self, layout: ImageLayout, tiles: Floats, size: tuple[int, int]) -> Floats:
        parts = [self._encoded(tile[None]) for tile in tiles]
        return join(layout, size, parts)

    def _encoded(self, pixels_NCHW: Floats) -> Floats:
        part = _run(self._session, IMAGE_FEATURES, {PIXEL_VALUES: pixels_NCHW})
        return part.reshape(-1, part.shape[-1])


class EmbeddingGraph:
    """The embedding and merge."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def embeds(self, prompt: NDArray[np.int64], features: Floats, answer: NDArray[np.int64]) -> Floats:
        """Prompt [1, T] with features [M, D], and answer [1, A] without → [1, T + A, D]."""
        none = np.zeros((0, features.shape[1]), np.float32)
        parts = [
            _run(self._session, INPUTS_EMBEDS, {INPUT_IDS: ids, IMAGE_FEATURES: rows})
            for ids, rows in ((prompt, features), (answer, none))
            if ids.size
        ]
        return np.concatenate(parts, axis=1)


class DecoderGraph:
    """The decoder."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session, self._shape = session, manifest.decoder

    def logits(self, embeds: Floats, past: Cache | None = None) -> Floats:
        """[1, T, D] → [T, V]: logits at every position.

        Given what a prefill graph made of the first positions, those behind are as in answers, over its cache.
        """
        if past is None:
            return self._logits(embeds, None)
        read = past[0].shape[2]
        return np.concatenate([self._logits(embeds[:, :read], None), self._logits(embeds[:, read:], past)])

    def step(self, embeds: Floats, past: Cache | None, *, all_logits: bool) -> tuple[Floats, Cache]:
        """[1, T, D] over a cache → logits [T, V], or [1, V] of the last position; and the cache grown by T."""
        feeds = _decoder_feeds(self._shape, embeds, past)
        feeds[NUM_LOGITS_TO_KEEP] = np.array(0 if all_logits else 1, dtype=np.int64)
        names = [LOGITS, *cache_names(PRESENT, self._shape.layers)]
        logits_1TV, *cache = _results(self._session, names, feeds)
        return np.asarray(logits_1TV[0], dtype=np.float32), _whole(
            past, cache, feeds[ATTENTION_MASK].shape[1]
        )

    def _logits(self, embeds: Floats, past: Cache | None) -> Floats:
        feeds = _decoder_feeds(self._shape, embeds, past)
        feeds[NUM_LOGITS_TO_KEEP] = np.array(0, dtype=np.int64)
        logits_1TV = _run(self._session, LOGITS, feeds)
        return logits_1TV.reshape(logits_1TV.shape[1:])


class PrefillGraph:
    """The decoder's twin for reading prompts, over an empty cache."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._session, self._shape = session, manifest.decoder

    def cache(self, embeds: Floats) -> Cache | None:
        """[1, T, D] → keys and values; None of no tokens."""
        if embeds.shape[1] == 0:
            return None
        return tuple(_results(self._session, None, _decoder_feeds(self._shape, embeds, None)))


class TextReader:
    """What reads a text as answers are made."""

    def __init__(
        self,
        embedding: EmbeddingGraph,
        prefill: PrefillGraph | None,
        decoder: DecoderGraph,
        shape: DecoderShape,
    ) -> None:
        self._embedding, self._prefill, self._decoder, self._shape = embedding, prefill, decoder, shape

    def logits(self, ids_T: NDArray[np.int64], first: int) -> Iterator[Floats]:
        """Logits of positions `first` … T − 1 in order, a few at a time, [n, V].

        Where there is a prefill graph, the decoder reads those few over what it has made of all that stand before.
        """
        none = np.zeros((0, self._shape.hidden_size), np.float32)
        embeds_1TD = self._embedding.embeds(ids_T[None], none, np.zeros((1, 0), np.int64))
        step = max(1, min(READ_TOKENS, READ_LOGITS // self._shape.vocab_size))
        starts = range(first, len(ids_T), step)
        if self._prefill is not None:
            whole = self._prefill.cache(embeds_1TD[:, : starts[-1]])
            for start in starts:
                past = tuple(part[:, :, :start] for part in whole) if whole and start else None
                yield self._decoder.step(embeds_1TD[:, start : start + step], past, all_logits=True)[0]
            return
        cache = None
        if first:
            _, cache = self._decoder.step(embeds_1TD[:, :first], None, all_logits=False)
        for start in starts:
            logits_NV, cache = self._decoder.step(embeds_1TD[:, start : start + step], cache, all_logits=True)
            yield logits_NV


def _decoder_feeds(shape: DecoderShape, embeds: Floats, past: Cache | None) -> dict[str, NDArray[Any]]:
    names = cache_names(PAST, shape.layers)
    empty = np.zeros((1, shape.kv_heads, 0, shape.head_dim), dtype=shape.kv_dtype)
    cache = past or (empty,) * len(names)
    total = cache[0].shape[2] + embeds.shape[1]
    feeds: dict[str, NDArray[Any]] = dict(zip(names, cache, strict=True))
    return feeds | {INPUTS_EMBEDS: embeds, ATTENTION_MASK: np.ones((1, total), dtype=np.int64)}


def _whole(past: Cache | None, present: list[NDArray[Any]], total: int) -> Cache:
    """Keys and values of all `total` tokens: of several in 8 bits a graph gives the new ones alone."""
    if past is None or present[0].shape[2] == total:
        return tuple(present)
    return tuple(np.concatenate(parts, axis=2) for parts in zip(past, present, strict=True))


def _run(session: Any, output: str, feeds: dict[str, NDArray[Any]]) -> Floats:
    return np.asarray(_results(session, [output], feeds)[0], dtype=np.float32)


def _results(session: Any, outputs: list[str] | None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    try:
        results: list[NDArray[Any]] = session.run(outputs, feeds)
    except Exception as error:  # ONNX Runtime has no public root of its exceptions
        raise BundleError(f"ONNX Runtime failed: {' '.join(str(error).split())[:300]}") from None
    return results
