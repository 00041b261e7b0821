"""Second moments are those of the activations in transformers' own model, layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.export.calibration.embeds import calibration_embeds
from pumice.export.calibration.moments import Calibration
from pumice.export.checkpoint.folder import open_checkpoint
from pumice.export.config.llava import read_config
from pumice.export.weights.multipliers import fold_multipliers
from pumice.export.weights.rotation import Rotation, rotate
from pumice.models.config import LlavaConfig
from pumice.models.weights import Read
from tests import oracle
from tests.factory import Text, make_checkpoint
from tests.factory.families import MINISTRAL_ROPE

TOKENS = [[1, *range(3, 40)], [1, *range(60, 97)]]


def opened(folder: Path) -> tuple[LlavaConfig, Read]:
    checkpoint = open_checkpoint(folder)
    return fold_multipliers(read_config(checkpoint.config), checkpoint.read_canonical)


def calibrated(config: LlavaConfig, read: Read, *, full: bool = False) -> Calibration:
    """By words alone."""
    nothing = torch.zeros(0, config.vision.num_channels, 1, 1)
    return Calibration(config, read, lambda: calibration_embeds(config, read, TOKENS, nothing), full=full)


def inputs_of_transformers(folder: Path) -> dict[str, torch.Tensor]:
    """What is multiplied with each matrix of the layers, [tokens, K], by our parameters' names."""
    model, seen = oracle.theirs(folder), {}
    ours = {"self_attn.q_proj": "self_attn.qkv"}
    for number, layer in enumerate(model.model.language_model.layers):
        for part in (
            "self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"
        ):  # fmt: skip
            name = f"layers.{number}.{ours.get(part, part)}.weight"

            def keep(_module: object, given: tuple[torch.Tensor], name: str = name) -> None:
                seen[name] = given[0].flatten(0, -2).clone()

            layer.get_submodule(part).register_forward_pre_hook(keep)
    with torch.no_grad():
        model(input_ids=torch.tensor(TOKENS))
    return seen


TEXTS = {
    "grouped heads": Text(width=64, heads=4, kv_heads=2, mlp=96, layers=3),
    "biases": Text(width=60, heads=6, kv_heads=3, tied=True, attention_bias=True, mlp_bias=True),
    "sliding window": Text(kind="mistral", width=64, heads=4, kv_heads=2, layers=2, sliding_window=8),
    "growing queries": Text(kind="ministral3", head_dim=16, rope_scaling=MINISTRAL_ROPE),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_moments_are_those_of_transformers(text: Text, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=text)
    config, read = opened(folder)
    diagonal, full = calibrated(config, read), calibrated(config, read, full=True)
    for name, x in inputs_of_transformers(folder).items():
        torch.testing.assert_close(diagonal.moments(name), x.square().mean(0), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(full.moments(name), x.T @ x / len(x), atol=1e-4, rtol=1e-3)


def test_rows_in_groups_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path, text=TEXTS["grouped heads"])
    whole = calibrated(*opened(folder), full=True).moments("layers.2.mlp.down_proj.weight")
    monkeypatch.setattr("pumice.export.calibration.moments.ACTIVATION_VALUES", 1)
    apart = calibrated(*opened(folder), full=True).moments("layers.2.mlp.down_proj.weight")
    torch.testing.assert_close(apart, whole, atol=1e-5, rtol=1e-3)


def test_a_turned_model_has_turned_inputs(tmp_path: Path) -> None:
    """The stream's channels are spread by the rotation; what attention gives stays."""
    folder = make_checkpoint(tmp_path, text=Text(width=64, heads=4, kv_heads=2))
    config, read = opened(folder)
    plain, turned = (
        calibrated(config, read, full=True),
        calibrated(*rotate(config, read), full=True),
    )
    attention = "layers.0.self_attn.o_proj.weight"
    normed = inputs_of_transformers(folder)["layers.0.self_attn.qkv.weight"]
    weight = read("language_model.layers.0.input_layernorm.weight", 0, 64).float()
    expected = Rotation(64).turn(normed / weight)
    found = turned.moments("layers.0.self_attn.qkv.weight")
    torch.testing.assert_close(found, expected.T @ expected / len(expected), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(turned.moments(attention), plain.moments(attention), atol=1e-4, rtol=1e-3)


def test_memory_holds_one_layer(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=Text(layers=3))
    calibration = calibrated(*opened(folder))
    calibration.moments("layers.0.mlp.up_proj.weight")
    calibration.moments("layers.2.mlp.up_proj.weight")
    with pytest.raises(KeyError):
        calibration.moments("layers.1.mlp.up_proj.weight")


def test_whole_matrices_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pumice.models.weights", "pumice.export.weights.parameters"):
        monkeypatch.setattr(f"{module}.PIECE_VALUES", 1 << 10)
    folder = make_checkpoint(tmp_path, text=Text(width=64, mlp=256, vocab_size=500))
    config, read = opened(folder)
    largest = 0

    def watched(name: str, start: int, stop: int) -> torch.Tensor:
        nonlocal largest
        rows = read(name, start, stop)
        largest = max(largest, rows.numel())
        return rows

    calibration = calibrated(config, watched)
    calibration.moments("layers.0.mlp.down_proj.weight")
    assert 0 < largest <= 1 << 10
