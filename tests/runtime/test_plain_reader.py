"""docs/bundle-format.md says all that a reader needs: one written from it gets pumice's ids, pixels and tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import pumice
from pumice.images.preprocess import preprocess
from pumice.machine.cpu import saturates
from pumice.manifest import ImageProcessing
from tests.runtime.plain_reader import PlainReader

pytestmark = pytest.mark.export_extra
HELD_OUT = Path(__file__).parents[2] / "pebble" / "heldout"
QUESTIONS = [
    ("What is this?", ["stop-sign.png"]),
    ("What is left of the blue square?", ["pair-00-a.png"]),
    ("Which of the two has more squares?", ["pair-01-a.png", "pair-01-b.png"]),
]


@pytest.fixture(params=["fp32", "int4", "int8 cache"])
def folder(
    request: pytest.FixtureRequest,
    pebble_bundle: Path,
    pebble_bundle_int4: Path,
    pebble_bundle_int8_cache: Path,
) -> Path:
    folders = {"fp32": pebble_bundle, "int4": pebble_bundle_int4, "int8 cache": pebble_bundle_int8_cache}
    return folders[request.param]


def test_ids_pixels_and_tokens_are_pumices(folder: Path) -> None:
    reader = PlainReader(folder, exact=saturates())
    model = pumice.load(folder, device="cpu", optimized=False)
    for question, names in QUESTIONS:
        images = [Image.open(HELD_OUT / name).convert("RGB") for name in names]
        prepared = model.prepare(question, images)
        ids, pixels = reader.ids(question, len(images)), [reader.pixels(image) for image in images]
        assert ids == prepared.input_ids[0].tolist()
        np.testing.assert_array_equal(np.stack(pixels), prepared.pixel_values)
        answer = model.generate(question, images, max_new_tokens=24, do_sample=False)
        found = reader.answer(ids, pixels)
        assert [next(found) for _ in answer.token_ids] == list(answer.token_ids)


IMAGE = ImageProcessing(
    resize_shortest_edge=120,
    resize_to=None,
    resample=3,
    crop_to=(120, 120),
    rescale_factor=1 / 255,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    size=(120, 120),
)


@pytest.fixture(scope="module")
def reader(pebble_bundle: Path) -> PlainReader:
    return PlainReader(pebble_bundle, exact=False)


@pytest.mark.parametrize(
    "size", [(217, 403), (403, 217), (31, 200), (90, 61), (121, 120), (119, 240), (7, 9)]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resize_shortest_edge": None, "resize_to": (120, 120)},
        {"resize_shortest_edge": None, "resize_to": (131, 57), "resample": 2},
        {"resize_shortest_edge": 95, "rescale_factor": None},
        {"mean": None, "std": None, "resample": 2},
    ],
    ids=str,
)
def test_pixels_of_every_step(changes: dict[str, Any], size: tuple[int, int], reader: PlainReader) -> None:
    reader.manifest["image"] = json.loads(msgspec.json.encode(replace(IMAGE, **changes)))
    values = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    (expected,) = preprocess([values], replace(IMAGE, **changes))
    np.testing.assert_array_equal(reader.pixels(Image.fromarray(values)), expected)
