"""A bundle's folder becomes a `Model`.

Enters: a path, a device, budgets of memory. Leaves: a model ready to generate; all its files were checked.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pumice.bundle.folder import Bundle, open_bundle
from pumice.bundle.optimized import Optimized, find
from pumice.bundle.plan import default_feature_cache_bytes, default_prefix_cache_bytes
from pumice.decoder.decoder import Decoder
from pumice.decoder.prefix_cache import PrefixCache
from pumice.errors import BundleError, UsageError
from pumice.generation.grammar import GrammarCompiler
from pumice.generation.make import StrategyMaker
from pumice.hub.location import locate
from pumice.manifest import Manifest
from pumice.manifest.regular_file import named
from pumice.model import Model
from pumice.pipeline import Pipeline
from pumice.prompt.builder import PromptBuilder
from pumice.prompt.template import ChatTemplate
from pumice.prompt.tokenizer import PromptTokenizer
from pumice.sessions.opening import Sessions, open_sessions, tell_refused
from pumice.sessions.optimize import make
from pumice.vision.cache import FeatureCache
from pumice.vision.encoder import ImageEncoder
from pumice.vision.folder import FeatureFolder
from pumice.vision.resident import ResidentFeatures

logger = logging.getLogger("pumice")

_FOLDER_BYTES = 4 * 2**30
"""Of a `feature_cache_dir`."""

_WORTH_DRAFTING = 50_000_000
"""Bytes of a decoder below which a decode step is so quick that drafting takes as long."""

_Language: TypeAlias = "tuple[ChatTemplate | None, PromptTokenizer, bytes]"

_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token")


def load(
    bundle: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    low_memory: bool = False,
    cuda_graph: bool = False,
    optimized: bool | None = None,
    context_length: int | None = None,
    prefix_cache_bytes: int | None = None,
    feature_cache_bytes: int | None = None,
    feature_cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a bundle, check every file of it, and make it ready to generate.

    On the CPU the vision encoder is opened last, and text can be answered before it is: the first image waits for it,
    and what ONNX Runtime refuses of that graph is raised there, as BundleError. `Model.wait` waits for it.

    Args:
        bundle: the folder that `pumice export` wrote; or, where there is no such folder, `org/name` on the Hugging
            Face hub, or `org/name@revision`, which is fetched into the hub's cache (docs/hub.md).
        revision: a branch, a tag or a commit of a bundle on the hub; its main branch by default.
        device: `auto` (CUDA where it is usable, else the CPU), `cpu`, or `cuda`.
        threads: threads to compute with; by default as many as the process may use CPUs.
        low_memory: leave weights in their files, which the system may drop from memory and read again, rather than
            repack them: slower. Quantised weights are then multiplied in another way, and logits differ a little.
        cuda_graph: on CUDA, record what decoding launches once and launch it as a whole: off until it has been
            measured (docs/decisions/cuda.md).
        optimized: take the copy of the bundle that `pumice optimize` made for this machine, whose weights are mapped
            into memory rather than copied there: by default where there is one; True makes it first; False never.
        context_length: tokens that a prompt and its answer may have together, at most the model's own (the default).
        prefix_cache_bytes: memory for prefixes of earlier prompts, which skip prefill; 0 switches it off
            (default: 128 MiB, or a quarter of the decoder's weights, but at most a tenth of the available memory; on
            CUDA 0, for fetching them from there takes as long as prefill).
        feature_cache_bytes: memory for features of earlier images; 0 switches it off (default: room for 32 images,
            at most 256 MiB).
        feature_cache_dir: a folder where features of images are kept as well, from one process to the next: 4 GiB at
            most, shared by any number of processes and bundles.

    Raises:
        BundleError: missing, changed, or not a bundle that this pumice can run; `HubError` where the hub has none.
        DeviceError: `cuda` was asked for and cannot be used.
        OptimizeError: `optimized` is True and the copy cannot be written.
        UsageError: an unknown device, or a number outside its interval.
    """
    started = time.perf_counter()
    for name, size in (
        ("prefix_cache_bytes", prefix_cache_bytes),
        ("feature_cache_bytes", feature_cache_bytes),
    ):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise UsageError(f"{name} is {size!r}, expected a number of bytes, 0 or more")
    opened, copy = _opened(locate(bundle, revision, tell=logger.info), optimized)
    manifest = opened.manifest
    _check_context(context_length, manifest)
    wanted: dict[str, Any] = {
        "device": device,
        "threads": threads,
        "low_memory": low_memory,
        "cuda_graph": cuda_graph,
    }
    language: Future[_Language] = Future()
    sessions = _sessions(opened, copy, wanted, meanwhile=partial(_settle, language, opened))
    try:
        template, tokenizer, tokenizer_json = language.result()
    except BaseException:
        sessions.vision.settle()
        raise
    prefix = _prefix_cache_bytes(sessions, manifest) if prefix_cache_bytes is None else prefix_cache_bytes
    kept = default_feature_cache_bytes(manifest) if feature_cache_bytes is None else feature_cache_bytes
    folder = None if feature_cache_dir is None else FeatureFolder(named(feature_cache_dir), _FOLDER_BYTES)
    pipeline = Pipeline(
        manifest=manifest,
        decoder=Decoder(sessions, manifest),
        tokenizer=tokenizer,
        builder=PromptBuilder(manifest, tokenizer, template),
        encoder=ImageEncoder(
            sessions.vision,
            manifest,
            FeatureCache(kept, folder),
            None if sessions.memory is None else ResidentFeatures(sessions.memory),
        ),
        prefixes=PrefixCache(prefix),
        strategies=StrategyMaker(
            tokenizer=tokenizer,
            grammars=GrammarCompiler(tokenizer_json, manifest.tokens.eos_ids),
            feature_token_ids=manifest.feature_token_ids,
            drafts_by_default=drafts_pay(manifest),
        ),
        load_s=time.perf_counter() - started,
        context=context_length,
    )
    return Model(opened, pipeline)


