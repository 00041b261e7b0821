"""Outliers change activations and nothing else."""

from pathlib import Path

import torch

from pebble.outliers import make_outliers
from tests import oracle

CHECKPOINT = Path(__file__).parents[2] / "pebble" / "checkpoint"


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
