"""Manifests of every version: older ones load as before, and half a description of images is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pumice.errors import BundleError, SchemaVersionError, UsageError
from pumice.manifest import (
    SCHEMA_VERSION,
    Manifest,
    TileGrids,
    decode_manifest,
    encode_manifest,
    version_for,
)
from tests.runtime.images.test_layout import pixtral_manifest
from tests.runtime.prompt.test_builder import manifest

NEW_IN_2 = {
    "image": ("resize_longest_edge", "multiple_of"),
    "image_tokens": ("patch_size", "break_token", "break_token_id", "end_token", "end_token_id"),
}


def as_json(made: Manifest, **parts: dict[str, Any]) -> Any:
    """The manifest as JSON, with its files listed, and some fields of its parts changed."""
    raw = json.loads(encode_manifest(made))
    raw["files"] = {name: {"size": 0, "sha256": "0" * 64} for name in ("g", "t")}
    return {**raw, **{part: {**raw[part], **changes} for part, changes in parts.items()}}


def read(raw: Any) -> Manifest:
    return decode_manifest(json.dumps(raw).encode(), "manifest.json")


@pytest.mark.parametrize("made", [manifest(3), pixtral_manifest([3, 4, 5])])
def test_manifests_come_back_as_they_were_written(made: Manifest) -> None:
    assert read(as_json(made)).image == made.image
    assert read(as_json(made)).image_tokens == made.image_tokens


def test_a_manifest_of_version_1_lacks_the_newer_fields() -> None:
    raw = as_json(manifest(3))
    for part, names in NEW_IN_2.items():
        for name in names:
            assert raw[part].pop(name) is None
    assert read(raw).image == manifest(3).image
    assert read(raw).image_tokens == manifest(3).image_tokens


@pytest.mark.parametrize("made", [manifest(3), pixtral_manifest([3, 4, 5])])
def test_whether_images_become_rgb_is_written_for_old_readers_and_missed_by_none(made: Manifest) -> None:
    raw = as_json(made)
    assert raw["image"].pop("convert_rgb") is True
    assert read(raw).image == made.image


def test_bundles_are_written_for_the_oldest_reader_that_gets_them_right() -> None:
    assert version_for(manifest(3).image) == 1
    assert version_for(pixtral_manifest([3, 4, 5]).image) == 2
    tiled = replace(manifest(3).image, tiles=TileGrids(pinpoints=((28, 56),)))
    assert version_for(tiled) == SCHEMA_VERSION == 3
    with pytest.raises(SchemaVersionError, match="reads up to 3"):
        read({**as_json(manifest(3)), "schema_version": 4})


def test_older_readers_get_merged_patches_right() -> None:
    """The field says nothing that images or prompts are made by, and is not written where nothing is merged."""
    plain = pixtral_manifest([3, 4, 5])
    assert "merge_size" not in as_json(plain)["image_tokens"]
    merged = read(as_json(plain, image_tokens={"merge_size": 2}))
    assert merged.layout == replace(plain.layout, merge=2)
    assert (merged.layout.most_tokens, version_for(merged.image)) == (plain.layout.most_tokens, 2)
    with pytest.raises(BundleError, match="merge_size"):
        read(as_json(plain, image_tokens={"merge_size": 0}))


def test_versions_before_tiles_do_not_have_the_field() -> None:
    assert "tiles" not in as_json(manifest(3))["image"]
    with pytest.raises(BundleError, match="tiles"):
        read({**as_json(manifest(3)), "image": {**as_json(manifest(3))["image"], "tiles": None}})


VIDEO = {
    "token": "<video>",
    "token_id": 9,
    "tokens_per_frame": 1,
    "pooling": "bilinear",
    "newline": True,
    "resize_shortest_edge": None,
    "resize_to": [28, 28],
    "crop_to": None,
    "rescale_factor": 1 / 255,
    "mean": None,
    "std": None,
}


def test_videos_come_with_tiles_and_their_tokens_are_those_of_the_pooling() -> None:
    whole = as_json(manifest(3))
    assert "video" not in whole
    tiled = as_json(manifest(3), image={"tiles": {"pinpoints": [[28, 56]]}}) | {"schema_version": 3}
    found = read({**tiled, "video": VIDEO})
    assert found.clip(3).tokens == 4
    assert found.feature_token_ids == (3, 9)
    assert read(json.loads(encode_manifest(found))) == found
    with pytest.raises(BundleError, match=r"video without image\.tiles"):
        read({**whole, "video": VIDEO})
    with pytest.raises(BundleError, match=r"video\.tokens_per_frame 2, expected 1 of 2 × 2 features"):
        read({**tiled, "video": {**VIDEO, "tokens_per_frame": 2}})
    with pytest.raises(UsageError, match="takes images alone"):
        read(tiled).clip(3)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("image", "resize_longest_edge", None),
        ("image", "multiple_of", None),
        ("image", "size", [8, 8]),
        ("image_tokens", "patch_size", None),
        ("image_tokens", "break_token", None),
        ("image_tokens", "end_token", None),
        ("image_tokens", "per_image", 4),
    ],
)
def test_half_of_what_varied_images_need_is_refused(part: str, field: str, value: object) -> None:
    with pytest.raises(BundleError, match="how many tokens an image has"):
        read(as_json(pixtral_manifest([3, 4, 5]), **{part: {field: value}}))


def test_half_of_what_images_of_one_size_need_is_refused() -> None:
    for changes in ({"image": {"size": None}}, {"image_tokens": {"per_image": None}}):
        with pytest.raises(BundleError, match="how many tokens an image has"):
            read(as_json(manifest(3), **changes))
