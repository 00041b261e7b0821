"""Oracle: transformers' LLaVA-NeXT, its image processor, its counting processor and its packing. Tolerance: none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from pumice.errors import BundleError
from pumice.images import tiles
from pumice.images.layout import (
    arrays,
    cut,
    described,
    feature_count,
    image_text,
    is_shape,
    is_size,
    join,
    token_count,
)
from pumice.manifest import ImageProcessing, TileGrids, Tiles
from pumice.manifest.images import ImageTokens, layout_of
from tests.runtime.images.test_preprocess import noise

TILE, SIDE = 8, 4
PINPOINTS = ((8, 16), (16, 8), (16, 16), (24, 8), (8, 24))
RELEASED = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
GRANITE = tuple(
    (384 * rows, 384 * columns) for rows in range(1, 11) for columns in range(1, 11) if rows * columns <= 10
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDES = st.one_of(
    st.integers(1, 60), st.integers(1, 3000), st.sampled_from([1, 335, 336, 337, 671, 672, 673, 5000])
)
SIZES = st.tuples(SIDES, SIDES)


def layout(pinpoints: Any, tile: int, side: int) -> Tiles:
    return Tiles(size=(tile, tile), side=side, grids=tuple((h // tile, w // tile) for h, w in pinpoints))


LAYOUT = layout(PINPOINTS, TILE, SIDE)
SPEC = ImageProcessing(
    convert_rgb=True,
    resize_shortest_edge=None,
    resize_to=(TILE, TILE),
    resample=3,
    crop_to=None,
    rescale_factor=1 / 255,
    mean=MEAN,
    std=STD,
    size=(TILE, TILE),
    tiles=TileGrids(pinpoints=PINPOINTS),
)
KINDS = {"small": (PINPOINTS, TILE, SIDE), "clip": (RELEASED, 336, 24), "granite": (GRANITE, 384, 27)}
PINPOINT_LISTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12)


def counted(size: tuple[int, int], pinpoints: Any, tile: int, side: int) -> int:
    """transformers' count, by the methods of its processor."""
    processor: Any = object.__new__(LlavaNextProcessor)
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=[list(pair) for pair in pinpoints])
    processor.patch_size, processor.num_additional_image_tokens = tile // side, 0
    return processor._get_number_of_features(*size, tile, tile)


def packed(
    parts: torch.Tensor, newline: torch.Tensor, size: tuple[int, int], pinpoints: Any, tile: int, side: int
) -> Any:
    """transformers' packing, by the method of its model."""
    vision = SimpleNamespace(image_size=tile, patch_size=tile // side)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=[list(pair) for pair in pinpoints])
    model: Any = SimpleNamespace(config=config)
    features, _ = LlavaNextModel.pack_image_features(model, [parts], torch.tensor([size]), "default", newline)
    return features[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3500, deadline=None)
@given(size=SIZES)
def test_tokens_of_released_grids(kind: str, size: tuple[int, int]) -> None:
    made = layout(*KINDS[kind])
    assert feature_count(made, size) == token_count(made, size) == counted(size, *KINDS[kind])
    assert feature_count(made, size) <= made.most_tokens


@settings(max_examples=2000, deadline=None)
@given(size=SIZES, grids=PINPOINT_LISTS)
def test_tokens_of_any_grids(size: tuple[int, int], grids: list[tuple[int, int]]) -> None:
    pinpoints = [(rows * TILE, columns * TILE) for rows, columns in grids]
    assert feature_count(layout(pinpoints, TILE, SIDE), size) == counted(size, pinpoints, TILE, SIDE)


@settings(max_examples=300, deadline=None)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), mode=st.sampled_from(["RGB", "L", "RGBA"]))
def test_pixels(size: tuple[int, int], mode: str) -> None:
    check_pixels(noise(mode, size[1], size[0]))


@pytest.mark.parametrize(
    "size",
    [(40, 40), (20, 60), (60, 20), (1, 500), (500, 1), (16, 16), (16, 17), (15, 16), (300, 200), (1, 1)],
)
def test_pixels_of_notable_sizes(size: tuple[int, int]) -> None:
    check_pixels(noise("RGB", size[1], size[0]))


def check_pixels(image: Image.Image) -> None:
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE},
        crop_size={"height": TILE, "width": TILE},
        image_grid_pinpoints=[list(pair) for pair in PINPOINTS],
    )
    rgb = image.convert("RGB") if image.mode != "RGBA" else on_white(image)
    expected = processor(images=[rgb], return_tensors="np")
    values, size = cut(LAYOUT, image, SPEC)
    assert size == tuple(expected["image_sizes"][0])
    assert np.array_equal(values, expected["pixel_values"][0])
    assert is_size(LAYOUT, size)
    assert is_shape(LAYOUT, values.shape, size)
    assert len(arrays(values)) == len(values)


def on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image).convert("RGB")


@pytest.mark.parametrize("kind", ["small", "clip"])
@settings(max_examples=300, deadline=None)
@given(size=SIZES, seed=st.integers(0, 9))
def test_features_are_joined_as_transformers_packs_them(kind: str, size: tuple[int, int], seed: int) -> None:
    made = layout(*KINDS[kind])
    rows, columns = tiles.grid_of(made, size)
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(1 + rows * columns, made.side**2, 3, generator=generator)
    newline = torch.randn(3, generator=generator)
    ours = [torch.cat([part, newline[None]]).numpy() for part in parts]
    expected = packed(parts, newline, size, *KINDS[kind])
    assert np.array_equal(join(made, size, ours), expected)
    assert len(expected) == feature_count(made, size)


def test_the_text_has_a_token_for_each_feature() -> None:
    assert image_text(LAYOUT, "<i>", (20, 30)) == "<i>" * feature_count(LAYOUT, (20, 30))


def test_how_it_is_described() -> None:
    text = described(layout(*KINDS["clip"]))
    assert text == "whole and in up to 4 tiles of 336 × 336 pixels, 576 to 2,928 tokens each"


def test_the_largest_image() -> None:
    clip = layout(*KINDS["clip"])
    assert clip.most_tokens == feature_count(clip, (672, 672)) == 2928
    assert clip.most_rows == 577


@pytest.mark.parametrize("size", [(0, 5), (5,), (5, 5.0), [5, 5], (True, 5), None])
def test_what_is_no_size(size: object) -> None:
    assert not is_size(LAYOUT, size)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (5, 3, 8, 9), (5, 1, 8, 8)])
def test_other_shapes_than_the_size_makes(shape: tuple[int, ...]) -> None:
    assert not is_shape(LAYOUT, shape, (16, 16))
    assert is_shape(LAYOUT, (5, 3, 8, 8), (16, 16))


TOKENS = ImageTokens(token="<i>", token_id=3, per_image=SIDE**2)


def test_the_manifest_s_fields() -> None:
    assert layout_of(SPEC, TOKENS, "m") == LAYOUT


@pytest.mark.parametrize(("per_image", "pinpoints"), [(15, PINPOINTS), (16, ((8, 16), (16, 12)))])
def test_fields_that_do_not_fit(per_image: int, pinpoints: Any) -> None:
    from dataclasses import replace

    spec, tokens = replace(SPEC, tiles=TileGrids(pinpoints=pinpoints)), replace(TOKENS, per_image=per_image)
    with pytest.raises(BundleError, match="multiples of a tile"):
        layout_of(spec, tokens, "m")
