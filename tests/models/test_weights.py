"""The table of names: every layout reads the same, and nothing is left over unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.errors import CheckpointError
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.models.config import LlavaConfig
from pumice.models.decoder import Decoder
from pumice.models.embedding import EmbeddingMerge
from pumice.models.tensor_names import check_names
from pumice.models.text_weights import decoder_weights, embedding_weights
from pumice.models.vision import VisionEncoder
from pumice.models.vision_weights import vision_encoder_weights
from tests import oracle
from tests.factory import FAMILIES, Layout, Text, make_checkpoint


@pytest.fixture
def config_and_shapes(tmp_path: Path) -> tuple[LlavaConfig, dict[str, tuple[int, ...]]]:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path))
    return read_config(checkpoint.config), checkpoint.shapes()


@pytest.mark.parametrize("family", ["llava-1.5", "llava-interleave", "vip-llava", "pixtral", "mistral-small"])
@pytest.mark.parametrize("layout", ["saved", "new"])
def test_layouts_read_the_same(family: str, layout: Layout, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path / layout, layout=layout)
    released = FAMILIES[family](tmp_path / "reference", layout="released")
    ids, pixels = oracle.prompt(oracle.ours(folder).config)
    logits = oracle.ours(folder).logits(ids, pixels)
    assert torch.equal(logits, oracle.ours(released).logits(ids, pixels))


def check_table(config: LlavaConfig) -> None:
    for module, table in (
        (VisionEncoder(config), vision_encoder_weights(config)),
        (EmbeddingMerge(config), embedding_weights(config)),
        (Decoder(config), decoder_weights(config)),
    ):
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        assert {name: weight.shape for name, weight in table.items()} == shapes


def test_table_has_every_parameter_in_its_shape(tmp_path: Path) -> None:
    text = Text(attention_bias=True, mlp_bias=True, tied=True)
    check_table(read_config(open_checkpoint(make_checkpoint(tmp_path, text=text)).config))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_fit(family: str, tmp_path: Path) -> None:
    """Table and modules agree; every tensor of the checkpoint is read, or known as one that never is."""
    checkpoint = open_checkpoint(FAMILIES[family](tmp_path))
    config = read_config(checkpoint.config)
    check_table(config)
    tensors = checkpoint.shapes()
    check_names(config, tensors)
    for surplus in ("vision_tower.ln_post.weight", "multi_modal_projector.patch_merger.merging_layer.bias"):
        with pytest.raises(CheckpointError, match="not understood"):
            check_names(config, tensors | {surplus: (1,)})


def test_complete_checkpoint_fits(config_and_shapes: tuple[LlavaConfig, dict[str, tuple[int, ...]]]) -> None:
    check_names(*config_and_shapes)


def test_missing_tensors_are_listed(
    config_and_shapes: tuple[LlavaConfig, dict[str, tuple[int, ...]]],
) -> None:
    config, shapes = config_and_shapes
    del shapes["language_model.norm.weight"], shapes["multi_modal_projector.linear_1.bias"]
    with pytest.raises(CheckpointError, match=r"missing language_model\.norm\.weight.*") as caught:
        check_names(config, shapes | {})
    assert "multi_modal_projector.linear_1.bias" in str(caught.value)


def test_surplus_tensors_are_listed(
    config_and_shapes: tuple[LlavaConfig, dict[str, tuple[int, ...]]],
) -> None:
    config, shapes = config_and_shapes
    surplus = {
        "language_model.layers.0.self_attn.q_proj.bias": (64,),
        "vision_tower.encoder.layers.9.x": (1,),
    }
    with pytest.raises(CheckpointError, match=r"not understood: .*q_proj\.bias, vision_tower") as caught:
        check_names(config, shapes | surplus)
    assert "missing" not in str(caught.value)


@pytest.mark.parametrize(
    "harmless",
    [
        "vision_tower.embeddings.position_ids",
        "language_model.layers.0.self_attn.rotary_emb.inv_freq",
    ],
)
def test_buffers_are_ignored(
    harmless: str, config_and_shapes: tuple[LlavaConfig, dict[str, tuple[int, ...]]]
) -> None:
    config, shapes = config_and_shapes
    check_names(config, shapes | {harmless: (3,)})


def test_wrong_shape_is_named(config_and_shapes: tuple[LlavaConfig, dict[str, tuple[int, ...]]]) -> None:
    config, shapes = config_and_shapes
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape \[63\].*\[64\]"):
        check_names(config, shapes | {"language_model.norm.weight": (63,)})
