"""LLaVA-OneVision's images: shrunk grids, and squares of images beside others.

Oracle: transformers' image processor, its counting processor and its packing. Tolerance: none for pixels and counts,
5e-7 for features that are interpolated.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from pumice.errors import BundleError, ImageError, UsageError
from pumice.images import passes, tiles
from pumice.images.layout import (
    among,
    arrays,
    common_size,
    cut,
    described,
    feature_count,
    image_text,
    is_shape,
    is_size,
    join,
    sizes_text,
    token_count,
)
from pumice.images.prepared import ImageFeatures, given_among, model_key, prepare_image, revalidated
from pumice.images.shrink import shrunk_lines
from pumice.manifest import Manifest, Squares, TileGrids, Tiles, encode_manifest
from pumice.manifest.images import ImageTokens, layout_of
from tests.runtime.images.test_preprocess import noise
from tests.runtime.images.test_tiles import MEAN, SIZES, SPEC, STD, on_white
from tests.runtime.manifest.test_file import as_json, read
from tests.runtime.prompt.test_builder import manifest

TILE, SIDE = 8, 4
SMALL = tuple((TILE * rows, TILE * columns) for rows in range(1, 5) for columns in range(1, 5))
RELEASED = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))
FILL = tuple(int(channel * 255) for channel in MEAN)
SPEC_OF_BOTH = replace(SPEC, tiles=TileGrids(pinpoints=SMALL, shrink_to=3, square_fill=FILL))
TOKENS = ImageTokens(token="<i>", token_id=3, per_image=SIDE**2)
GRIDS = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=12)


def layout(pinpoints: Any, tile: int, side: int, shrink_to: int) -> Tiles:
    grids = tuple((height // tile, width // tile) for height, width in pinpoints)
    beside = Squares(size=(tile, tile), tokens=side**2 + 1, fill=FILL)
    return Tiles(size=(tile, tile), side=side, grids=grids, shrink_to=shrink_to, beside=beside)


KINDS = {"small": (SMALL, TILE, SIDE, 3), "released": (RELEASED, 384, 27, 9)}
LAYOUT = layout(*KINDS["small"])
SQUARES = among(LAYOUT, alone=False)


def counted(size: tuple[int, int], pinpoints: Any, tile: int, side: int, shrink_to: int) -> int:
    """transformers' count, by the methods of its processor."""
    processor: Any = object.__new__(LlavaOnevisionProcessor)
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=[list(pair) for pair in pinpoints])
    processor.num_image_tokens, processor.vision_aspect_ratio = side**2, f"anyres_max_{shrink_to}"
    return processor._get_number_of_features(*size, tile, tile)


