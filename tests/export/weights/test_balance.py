"""The balanced model is the same model: every logit stays; what its matrices read is as even as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.export.weights.balance import ChannelBalance
from pumice.models.config import LlavaConfig
from pumice.models.text_weights import decoder_weights
from pumice.models.weights import Read
from tests import oracle
from tests.export.calibration.test_moments import TEXTS, calibrated, opened
from tests.factory import Text, make_checkpoint

MORE = {
    "one value head": Text(width=64, heads=4, kv_heads=1, mlp=80, attention_bias=True, tied=True),
    "as many value heads": Text(kind="qwen2", width=64, heads=4, kv_heads=4, layers=3),
}


def balanced(
    config: LlavaConfig, read: Read, alpha: float, *, full: bool = False
) -> tuple[LlavaConfig, ChannelBalance]:
    balance = ChannelBalance(config, read, calibrated(config, read, full=full), alpha)
    for layer in range(config.text.num_hidden_layers):
        balance.reach(f"layers.{layer}.input_layernorm.weight")
    return config, balance


@pytest.mark.parametrize("alpha", [0.25, 1.0])
@pytest.mark.parametrize("text", [*TEXTS.values(), *MORE.values()], ids=[*TEXTS, *MORE])
def test_logits_stay(text: Text, alpha: float, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=text)
    plain = oracle.ours(folder)
    other = oracle.ours(folder, change=lambda c, r: (c, balanced(c, r, alpha)[1].read))
    ids, pixels = oracle.prompt(plain.config, images=2)
    expected = plain.logits(ids, pixels)
    torch.testing.assert_close(other.logits(ids, pixels), expected, atol=2e-4, rtol=0)
    assert expected.std() > 1
    changed = [
        name
        for name, value in plain.decoder.named_parameters()
        if not torch.allclose(value, other.decoder.get_parameter(name), rtol=1e-3)
    ]
    assert len(changed) >= 6 * plain.config.text.num_hidden_layers


def test_inputs_or_weights_become_even(tmp_path: Path) -> None:
    """With alpha 1 every channel of a norm's output carries as much; with 0 its weights are as large."""
    folder = make_checkpoint(tmp_path, text=Text(width=64, heads=4, kv_heads=2))
    config, read = opened(folder)
    name = "layers.1.mlp.gate_proj.weight"
    matrices = [f"language_model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")]
    inputs, weights = {}, {}
    for alpha in (0.0, 0.5, 1.0):
        _, balance = balanced(config, read, alpha)
        inputs[alpha] = float(calibrated(config, balance.read).moments(name).log().std())
        rows = torch.cat([balance.read(matrix, 0, config.text.intermediate_size) for matrix in matrices])
        weights[alpha] = float(rows.square().mean(0).log().std())
    assert inputs[1.0] < 1e-2 < inputs[0.5] < inputs[0.0]
    assert weights[0.0] < 3e-2 < weights[0.5] < weights[1.0]  # up's rows are divided, too, by what down reads


def test_outliers_that_a_norm_makes_are_undone(tmp_path: Path) -> None:
    """The norm's channels times a hundred, and the columns behind it divided: the same weights, but for one factor."""
    folder = make_checkpoint(tmp_path, text=Text(width=64, heads=4, kv_heads=2))
    config, read = opened(folder)
    channels = torch.ones(64)
    channels[[3, 17, 40]] = 100.0

    def outliers(name: str, start: int, stop: int) -> torch.Tensor:
        rows = read(name, start, stop).float()
        if name.endswith("input_layernorm.weight"):
            return rows * channels[start:stop]
        return rows / channels if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) else rows

    _, plain = balanced(config, read, 0.25)
    _, other = balanced(config, outliers, 0.25)
    for part in ("input_layernorm", "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
        name = f"language_model.layers.1.{part}.weight"
        ratios = other.read(name, 0, 8) / plain.read(name, 0, 8)
        torch.testing.assert_close(ratios, ratios.flatten()[0].expand(ratios.shape), rtol=1e-4, atol=0)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_moments_are_those_of_the_balanced_model(full: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=MORE["one value head"])
    config, read = opened(folder)
    balance = ChannelBalance(config, read, calibrated(config, read, full=full), 0.5)
    found = {}
    for name in decoder_weights(config):
        if name.startswith("layers.") and name.endswith(".weight") and "layernorm" not in name:
            balance.reach(name)
            found[name] = balance.moments(name)
    again = calibrated(config, balance.read, full=full)
    for layer in range(config.text.num_hidden_layers):
        ours, theirs = balance.cache_ranges(layer), calibrated(config, balance.read).cache_ranges(layer)
        torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-4, rtol=2e-3)
        torch.testing.assert_close(ours.values, theirs.values, atol=1e-4, rtol=2e-3)
    assert len(found) == 5 * config.text.num_hidden_layers
    for name, moments in found.items():
        torch.testing.assert_close(moments, again.moments(name), atol=1e-4, rtol=2e-3)


def test_a_dead_channel_stays_finite(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=Text(width=64))
    config, read = opened(folder)

    def dead(name: str, start: int, stop: int) -> torch.Tensor:
        rows = read(name, start, stop).clone()
        if name.endswith("layers.0.input_layernorm.weight"):
            rows[5 - start] = 0
        return rows

    _, balance = balanced(config, dead, 0.5)
    assert balance.scales("layers.0.self_attn.qkv.weight").isfinite().all()
    assert balance.read("language_model.layers.0.self_attn.q_proj.weight", 0, 4).isfinite().all()
