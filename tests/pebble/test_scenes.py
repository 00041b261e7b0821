"""Scenes are decided by their seed, and answers agree with an independent reading of the scene."""

from __future__ import annotations

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pebble.pairs import PAIR_ASKS, sample_pair
from pebble.questions import ASKS, NUMBERS, SIDE_WORDS, SIDES
from pebble.scenes import BACKGROUNDS, COLOURS, KINDS, Scene, render, sample_scene

seeds = st.integers(0, 2**32)


def named(scene: Scene, thing: str) -> list[int]:
    """Indices of shapes that a name like `red circle`, `circle`, `stop sign` or `red shape` fits."""
    words = {"stop sign": "red octagon"}.get(thing, thing).split()
    return [
        i
        for i, shape in enumerate(scene.shapes)
        if all(word in (shape.kind, shape.colour, "shape", "shapes") for word in words)
    ]


@given(seeds, st.booleans())
def test_scenes_are_decided_by_their_seed(seed: int, held_out: bool) -> None:
    scene = sample_scene(Random(seed), held_out=held_out)
    assert scene == sample_scene(Random(seed), held_out=held_out)
    assert scene.held_out == held_out
    assert 1 <= len(scene.shapes) <= 5
    assert len({shape.name for shape in scene.shapes}) == len(scene.shapes)
    assert len({(shape.row, shape.column) for shape in scene.shapes}) == len(scene.shapes)
    for shape in scene.shapes:
        assert shape.column / 3 <= shape.x - shape.radius
        assert shape.x + shape.radius <= (shape.column + 1) / 3
        assert shape.row / 3 <= shape.y - shape.radius
        assert shape.y + shape.radius <= (shape.row + 1) / 3


def test_images_are_decided_by_their_scene() -> None:
    for seed in range(6):
        scene = sample_scene(Random(seed))
        image = np.asarray(render(scene, 96))
        assert np.array_equal(image, np.asarray(render(scene, 96)))
        corner = image[:2, :2].mean((0, 1))
        assert np.abs(corner - BACKGROUNDS[scene.background]).max() < 4 * scene.noise + 1
        middle = image[int(scene.shapes[0].y * 96), int(scene.shapes[0].x * 96)]
        colour = np.array(COLOURS[scene.shapes[0].colour]) + scene.shapes[0].tint
        assert np.abs(middle - colour).max() < 4 * scene.noise + 3


@given(seeds)
def test_counts(seed: int) -> None:
    rng = Random(seed)
    scene = sample_scene(rng)
    turn = ASKS["count"](scene, rng)
    assert turn is not None
    thing = re.search(r"(?:How many|Count the) (.*?)(?: are there| do you see)?[?.]", turn.question)
    assert thing is not None
    singular = {"crosses": "cross"}.get(thing[1], thing[1].removesuffix("s"))
    assert turn.answer == f"{NUMBERS[len(named(scene, singular))]}."


@given(seeds)
def test_existence(seed: int) -> None:
    rng = Random(seed)
    scene = sample_scene(rng)
    turn = ASKS["exists"](scene, rng)
    assert turn is not None
    thing = re.search(r"(?:Is there|Can you see) an? (.*?)(?: in this picture)?\?", turn.question)
    assert thing is not None
    assert turn.answer == ("Yes." if named(scene, thing[1]) else "No.")


@given(seeds)
def test_places(seed: int) -> None:
    rng = Random(seed)
    scene = sample_scene(rng)
    turn = ASKS["where"](scene, rng)
    assert turn is not None
    place = r"at the (?:top|bottom)(?: left| right)?|on the (?:left|right)|in the center"
    said = re.fullmatch(rf"The (.*) is ({place})\.", turn.answer)
    assert said is not None
    (index,) = named(scene, said[1])
    shape = scene.shapes[index]
    assert ("top" in said[2]) == (shape.y < 1 / 3)
    assert ("bottom" in said[2]) == (shape.y > 2 / 3)
    assert ("left" in said[2]) == (shape.x < 1 / 3)
    assert ("right" in said[2]) == (shape.x > 2 / 3)


@given(seeds)
def test_comparisons(seed: int) -> None:
    rng = Random(seed)
    scene = sample_scene(rng)
    turn = ASKS["compare"](scene, rng)
    if turn is None:
        return
    words = "|".join(word for side in SIDES for word in sorted(SIDE_WORDS[side], key=len, reverse=True))
    asked = re.fullmatch(rf"Is the (.*?) ({words}) the (.*)\?", turn.question)
    assert asked is not None
    one, other = (scene.shapes[named(scene, asked[i])[0]] for i in (1, 3))
    side = next(side for side in SIDES if asked[2] in SIDE_WORDS[side])
    right = {
        "left of": one.x < other.x,
        "right of": one.x > other.x,
        "above": one.y < other.y,
        "below": one.y > other.y,
    }[side]
    assert turn.answer == ("Yes." if right else "No.")


@given(seeds)
def test_descriptions_name_every_shape_in_reading_order(seed: int) -> None:
    rng = Random(seed)
    scene = sample_scene(rng)
    turn = ASKS["describe"](scene, rng)
    assert turn is not None
    names = re.findall(rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(KINDS)})", turn.answer)
    assert names == [shape.name for shape in sorted(scene.shapes, key=lambda s: (int(s.y * 3), s.x))]


@given(seeds)
def test_pairs_differ_in_one_shape(seed: int) -> None:
    rng = Random(seed)
    pair = sample_pair(rng)
    first, second = ({shape.layout for shape in scene.shapes} for scene in (pair.first, pair.second))
    assert 1 <= len(first ^ second) <= 2
    turn = PAIR_ASKS["two pictures: more"](pair, rng)
    if turn is not None:
        assert turn.answer == f"The {'first' if len(first) > len(second) else 'second'} one."


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str) -> None:
    scenes = (sample_scene(Random(seed)) for seed in range(200))
    assert any(scene.find(kind=kind) for scene in scenes)
