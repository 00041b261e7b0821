"""Outliers change activations and nothing else."""

from pathlib import Path

import pytest
import torch

from pebble.outliers import make_outliers, scale_norms
from tests import oracle

CHECKPOINT = Path(__file__).parents[2] / "pebble" / "checkpoint"
NORMS = ("input_layernorm", "post_attention_layernorm")


def test_the_same_function_with_larger_activations(tmp_path: Path) -> None:
    plain, scaled = oracle.ours(CHECKPOINT), oracle.ours(make_outliers(CHECKPOINT, tmp_path / "o", 100.0))
    ids, pixels = oracle.prompt(plain.config)
    torch.testing.assert_close(scaled.logits(ids, pixels), plain.logits(ids, pixels), atol=2e-3, rtol=1e-4)
    for name, norm in plain.decoder.named_parameters():
        if "norm" in name:
            ratio = dict(scaled.decoder.named_parameters())[name] / norm
            assert (ratio > 50).sum() == 6
    for name, norm in plain.vision_encoder.named_parameters():
        if ".layer_norm" in name:
            changed = dict(scaled.vision_encoder.named_parameters())[name] != norm
            assert changed.sum() == 6


def test_a_tied_head_keeps_its_norm() -> None:
    tensors = _text_alone()
    scaled = {name: tensor.clone() for name, tensor in tensors.items()}
    scale_norms(scaled, 30.0)
    changed = {name for name in tensors if not torch.equal(scaled[name], tensors[name])}
    assert changed == set(tensors) - {"model.norm.weight", "model.embed_tokens.weight"}


def test_a_head_of_its_own_is_divided() -> None:
    tensors = {"model.norm.weight": torch.ones(8), "lm_head.weight": torch.ones(5, 8)}
    scale_norms(tensors, 30.0)
    torch.testing.assert_close(tensors["lm_head.weight"] * tensors["model.norm.weight"], torch.ones(5, 8))
    assert (tensors["model.norm.weight"] == 30).sum() == 6


def test_missing_matrices_are_not_passed_over() -> None:
    tensors = _text_alone()
    del tensors["model.layers.0.mlp.gate_proj.weight"]
    with pytest.raises(KeyError, match="gate_proj"):
        scale_norms(tensors, 30.0)


def _text_alone() -> dict[str, torch.Tensor]:
    """A layer of a language model whose head is its table."""
    names = [f"self_attn.{part}_proj" for part in "qkv"] + ["mlp.gate_proj", "mlp.up_proj"]
    return {
        "model.embed_tokens.weight": torch.ones(5, 8),
        **{f"model.layers.0.{name}.weight": torch.ones(4, 8) for name in names},
        **{f"model.layers.0.{name}.weight": torch.ones(8) for name in NORMS},
        "model.norm.weight": torch.ones(8),
    }
