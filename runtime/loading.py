"""A bundle's folder becomes a `Model`.

Enters: a path, a device, budgets of memory. Leaves: a model ready to generate; all its files were checked.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from pumice.answerer import Answerer
from pumice.bundle import Bundle, open_bundle
from pumice.chat_template import ChatTemplate
from pumice.decoder import Decoder
from pumice.errors import BundleError, UsageError
from pumice.feature_cache import FeatureCache
from pumice.feature_folder import FeatureFolder
from pumice.generation.structured import GrammarCompiler
from pumice.manifest import Manifest
from pumice.model import Model
from pumice.plan import default_feature_cache_bytes, default_prefix_cache_bytes
from pumice.prefix_cache import PrefixCache
from pumice.prompt import PromptBuilder
from pumice.sessions import open_sessions
from pumice.tokens import PromptTokenizer
from pumice.vision import PictureEncoder

_FOLDER_BYTES = 4 * 2**30
"""Of a `feature_cache_dir`."""

_SPECIALS = ("bos_token", "eos_token", "unk_token", "pad_token")


def load(
    bundle: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    low_memory: bool = False,
    prefix_cache_bytes: int | None = None,
    feature_cache_bytes: int | None = None,
    feature_cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a bundle, check every file of it, and make it ready to generate.

    Args:
        bundle: the folder that `pumice export` wrote.
        device: `auto` (CUDA where it is usable, else the CPU), `cpu`, or `cuda`.
        threads: threads to compute with; by default as many as the process may use CPUs.
        low_memory: leave weights in their files, which the system may drop from memory and read again, rather than
            repack them: slower. Quantised weights are then multiplied in another way, and logits differ a little.
        prefix_cache_bytes: memory for beginnings of earlier prompts, which are not read again; 0 switches it off
            (default: 128 MiB, or a quarter of the decoder's weights, but at most a tenth of the available memory).
        feature_cache_bytes: memory for features of earlier pictures; 0 switches it off (default: room for 32 pictures,
            at most 256 MiB).
        feature_cache_dir: a folder where features of pictures are kept as well, from one process to the next: 4 GiB at
            most, shared by any number of processes and bundles.

    Raises:
        BundleError: missing, changed, or not a bundle that this pumice can run.
        DeviceError: `cuda` was asked for and cannot be used.
        UsageError: an unknown device, or a number outside its interval.
    """
    started = time.perf_counter()
    for name, size in (
        ("prefix_cache_bytes", prefix_cache_bytes),
        ("feature_cache_bytes", feature_cache_bytes),
    ):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise UsageError(f"{name} is {size!r}, expected a number of bytes, 0 or more")
    opened = open_bundle(bundle)
    manifest = opened.manifest
    template, tokenizer = _language(opened)
    tokenizer_json = opened.read(manifest.chat.tokenizer_file)
    sessions = open_sessions(opened, device=device, threads=threads, low_memory=low_memory)
    prefix = default_prefix_cache_bytes(manifest) if prefix_cache_bytes is None else prefix_cache_bytes
    kept = default_feature_cache_bytes(manifest) if feature_cache_bytes is None else feature_cache_bytes
    folder = None if feature_cache_dir is None else FeatureFolder(Path(feature_cache_dir), _FOLDER_BYTES)
    answerer = Answerer(
        manifest=manifest,
        decoder=Decoder(sessions, manifest),
        tokenizer=tokenizer,
        builder=PromptBuilder(manifest, tokenizer, template),
        encoder=PictureEncoder(sessions.vision_encoder, manifest, FeatureCache(kept, folder)),
        prefixes=PrefixCache(prefix),
        grammars=GrammarCompiler(tokenizer_json, manifest.tokens.eos_ids),
        load_s=time.perf_counter() - started,
    )
    return Model(opened, answerer)


def _language(bundle: Bundle) -> tuple[ChatTemplate | None, PromptTokenizer]:
    """The chat template, if there is one, and the tokenizer."""
    manifest = bundle.manifest
    variables = {name: text for name in _SPECIALS if (text := getattr(manifest.tokens, name)) is not None}
    template = None
    if manifest.chat.template_file is not None:
        template = ChatTemplate(_text(bundle, manifest.chat.template_file), variables)
        template.start()
    tokenizer = PromptTokenizer(
        bundle.read(manifest.chat.tokenizer_file),
        reserved=[*_picture_tokens(manifest), *variables.values()],
        template=template.source if template else "",
    )
    return template, tokenizer


def _picture_tokens(manifest: Manifest) -> list[str]:
    tokens = manifest.image_tokens
    return [text for text in (tokens.token, tokens.break_token, tokens.end_token) if text is not None]


def _text(bundle: Bundle, name: str) -> str:
    try:
        return bundle.read(name).decode()
    except UnicodeDecodeError:
        raise BundleError(f"{bundle.path(name)} is not UTF-8 text: export the bundle again") from None
