"""Prompts with two pictures: pairs of scenes that differ in one shape, and questions that need both pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from pebble.questions import a, mention
from pebble.records import Turn
from pebble.scenes import COLOURS, Scene, Shape, in_reading_order, sample_scene, sample_shape

MOST = 4  # shapes in either picture of a pair

WHICH = ("Which picture has {thing}?", "Which image has {thing}?", "In which picture is there {thing}?")
MORE = ("Which picture has more shapes?", "Which image has more shapes?")
DIFFERENCE = (
    "What is the difference between the two pictures?",
    "What differs between the pictures?",
    "What is different in the second picture?",
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two scenes; `difference` says what sets the second apart, where they are almost the same."""

    first: Scene
    second: Scene
    difference: str | None = None


def sample_pair(rng: Random, *, held_out: bool = False) -> Pair:
    """A scene and an edited copy: one shape recoloured, taken away or added. Both are held out, or neither."""
    while True:
        first = sample_scene(rng, held_out=held_out, most=MOST)
        edited = rng.choice((_recoloured, _without_one, _with_one_more))(first, rng)
        if edited is not None and edited.second.held_out == held_out:
            return edited


def _recoloured(scene: Scene, rng: Random) -> Pair | None:
    old = rng.choice(scene.shapes)
    new = replace(old, colour=rng.choice([colour for colour in COLOURS if colour != old.colour]))
    if scene.find(kind=new.kind, colour=new.colour):
        return None
    others = [shape for shape in scene.shapes if shape is not old]
    return _pair(scene, [*others, new], rng, f"The {old.kind} is {new.colour} instead of {old.colour}.")


def _without_one(scene: Scene, rng: Random) -> Pair | None:
    if len(scene.shapes) == 1:
        return None
    gone = rng.choice(scene.shapes)
    others = [shape for shape in scene.shapes if shape is not gone]
    return _pair(scene, others, rng, f"The {gone.name} is missing.")


def _with_one_more(scene: Scene, rng: Random) -> Pair | None:
    if len(scene.shapes) == MOST:
        return None
    free = sorted(set(range(9)) - {shape.row * 3 + shape.column for shape in scene.shapes})
    new = sample_shape(rng, rng.choice(free), {shape.name for shape in scene.shapes})
    return _pair(scene, [*scene.shapes, new], rng, f"There is a new {new.name}.")


def _pair(first: Scene, shapes: list[Shape], rng: Random, difference: str) -> Pair:
    second = replace(first, shapes=in_reading_order(shapes), noise_seed=rng.getrandbits(32))
    return Pair(first=first, second=second, difference=difference)


def which_picture(pair: Pair, rng: Random) -> Turn | None:
    answer, (scene, other) = rng.choice(
        (("first", (pair.first, pair.second)), ("second", (pair.second, pair.first)))
    )
    names = {shape.name for shape in other.shapes}
    only_here = [shape for shape in scene.shapes if shape.name not in names]
    if not only_here:
        return None
    chosen = rng.choice(only_here)
    by_kind = rng.random() < 0.4 and not other.find(kind=chosen.kind)
    thing = a(chosen.kind if by_kind else mention(chosen, rng))
    return Turn(question=rng.choice(WHICH).format(thing=thing), answer=f"The {answer} one.")


def more_shapes(pair: Pair, rng: Random) -> Turn | None:
    first, second = len(pair.first.shapes), len(pair.second.shapes)
    if first == second:
        return None
    return Turn(question=rng.choice(MORE), answer=f"The {'first' if first > second else 'second'} one.")


def difference(pair: Pair, rng: Random) -> Turn | None:
    return Turn(question=rng.choice(DIFFERENCE), answer=pair.difference) if pair.difference else None


AskPair = Callable[[Pair, Random], Turn | None]
PAIR_ASKS: dict[str, AskPair] = {
    "two pictures: which": which_picture,
    "two pictures: more": more_shapes,
    "two pictures: difference": difference,
}
