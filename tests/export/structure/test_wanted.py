"""Keys of structures: another for all that tracing sees, and for whoever makes them; the same for all else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.structure import wanted as subject
from pumice.export.structure.wanted import GraphName, key_of, makers, wanted
from pumice.models.config import LlavaConfig, Multipliers, QueryGrowth, VideoConfig
from tests.factory import FAMILIES

UNSEEN = {
    "decoder": {
        "text.inv_freq", "text.rotary_scale", "vision", "vision_feature_layers",
        "vision_feature_select_strategy", "projector_hidden_act", "multimodal_projector_bias",
        "projector_layer_norm_eps", "image_token_id", "image_grid_pinpoints", "max_tiles", "anyres_max",
        "merge", "video",
    },
    "embedding": {
        "text.inv_freq", "text.hidden_act", "text.num_hidden_layers", "vision", "rotated", "merge",
        "tie_word_embeddings", "image_grid_pinpoints",
    },
    "vision_encoder": {
        "text.inv_freq", "text.vocab_size", "text.max_position_embeddings", "text.num_hidden_layers",
        "image_token_id", "max_tiles", "anyres_max", "rotated", "tie_word_embeddings",
    },
}  # fmt: skip
"""Some of what each graph is not made of; all else that is named below it is."""
SEEN = {
    "decoder": {"tie_word_embeddings", "rotated", *(f"text.{name}" for name in (
        "hidden_size", "num_hidden_layers", "max_position_embeddings", "rms_norm_eps", "sliding_windows", "qkv_bias",
        "attention_multiplier", "query_growth", "norm", "norm_weight", "norm_places", "qk_norm", "gated", "softcap",
        "unturned_layers", "head_dim", "rotary_dim", "vocab_size", "hidden_act",
    ))},
    "embedding": {"image_token_id", "video", "text.vocab_size", "text.hidden_size"},
    "vision_encoder": {
        "vision", "vision_feature_layers", "vision_feature_select_strategy", "projector_hidden_act",
        "multimodal_projector_bias", "projector_layer_norm_eps", "image_grid_pinpoints", "merge", "video",
        "text.hidden_size", "text.rms_norm_eps",
    },
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "text.query_growth": QueryGrowth(beta=0.1, every=8192),
    "text.multipliers": Multipliers(table=2.0),
    "text.norm": "layer",
    "text.norm_places": "after",
    "text.qk_norm": "head",
    "text.unturned_layers": frozenset({1}),
    "text.attention_multiplier": 0.5,
    "text.softcap": 30.0,
    "vision_feature_select_strategy": "full",
    "projector_layer_norm_eps": 1e-5,
    "image_grid_pinpoints": ((4, 4),),
    "max_tiles": 3,
    "anyres_max": 9,
    "merge": 2,
    "video": VideoConfig(token_id=7, pooling="max"),
}
"""Where another value cannot be made of the first by its type."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> LlavaConfig:
    folder = FAMILIES["llava-1.5"](tmp_path_factory.mktemp("family") / "checkpoint")
    return read_config(open_checkpoint(folder).config)


@pytest.fixture
def fresh() -> Iterator[None]:
    makers.cache_clear()
    yield
    makers.cache_clear()


def changed(config: LlavaConfig, field: str) -> LlavaConfig:
    if field == "vision":
        return replace(config, vision=replace(config.vision, image_size=config.vision.image_size * 2))
    if field.startswith("text."):
        name = field.removeprefix("text.")
        return replace(config, text=replace(config.text, **{name: _other(field, getattr(config.text, name))}))
    return replace(config, **{field: _other(field, getattr(config, field))})


def _other(field: str, value: Any) -> Any:
    if field in OTHERS:
        assert OTHERS[field] != value
        return OTHERS[field]
    if isinstance(value, bool):
        return not value
    return "relu" if isinstance(value, str) else value[:-1] if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize(
    ("graph", "field"), [(graph, field) for graph, fields in SEEN.items() for field in sorted(fields)]
)
def test_another_value_is_another_structure(graph: GraphName, field: str, config: LlavaConfig) -> None:
    if field == "vision_feature_layers":
        config = replace(config, vision_feature_layers=(2, 1))
    keys = [key_of(wanted(graph, each, torch.float32)) for each in (config, changed(config, field))]
    assert None not in keys
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("graph", "field"), [(graph, field) for graph, fields in UNSEEN.items() for field in sorted(fields)]
)
def test_what_is_not_read_changes_nothing(graph: GraphName, field: str, config: LlavaConfig) -> None:
    keys = [key_of(wanted(graph, each, torch.float32)) for each in (config, changed(config, field))]
    assert keys[0] == keys[1] is not None


def test_graph_type_and_outputs_are_told_apart(config: LlavaConfig) -> None:
    keys = {
        key_of(wanted("decoder", config, torch.float32)),
        key_of(wanted("decoder", config, torch.float16)),
        key_of(wanted("decoder", config, torch.bfloat16)),
        key_of(wanted("decoder", config, torch.float32, greedy=True)),
        key_of(wanted("prefill", config, torch.float32)),
        key_of(wanted("embedding", config, torch.float32)),
        key_of(wanted("vision_encoder", config, torch.float32)),
    }
    assert len(keys - {None}) == 7


def test_the_order_in_a_set_does_not_matter(config: LlavaConfig) -> None:
    sets = [frozenset({8, 0, 16}), frozenset({16, 8, 0}), frozenset([0]) | {16} | {8}]
    texts = [replace(config.text, unturned_layers=layers) for layers in sets]
    assert len({key_of(wanted("decoder", replace(config, text=text), torch.float32)) for text in texts}) == 1


@pytest.mark.usefixtures("fresh")
def test_pumices_own_sources_are_in_the_key(
    config: LlavaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "planted_sources"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(subject, "SOURCES", (*subject.SOURCES, "planted_sources"))
    keys = []
    for change in (
        lambda: None,
        lambda: (package / "inner.py").write_text("a = 2\n"),
        (package / "b.py").touch,
    ):
        change()
        makers.cache_clear()
        keys.append(key_of(wanted("embedding", config, torch.float32)))
    assert len({*keys} - {None}) == 3
    sys.modules.pop("planted_sources", None)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("package", ["torch", "onnx", "onnx-ir", "onnxscript", "onnxsim"])
def test_versions_are_in_the_key(package: str, config: LlavaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = key_of(wanted("embedding", config, torch.float32)), subject.version
    monkeypatch.setattr(subject, "version", lambda name: "0.0.1" if name == package else version(name))
    makers.cache_clear()
    assert key_of(wanted("embedding", config, torch.float32)) != before


@pytest.mark.usefixtures("fresh")
def test_without_sources_there_is_no_key(config: LlavaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SOURCES", ())
    assert key_of(wanted("embedding", config, torch.float32)) is None


def test_every_field_that_a_decoder_has_is_named(config: LlavaConfig) -> None:
    """A new field of a text model is in the decoder's key, until somebody says that tracing does not read it."""
    left = wanted("decoder", config, torch.float32).config.text
    lost = {
        field.name for field in fields(left) if getattr(left, field.name) != getattr(config.text, field.name)
    }
    assert lost <= {"inv_freq", "rotary_scale"}