def _check_context(context_length: int | None, manifest: Manifest) -> None:
    whole = manifest.decoder.context_length
    if context_length is None:
        return
    whole_number = isinstance(context_length, int) and not isinstance(context_length, bool)
    if not whole_number or not 1 <= context_length <= whole:
        raise UsageError(
            f"context_length is {context_length!r}, expected 1 to {whole:,} (the model's context)"
        )


def _opened(folder: Path, optimized: bool | None) -> tuple[Bundle, Optimized | None]:
    """The bundle, and its copy for this machine if that is to be used."""
    copy = None if optimized is False else find(folder)
    opened = open_bundle(folder, unchanged=() if copy is None else copy.unchanged)
    if optimized and copy is None:
        copy = make(opened)
    return opened, copy


def _sessions(
    bundle: Bundle, copy: Optimized | None, wanted: dict[str, Any], meanwhile: Callable[[], None]
) -> Sessions:
    """Of the copy; of the bundle, digested whole, where ONNX Runtime refuses the copy."""
    try:
        return open_sessions(bundle, **wanted, optimized=copy, meanwhile=meanwhile)
    except BundleError as error:
        if copy is None:
            raise
        tell_refused(copy, error)
        return open_sessions(open_bundle(bundle.folder), **wanted)


def _prefix_cache_bytes(sessions: Sessions, manifest: Manifest) -> int:
    """The cache is in the host's memory: on a GPU what it saves in prefill, it costs in copying."""
    return default_prefix_cache_bytes(manifest) if sessions.memory is None else 0


def drafts_pay(manifest: Manifest) -> bool:
    """Whether drafted tokens make answers quicker and leave them as they are.

    A token's logits are the same within float32's rounding, whatever is computed with it. Where weights or activations
    are rounded to fewer bits, a last bit may tip one of them, and layers add to that (docs/equality.md).
    """
    precision, kv_dtype = manifest.precision, manifest.decoder.kv_dtype
    exact = precision.bits is None and precision.float_type in (None, "fp32") and kv_dtype == "float32"
    graph = manifest.graphs.decoder
    nbytes = sum(manifest.files[name].size for name in (graph.file, *graph.external_data))
    return exact and nbytes >= _WORTH_DRAFTING


def _settle(language: Future[_Language], bundle: Bundle) -> None:
    """Read the language; what goes wrong is told to whoever asks for it."""
    try:
        language.set_result(_language(bundle))
    except BaseException as error:
        language.set_exception(error)


def _language(bundle: Bundle) -> _Language:
    """The chat template, if there is one, the tokenizer, and what it was read of."""
    manifest = bundle.manifest
    variables = {name: text for name in _SPECIALS if (text := getattr(manifest.tokens, name)) is not None}
    template = None
    if manifest.chat.template_file is not None:
        template = ChatTemplate(_text(bundle, manifest.chat.template_file), variables)
        template.start()
    tokenizer_json = bundle.read(manifest.chat.tokenizer_file)
    tokenizer = PromptTokenizer(
        tokenizer_json,
        reserved=[*manifest.media_texts, *variables.values()],
        template=template.source if template else "",
    )
    return template, tokenizer, tokenizer_json


def _text(bundle: Bundle, name: str) -> str:
    try:
        return bundle.read(name).decode()
    except UnicodeDecodeError:
        raise BundleError(f"{bundle.path(name)} is not UTF-8 text: export the bundle again") from None
