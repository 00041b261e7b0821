"""Questions about one scene: a `Scene` and a random generator in, `Turn`s with exactly one right answer out.

A kind of question is a function `(scene, rng) -> Turn | None`; None where the scene allows no unambiguous question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from pebble.records import Turn
from pebble.scenes import COLOURS, KINDS, PLACES, Scene, Shape

Ask = Callable[[Scene, Random], Turn | None]

NUMBERS = ("Zero", "One", "Two", "Three", "Four", "Five")
PLURALS = {kind: "crosses" if kind == "cross" else f"{kind}s" for kind in KINDS}
SHOWN = (
    "What is shown in this picture?",
    "What is in this image?",
    "What can you see in this picture?",
    "What do you see?",
)
DESCRIBE = (
    "Describe this picture in more detail.",
    "Describe this image in detail.",
    "Describe the picture in detail.",
)
COLOUR = (
    "What color is the {kind}?",
    "What colour is the {kind}?",
    "Which color does the {kind} have?",
)
SHAPE = ("Which shape is {colour}?", "What is {colour} in this picture?", "What shape is the {colour} one?")
COUNT = ("How many {things} are there?", "How many {things} do you see?", "Count the {things}.")
EXISTS = ("Is there {thing}?", "Is there {thing} in this picture?", "Can you see {thing}?")
WHERE = ("Where is the {thing}?", "Where in the picture is the {thing}?", "Where can I find the {thing}?")
AT = ("What is {place}?", "What is {place} of the picture?", "Which shape is {place}?")
SIZE = ("Is the {thing} large or small?", "How big is the {thing}?", "What size is the {thing}?")
SIDE = (
    "What is {side} the {thing}?",
    "Which shape is {side} the {thing}?",
    "What do you see {side} the {thing}?",
)
COMPARE = ("Is the {one} {side} the {other}?",)
SIDES = ("left of", "right of", "above", "below")
SIDE_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}


def shown(scene: Scene, rng: Random) -> Turn | None:
    return Turn(question=rng.choice(SHOWN), answer=sentence(listed([a(s.name) for s in scene.shapes])))


def describe(scene: Scene, rng: Random) -> Turn | None:
    parts = [a(f"{shape.size} {shape.name}") + f" {shape.place}" for shape in scene.shapes]
    return Turn(question=rng.choice(DESCRIBE), answer=sentence(listed(parts)))


def colour(scene: Scene, rng: Random) -> Turn | None:
    shape = rng.choice(scene.shapes)
    if len(scene.find(kind=shape.kind)) > 1:
        return None
    return Turn(question=rng.choice(COLOUR).format(kind=shape.kind), answer=sentence(shape.colour))


def shape(scene: Scene, rng: Random) -> Turn | None:
    chosen = rng.choice(scene.shapes)
    if len(scene.find(colour=chosen.colour)) > 1:
        return None
    return Turn(question=rng.choice(SHAPE).format(colour=chosen.colour), answer=f"The {chosen.kind}.")


def count(scene: Scene, rng: Random) -> Turn | None:
    topic = rng.randrange(3)
    if topic == 0:
        things, number = "shapes", len(scene.shapes)
    elif topic == 1:
        kind = _often_present([shape.kind for shape in scene.shapes], KINDS, rng)
        things, number = PLURALS[kind], len(scene.find(kind=kind))
    else:
        hue = _often_present([shape.colour for shape in scene.shapes], tuple(COLOURS), rng)
        things, number = f"{hue} shapes", len(scene.find(colour=hue))
    return Turn(question=rng.choice(COUNT).format(things=things), answer=f"{NUMBERS[number]}.")


def exists(scene: Scene, rng: Random) -> Turn | None:
    """Half of the answers are yes; most of the noes name a colour and a kind that are both there, but apart."""
    yes, there = rng.random() < 0.5, rng.choice(scene.shapes)
    names = {shape.name for shape in scene.shapes}
    topic = rng.randrange(4)
    if topic == 0:
        kinds = [kind for kind in KINDS if not scene.find(kind=kind)]
        thing = a(there.kind if yes else rng.choice(kinds))
    elif topic == 1:
        hues = [hue for hue in COLOURS if not scene.find(colour=hue)]
        thing = a(f"{there.colour if yes else rng.choice(hues)} shape")
    elif yes:
        thing = a(mention(there, rng))
    else:
        thing = a(_absent(scene, names, rng))
    return Turn(question=rng.choice(EXISTS).format(thing=thing), answer=yes_or_no(yes))


def _absent(scene: Scene, names: set[str], rng: Random) -> str:
    while True:
        hue = _often_present([shape.colour for shape in scene.shapes], tuple(COLOURS), rng)
        kind = _often_present([shape.kind for shape in scene.shapes], KINDS, rng)
        if rng.random() < 0.05:
            hue, kind = "red", "octagon"
        if f"{hue} {kind}" not in names:
            return (
                "stop sign" if (hue, kind) == ("red", "octagon") and rng.random() < 0.4 else f"{hue} {kind}"
            )


def where(scene: Scene, rng: Random) -> Turn | None:
    chosen = rng.choice(scene.shapes)
    thing = reference(scene, chosen, rng)
    return Turn(question=rng.choice(WHERE).format(thing=thing), answer=f"The {thing} is {chosen.place}.")


def at(scene: Scene, rng: Random) -> Turn | None:
    chosen = rng.choice(scene.shapes)
    if rng.random() < 0.8:
        return Turn(question=rng.choice(AT).format(place=chosen.place), answer=sentence(a(chosen.name)))
    free = {place for row in PLACES for place in row} - {shape.place for shape in scene.shapes}
    return Turn(question=rng.choice(AT).format(place=rng.choice(sorted(free))), answer="Nothing.")


def size(scene: Scene, rng: Random) -> Turn | None:
    chosen = rng.choice(scene.shapes)
    return Turn(
        question=rng.choice(SIZE).format(thing=reference(scene, chosen, rng)), answer=sentence(chosen.size)
    )


def side(scene: Scene, rng: Random) -> Turn | None:
    """What is left of / right of / above / below a shape: asked only where one shape is, or none."""
    chosen, direction = rng.choice(scene.shapes), rng.choice(SIDES)
    found = beyond(scene, chosen, direction)
    if len(scene.shapes) == 1 or len(found) > 1 or (not found and rng.random() < 0.6):
        return None
    question = rng.choice(SIDE).format(
        side=rng.choice(SIDE_WORDS[direction]), thing=reference(scene, chosen, rng)
    )
    return Turn(question=question, answer=sentence(a(found[0].name)) if found else "Nothing.")


def compare(scene: Scene, rng: Random) -> Turn | None:
    """Is one shape left of / right of / above / below another: asked only of shapes that differ along that axis."""
    if len(scene.shapes) < 2:
        return None
    one, other = rng.sample(scene.shapes, 2)
    direction = rng.choice(SIDES)
    if not (differs := _along(one, direction) - _along(other, direction)):
        return None
    question = rng.choice(COMPARE).format(
        one=mention(one, rng), side=rng.choice(SIDE_WORDS[direction]), other=mention(other, rng)
    )
    return Turn(question=question, answer=yes_or_no(differs < 0))


def beyond(scene: Scene, shape: Shape, direction: str) -> list[Shape]:
    """The shapes whose row or column lies in `direction` of `shape`'s."""
    return [other for other in scene.shapes if _along(other, direction) < _along(shape, direction)]


def _along(shape: Shape, direction: str) -> int:
    """Grid coordinate that is smaller the further `shape` lies in `direction`."""
    return {"left of": shape.column, "right of": -shape.column, "above": shape.row, "below": -shape.row}[
        direction
    ]


def mention(shape: Shape, rng: Random) -> str:
    return "stop sign" if shape.name == "red octagon" and rng.random() < 0.4 else shape.name


def reference(scene: Scene, shape: Shape, rng: Random) -> str:
    """A name for `shape` that fits no other: its kind alone where that is enough, sometimes."""
    if rng.random() < 0.4 and len(scene.find(kind=shape.kind)) == 1:
        return shape.kind
    return mention(shape, rng)


def a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def yes_or_no(yes: bool) -> str:
    return "Yes." if yes else "No."


def _often_present(present: Sequence[str], every: Sequence[str], rng: Random) -> str:
    return rng.choice(present) if rng.random() < 0.75 else rng.choice(every)


ASKS: dict[str, Ask] = {
    "shown": shown,
    "describe": describe,
    "colour": colour,
    "shape": shape,
    "count": count,
    "exists": exists,
    "where": where,
    "at": at,
    "size": size,
    "side": side,
    "compare": compare,
}
