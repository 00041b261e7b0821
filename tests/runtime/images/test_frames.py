"""A video's frames as pixels. Oracle: torch's own functions, which transformers' video processors compute with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pumice.errors import BundleError, VideoError
from pumice.images.antialias import resized
from pumice.images.clips import join, kept
from pumice.images.frames import clip_pixels
from pumice.manifest import Clip, VideoProcessing
from tests.video_oracle import TorchVideos

SPEC = VideoProcessing(
    token="<video>",
    token_id=5,
    tokens_per_frame=4,
    pooling="bilinear",
    newline=True,
    resize_shortest_edge=None,
    resize_to=(28, 28),
    crop_to=None,
    rescale_factor=1 / 255,
    mean=(0.5, 0.4, 0.3),
    std=(0.5, 0.25, 0.2),
)
CLIP = Clip(size=(28, 28), side=3, frames=1, per_frame=4, pooling="bilinear", newline=True)
SIDES = st.integers(1, 130)


def frame(seed: int, height: int, width: int) -> np.ndarray:
    """Noise; every third of black and white alone, where a filter goes beyond 0 … 255."""
    rng = np.random.default_rng(seed)
    levels = (
        rng.integers(0, 2, (height, width, 3)) * 255 if seed % 3 else rng.integers(0, 256, (height, width, 3))
    )
    return levels.astype(np.uint8)


@settings(max_examples=150)
@given(seed=st.integers(0, 99), size=st.tuples(SIDES, SIDES), result=st.tuples(SIDES, SIDES))
def test_resizing_is_torch_s(seed: int, size: tuple[int, int], result: tuple[int, int]) -> None:
    image = frame(seed, *size)
    given_1CHW = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    expected = torch.nn.functional.interpolate(
        given_1CHW, size=result, mode="bicubic", align_corners=False, antialias=True
    )
    assert np.array_equal(resized(image, result), expected[0].permute(1, 2, 0).numpy())


@settings(max_examples=60)
@given(size=st.tuples(SIDES, SIDES), edge=st.sampled_from([None, 20, 28, 33]), crop=st.booleans())
def test_frames_are_what_the_video_processors_make(
    size: tuple[int, int], edge: int | None, crop: bool
) -> None:
    crop_to = (28, 28) if crop or edge is not None else None
    spec = replace(SPEC, resize_shortest_edge=edge, resize_to=None if edge else (28, 28), crop_to=crop_to)
    oracle = TorchVideos(
        size=edge or (28, 28),
        crop=28 if crop_to else None,
        mean=list(SPEC.mean or ()),
        std=list(SPEC.std or ()),
    )
    frames = [frame(1, *size), frame(3, *size)]
    found = clip_pixels(frames, replace(CLIP, frames=2), spec)
    assert np.array_equal(found, oracle.pixels(frames).numpy())


def test_levels_that_are_not_rescaled_or_not_normalised() -> None:
    image = frame(3, 28, 28)
    plain = clip_pixels([image], CLIP, replace(SPEC, mean=None, std=None))[0]
    assert np.array_equal(plain, (torch.from_numpy(image).permute(2, 0, 1) * (1 / 255)).numpy())
    raw = clip_pixels([image], CLIP, replace(SPEC, rescale_factor=None))[0]
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (SPEC.mean, SPEC.std))
    assert np.array_equal(raw, (image.transpose(2, 0, 1).astype(np.float32) - mean) / std)


def test_steps_that_make_another_size_and_frames_that_are_too_thin() -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.video turns a frame into 20 × 20, but image\.size says 28 × 28"
    ):
        clip_pixels([frame(0, 9, 9)], CLIP, replace(SPEC, resize_to=(20, 20)))
    thin = replace(SPEC, resize_to=None, resize_shortest_edge=28, crop_to=(28, 28))
    with pytest.raises(VideoError, match="a frame of 60000 × 1 is too long for its width"):
        clip_pixels([np.zeros((1, 60_000, 3), np.uint8)], CLIP, thin)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 27])
def test_frames_features_are_pooled_as_torch_interpolates(side: int) -> None:
    less = -(-side // 2)
    clip = replace(CLIP, side=side, frames=2, per_frame=less**2)
    parts = [np.random.default_rng(n).standard_normal((side**2 + 1, 6), np.float32) for n in range(2)]
    grids = (
        torch.from_numpy(np.stack([part[:-1] for part in parts])).view(2, side, side, 6).permute(0, 3, 1, 2)
    )
    pooled = torch.nn.functional.interpolate(grids, size=(less, less), mode="bilinear")
    expected = pooled.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    found = join(clip, [kept(clip, part) for part in parts])
    assert found.shape == (2 * less**2 + 1, 6)
    assert np.abs(found[:-1] - expected).max() < 1e-6
    assert np.array_equal(found[-1], parts[-1][-1])


def test_features_that_the_encoder_pooled_stand_behind_a_frame_s_own() -> None:
    clip = Clip(size=(28, 28), side=4, frames=2, per_frame=4, pooling="encoder", newline=False)
    parts = [np.arange(21 * 2, dtype=np.float32).reshape(21, 2) + 100 * n for n in range(2)]
    assert np.array_equal(
        join(clip, [kept(clip, part) for part in parts]), np.concatenate([part[16:20] for part in parts])
    )
