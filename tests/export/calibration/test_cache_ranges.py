"""Ranges of keys and values: no position turns a key out of them, and steps cover them. Oracle: plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pumice.export.calibration.cache_ranges import (
    KEY_HEADROOM,
    VALUE_HEADROOM,
    CacheRanges,
    ranges_of,
    steps_of,
)
from pumice.models.fused import _rotate
from tests.export.calibration.test_moments import TEXTS, calibrated, opened
from tests.factory import Text, make_checkpoint


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_no_position_turns_a_key_out_of_its_range() -> None:
    keys, frequencies = noise(2, 3, 5, 8), torch.tensor([1.0, 0.3, 0.01, 0.0])
    found = ranges_of(keys, keys, frequencies != 0)
    for position in range(0, 4000, 13):
        angles = position * frequencies
        turned = _rotate(keys.transpose(1, 2), angles.cos(), angles.sin())
        assert (turned.abs().amax((0, 1)) <= found.keys * 1.00001).all()
    assert (found.keys[:, [3, 7]] == keys[..., [3, 7]].abs().amax((0, 2))).all()
    assert (found.keys[:, :3] == found.keys[:, 4:7]).all()


def test_what_nothing_turns_has_its_own_range() -> None:
    keys, values = noise(2, 3, 5, 8), noise(3, 2, 3, 5, 8)[1]
    found = ranges_of(keys, values, None)
    assert (found.keys == keys.abs().amax((0, 2))).all()
    assert (found.values == values.abs().amax((0, 2))).all()
    both = found.joined(ranges_of(values, keys, None))
    assert (both.keys == torch.maximum(found.keys, found.values)).all()


def test_steps_cover_ranges_and_are_never_zero() -> None:
    largest = torch.tensor([[3.0, 0.0], [1e-9, 7.0]])
    found = steps_of(CacheRanges(keys=largest, values=largest))
    for steps, headroom in zip(found, (KEY_HEADROOM, VALUE_HEADROOM), strict=True):
        assert steps.shape == (1, 2, 1, 2)
        assert (steps > 0).all()
        assert (127 * steps[0, :, 0] >= largest * headroom * 0.99).all()
    others = steps_of(CacheRanges(keys=largest * (1 + 1e-6), values=largest))
    assert (found[0] == others[0]).all()  # sums in another order
    assert all((s > 0).all() for s in steps_of(CacheRanges(keys=torch.zeros(1, 2), values=torch.zeros(1, 2))))


@pytest.mark.parametrize("name", ["grouped heads", "growing queries"])
def test_ranges_are_of_what_a_layer_caches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers' keys and values, whatever is asked for first, and however rows are grouped."""
    folder = make_checkpoint(tmp_path, text=TEXTS[name])
    config, read = opened(folder)
    calibration = calibrated(config, read)
    last = calibration.cache_ranges(config.text.num_hidden_layers - 1)
    assert last.keys.shape == (config.text.num_key_value_heads, config.text.head_dim)
    first = calibrated(config, read).cache_ranges(0)
    torch.testing.assert_close(calibration.cache_ranges(0).keys, first.keys, atol=1e-6, rtol=1e-5)
    monkeypatch.setattr("pumice.export.calibration.moments.ACTIVATION_VALUES", 1)
    apart = calibrated(config, read).cache_ranges(config.text.num_hidden_layers - 1)
    torch.testing.assert_close(apart.values, last.values, atol=1e-5, rtol=1e-4)


def test_layers_that_turn_nothing(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, text=Text(width=64, heads=4, kv_heads=2, layers=2))
    config, read = opened(folder)
    found = calibrated(config, read).cache_ranges(0).keys
    half = config.text.head_dim // 2
    assert (found[:, :half] == found[:, half:]).all()