def packed(parts: torch.Tensor, newline: torch.Tensor, size: tuple[int, int], *kind: Any) -> Any:
    """transformers' packing, by the method of its model."""
    pinpoints, tile, side, shrink_to = kind
    vision = SimpleNamespace(image_size=tile, patch_size=tile // side)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=[list(pair) for pair in pinpoints])
    model: Any = SimpleNamespace(config=config)
    features, _ = LlavaOnevisionModel.pack_image_features(
        model, [parts], torch.tensor([size]), newline, f"anyres_max_{shrink_to}"
    )
    return features[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4000, deadline=None)
@given(size=SIZES)
def test_tokens_of_grids(kind: str, size: tuple[int, int]) -> None:
    made = layout(*KINDS[kind])
    assert feature_count(made, size) == token_count(made, size) == counted(size, *KINDS[kind])
    assert feature_count(made, size) <= made.most_tokens


@settings(max_examples=3000, deadline=None)
@given(size=SIZES, grids=GRIDS, shrink_to=st.integers(1, 9), side=st.integers(1, 9))
def test_tokens_of_any_grids(
    size: tuple[int, int], grids: list[tuple[int, int]], shrink_to: int, side: int
) -> None:
    kind = [(rows * 2 * side, columns * 2 * side) for rows, columns in grids], 2 * side, side, shrink_to
    assert feature_count(layout(*kind), size) == counted(size, *kind) <= layout(*kind).most_tokens


def test_the_largest_image() -> None:
    made = layout(*KINDS["released"])
    assert feature_count(made, (1407, 1152)) == 8765  # no other was found with more, of all of some widths
    assert made.most_tokens == 8829  # of a grid with borders that no image leaves
    assert made.most_rows == 730
    assert (made.most_arrays, LAYOUT.most_arrays, SQUARES.most_arrays) == (37, 17, 1)
    assert described(made).endswith("730 tokens each beside others")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(size=SIZES, seed=st.integers(0, 9))
def test_features_are_joined_as_transformers_packs_them(kind: str, size: tuple[int, int], seed: int) -> None:
    made = layout(*KINDS[kind])
    if tiles.is_lost(made, size):
        return
    rows, columns = tiles.grid_of(made, size)
    generator = torch.Generator().manual_seed(seed)
    parts = up_to_one(generator, 1 + rows * columns, made.side**2, 3)
    newline = up_to_one(generator, 3)
    ours = join(made, size, [torch.cat([part, newline[None]]).numpy() for part in parts])
    expected = packed(parts, newline, size, *KINDS[kind])
    assert ours.shape == expected.shape == (feature_count(made, size), 3)
    if tiles.lines_of(made, size) == tiles._covered(made, size):
        assert np.array_equal(ours, expected)
    assert np.abs(ours - expected).max() <= 5e-7


def test_large_grids_are_shrunk_in_that_test() -> None:
    made = layout(*KINDS["released"])
    assert tiles._covered(made, (2304, 2304)) == (162, 162)
    assert tiles.lines_of(made, (2304, 2304)) == (81, 81)


def up_to_one(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Values from −1 to 1: the two orders of rounding then differ by seven halves of 2⁻²⁴ at most, less than 5e-7."""
    return torch.rand(*shape, generator=generator) * 2 - 1


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 400), share=st.floats(0.01, 1))
def test_places_and_shares_are_torchs_to_the_bit(length: int, share: float) -> None:
    """A grid of one feature a line, in each of whose channels one line is 1: what comes out are the shares."""
    shorter = max(1, int(length * share))
    impulses = torch.eye(length)
    expected = torch.nn.functional.interpolate(impulses[None, :, :, None], (shorter, 1), mode="bilinear")
    out = np.empty((shorter, 1, length), np.float32)
    shrunk_lines(lambda line: impulses[line].numpy()[None], (length, 1), out)
    assert np.array_equal(out[:, 0].T, expected[0, :, :, 0].numpy())


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 170), st.integers(1, 170)),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 9),
)
def test_shrinking_is_torchs(size: tuple[int, int], shares: tuple[float, float], seed: int) -> None:
    grid = up_to_one(torch.Generator().manual_seed(seed), *size, 4)
    smaller = [max(1, int(length * share)) for length, share in zip(size, shares, strict=True)]
    expected = torch.nn.functional.interpolate(
        grid.permute(2, 0, 1)[None].contiguous(), smaller, mode="bilinear"
    )
    out = np.empty((*smaller, 4), np.float32)
    shrunk_lines(lambda line: grid[line].numpy(), size, out)
    assert np.abs(out - expected[0].permute(1, 2, 0).numpy()).max() <= 5e-7


def transformers_pixels(images: list[Image.Image], mean: Any = MEAN) -> Any:
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": TILE, "width": TILE},
        image_mean=list(mean),
        image_std=list(STD),
        image_grid_pinpoints=[list(pair) for pair in SMALL],
    )
    rgb = [on_white(image) if image.mode == "RGBA" else image.convert("RGB") for image in images]
    return processor(images=[rgb], return_tensors="np")


@settings(max_examples=300, deadline=None)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), mode=st.sampled_from(["RGB", "L", "RGBA"]))
def test_pixels(size: tuple[int, int], mode: str) -> None:
    check_pixels(noise(mode, *size))


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (300, 200), (8, 8), (7, 8), (1, 1), (4, 4), (9, 8)])
@pytest.mark.parametrize("band", [1, passes.BAND])
def test_pixels_of_notable_sizes(size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BAND", band)
    check_pixels(noise("RGB", *size))


def check_pixels(image: Image.Image) -> None:
    """Alone, and beside another image."""
    for images, made in (([image], LAYOUT), ([image, image], SQUARES)):
        expected = transformers_pixels(images)
        values, size = cut(made, image, SPEC_OF_BOTH)
        assert size == tuple(expected["image_sizes"][0])
        assert np.array_equal(values, expected["pixel_values"][0])
        assert is_size(made, size)
        assert is_shape(made, values.shape, size)
        assert len(arrays(values)) == len(values)


def test_turned_photos_are_padded_upright() -> None:
    image = noise("RGB", 40, 10)
    for turn in Image.Transpose:
        made = passes.squared_rgb(image, turn, FILL, (TILE, TILE), 3)
        assert made == passes.squared_rgb(image.transpose(turn), None, FILL, (TILE, TILE), 3)


def test_what_a_square_is() -> None:
    assert isinstance(SQUARES, Squares)
    assert among(LAYOUT, alone=True) is LAYOUT
    assert feature_count(SQUARES, (5, 900)) == token_count(SQUARES, (5, 900)) == SQUARES.most_tokens == 17
    assert image_text(SQUARES, "i", (5, 900)) == "i" * 17
    assert common_size(SQUARES) is None
    assert not is_size(SQUARES, (0, 5))
    assert sizes_text(SQUARES) == "(height, width)"
    assert described(SQUARES) == "within a square of 8 × 8 pixels, 17 tokens each"
    features = np.ones((17, 3), np.float32)
    assert join(SQUARES, (5, 900), [features]) is features


def test_the_manifest_s_fields() -> None:
    assert layout_of(SPEC_OF_BOTH, TOKENS, "m") == LAYOUT
    made = layout_of(replace(SPEC, tiles=TileGrids(pinpoints=SMALL)), TOKENS, "m")
    assert made == replace(LAYOUT, shrink_to=None, beside=None)
    written = encode_manifest(replace(MANIFEST, image=replace(SPEC, tiles=TileGrids(pinpoints=SMALL))))
    assert b"shrink_to" not in written
    assert b"square_fill" not in written
    assert read(as_json(MANIFEST)).layout == LAYOUT


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"shrink_to": 0}, "shrink_to"),
        ({"square_fill": [1, 2]}, "square_fill"),
        ({"square_fill": [1, 2, 256]}, "square_fill"),
    ],
)
def test_fields_that_make_no_sense(change: dict[str, Any], place: str) -> None:
    raw = as_json(MANIFEST)
    raw["image"]["tiles"] |= change
    with pytest.raises(BundleError, match=place):
        read(raw)


def test_an_image_of_which_shrinking_leaves_nothing() -> None:
    long = layout([(TILE, 40 * TILE)], TILE, SIDE, 1)
    size = (1, 40 * TILE * 3)
    image = Image.new("RGB", size[::-1])
    covered = tiles._covered(long, size)
    if 0 in covered:  # its grid is as thin as a line
        long = layout([(TILE, 40 * TILE)], TILE, 1, 1)
    assert tiles.is_lost(long, size)
    with pytest.raises(ImageError, match="960 × 1 is too thin: nothing is left of its shrunk features"):
        cut(long, image, SPEC_OF_BOTH)


MANIFEST: Manifest = replace(
    manifest(3),
    schema_version=3,
    image=SPEC_OF_BOTH,
    image_tokens=replace(manifest(3).image_tokens, per_image=16),
)
KEY = model_key(MANIFEST)


def test_an_image_that_is_alone_carries_how_it_is_beside_others() -> None:
    image = noise("RGB", 30, 20)
    found, beside = prepare_image(image, MANIFEST, KEY), prepare_image(image, MANIFEST, KEY, alone=False)
    assert found.alone
    assert not beside.alone
    assert found.beside is not None
    assert found.beside.digest == beside.digest != found.digest
    assert np.array_equal(found.beside.values, beside.values)
    assert (found.tokens, beside.tokens) == (feature_count(LAYOUT, (20, 30)), 17)
    assert given_among(found, MANIFEST, alone=True) is found
    assert given_among(found, MANIFEST, alone=False) is found.beside
    assert given_among(beside, MANIFEST, alone=False) is beside
    for form in (found, beside):
        assert revalidated(form, MANIFEST, KEY) is form
    with pytest.raises(UsageError, match=r"prepared beside others was given alone.*: give the image itself"):
        given_among(beside, MANIFEST, alone=True)
    with pytest.raises(UsageError, match="prepared alone was given beside others"):
        given_among(replace(found, beside=None), MANIFEST, alone=False)


def test_a_form_that_is_not_the_image_s_is_refused() -> None:
    found = prepare_image(noise("RGB", 30, 20), MANIFEST, KEY)
    with pytest.raises(UsageError, match="was changed"):
        revalidated(replace(found, alone=False), MANIFEST, KEY)
    assert found.beside is not None
    with pytest.raises(UsageError, match="was changed"):
        revalidated(replace(found.beside, alone=True), MANIFEST, KEY)


def test_features_keep_both_forms_when_pickled() -> None:
    found = prepare_image(noise("RGB", 30, 20), MANIFEST, KEY)
    values = np.ones((found.tokens, MANIFEST.decoder.hidden_size), np.float32)
    features = ImageFeatures(
        features=values, size=found.size, digest=found.digest, model=KEY, beside=found.beside
    )
    again = pickle.loads(pickle.dumps(features))
    assert revalidated(again, MANIFEST, KEY).tokens == found.tokens
    beside = given_among(again, MANIFEST, alone=False)
    assert revalidated(beside, MANIFEST, KEY).tokens == 17


def test_other_models_have_one_form() -> None:
    other = manifest(3)
    found = prepare_image(noise("RGB", 30, 20), other, model_key(other), alone=False)
    assert found.alone
    assert found.beside is None
    assert given_among(found, other, alone=False) is found is given_among(found, other, alone=True)
