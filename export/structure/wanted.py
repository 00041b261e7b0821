"""What a structure depends on, and the key that it is kept under.

Enters: which graph, the model's config, the float type. Leaves: the same, with no more of the config than tracing may
see; and a digest of all of it, of pumice's own sources that make structures, and of the packages that they call.

The tracer is given the config that the key was made of: what the key does not tell apart, the tracer cannot either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, Literal

from pumice.models.config import LlavaConfig, TextConfig, VideoConfig, VisionConfig

if TYPE_CHECKING:
    import torch

GraphName = Literal["vision_encoder", "embedding", "decoder", "prefill"]
SOURCES = ("pumice.models", "pumice.export.trace", "pumice.export.passes", "pumice.export.structure")
"""Packages of pumice's whose files are digested, beside the names that graphs' inputs have."""
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "optimum", "transformers", "sympy", "numpy")

_NO_VISION = VisionConfig(
    tower="clip",
    hidden_size=0,
    intermediate_size=0,
    num_hidden_layers=0,
    num_attention_heads=0,
    num_channels=0,
    image_size=0,
    patch_size=1,
    hidden_act="",
    layer_norm_eps=0.0,
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One graph of a model; `config` is what is left of the model's. `greedy`: a decoder that has that output."""

    graph: GraphName
    config: LlavaConfig
    dtype: torch.dtype
    greedy: bool = False


def wanted(graph: GraphName, config: LlavaConfig, dtype: torch.dtype, *, greedy: bool = False) -> Wanted:
    """Leave of the config what the graph is made of."""
    if graph == "vision_encoder":
        left = _of_vision(config)
    elif graph == "embedding":
        left = _of_embedding(config)
    else:
        left = _of_decoder(config)
    return Wanted(graph=graph, config=left, dtype=dtype, greedy=greedy)


def key_of(wanted: Wanted) -> str | None:
    """The digest in hexadecimal; None where pumice's sources or a package's version cannot be told."""
    made_by = makers()
    if made_by is None:
        return None
    fields = {
        "graph": wanted.graph,
        "config": dataclasses.asdict(wanted.config),
        "dtype": str(wanted.dtype),
        "greedy": wanted.greedy,
        "made by": made_by,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=_in_order).encode()).hexdigest()


@cache
def makers() -> tuple[str, ...] | None:
    """Who makes structures: a digest of pumice's own files, and versions of Python and of the packages."""
    digest, found = hashlib.sha256(), 0
    for package in SOURCES:
        for name, file in _python_files(files(package), package):
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            found += 1
    if not found:
        return None
    digest.update(files("pumice.manifest").joinpath("tensors.py").read_bytes())
    try:
        versions = [f"{package} {version(package)}" for package in PACKAGES]
    except PackageNotFoundError:
        return None
    return (digest.hexdigest(), f"python {platform.python_version()}", *versions)


def _python_files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}/{entry.name}"
        if entry.is_file() and entry.name.endswith(".py"):
            yield name, entry
        elif entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry, name)


def _in_order(value: Any) -> list[int]:
    """A set of layers, for JSON."""
    assert isinstance(value, frozenset), value
    return sorted(value)


def _of_decoder(config: LlavaConfig) -> LlavaConfig:
    """The text model, but for its rotary caches, which are weights."""
    return replace(
        _without_images(config),
        text=replace(config.text, inv_freq=(), rotary_scale=1.0),
        tie_word_embeddings=config.tie_word_embeddings,
        rotated=config.rotated,
    )


def _of_embedding(config: LlavaConfig) -> LlavaConfig:
    """The table, and which ids stand for images and videos."""
    video = config.video and VideoConfig(token_id=config.video.token_id, pooling="bilinear")
    text = replace(_no_text(config.text), vocab_size=config.text.vocab_size)
    return replace(_without_images(config), text=text, image_token_id=config.image_token_id, video=video)


def _of_vision(config: LlavaConfig) -> LlavaConfig:
    """The tower as far as it is read, the projector, and whether rows of features end in one of their own."""
    return replace(
        config,
        vision=replace(config.vision, num_hidden_layers=config.vision_layers),
        text=replace(_no_text(config.text), rms_norm_eps=config.text.rms_norm_eps),
        image_token_id=0,
        tie_word_embeddings=False,
        image_grid_pinpoints=None if config.image_grid_pinpoints is None else (),
        max_tiles=None,
        anyres_max=None,
        video=config.video and replace(config.video, token_id=0),
        rotated=False,
    )


def _without_images(config: LlavaConfig) -> LlavaConfig:
    return LlavaConfig(
        vision=_NO_VISION,
        text=config.text,
        vision_feature_layers=(),
        vision_feature_select_strategy="full",
        projector_hidden_act="",
        multimodal_projector_bias=False,
        projector_layer_norm_eps=None,
        image_token_id=0,
        tie_word_embeddings=False,
    )


def _no_text(text: TextConfig) -> TextConfig:
    """Its width alone."""
    return TextConfig(
        hidden_size=text.hidden_size,
        intermediate_size=0,
        num_hidden_layers=0,
        num_attention_heads=0,
        num_key_value_heads=0,
        head_dim=0,
        rotary_dim=0,
        vocab_size=0,
        max_position_embeddings=0,
        hidden_act="",
        rms_norm_eps=0.0,
        inv_freq=(),
        rotary_scale=1.0,
        sliding_windows=(),
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
    )
