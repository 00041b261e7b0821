"""Conversations of two turns: the second question can only be understood from the first.

A kind is again `(scene, rng) -> (Turn, Turn) | None`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pebble import questions
from pebble.records import Turn
from pebble.scenes import Scene, Shape

Converse = Callable[[Scene, Random], tuple[Turn, ...] | None]

WHICH = ("Which ones?", "What are they?", "Which shapes are they?")
WHERE_IT = ("Where is it?", "And where is it?")
SIZE_IT = ("Is it large or small?", "And how big is it?", "How big is it?")
COLOUR_IT = ("What color is it?", "And what colour is it?", "Which color does it have?")
KIND_IT = ("Which shape is it?", "And what shape is it?")


def about_it(scene: Scene, rng: Random) -> tuple[Turn, ...] | None:
    """A first turn that singles out one shape, then a question about "it"."""
    chosen = rng.choice(scene.shapes)
    opening = rng.choice((_opened_by_kind, _opened_by_colour, _opened_by_place))(scene, chosen, rng)
    if opening is None:
        return None
    first, known = opening
    return first, rng.choice([ask for ask in _ABOUT_IT if ask is not known])(chosen, rng)


def _where_it(chosen: Shape, rng: Random) -> Turn:
    return Turn(question=rng.choice(WHERE_IT), answer=f"It is {chosen.place}.")


def _size_it(chosen: Shape, rng: Random) -> Turn:
    return Turn(question=rng.choice(SIZE_IT), answer=f"It is {chosen.size}.")


def _colour_it(chosen: Shape, rng: Random) -> Turn:
    return Turn(question=rng.choice(COLOUR_IT), answer=f"It is {chosen.colour}.")


AskAboutIt = Callable[[Shape, Random], Turn]
_ABOUT_IT: tuple[AskAboutIt, ...] = (_where_it, _size_it, _colour_it)
Opening = tuple[Turn, AskAboutIt | None]


def _opened_by_kind(scene: Scene, chosen: Shape, rng: Random) -> Opening | None:
    if len(scene.find(kind=chosen.kind)) > 1:
        return None
    question = rng.choice(questions.EXISTS).format(thing=questions.a(chosen.kind))
    return Turn(question=question, answer="Yes."), None


def _opened_by_colour(scene: Scene, chosen: Shape, rng: Random) -> Opening | None:
    if len(scene.find(colour=chosen.colour)) > 1:
        return None
    question = rng.choice(questions.SHAPE).format(colour=chosen.colour)
    return Turn(question=question, answer=f"The {chosen.kind}."), _colour_it


def _opened_by_place(_scene: Scene, chosen: Shape, rng: Random) -> Opening | None:
    question = rng.choice(questions.AT).format(place=chosen.place)
    return Turn(question=question, answer=questions.sentence(questions.a(chosen.name))), _where_it


def which_ones(scene: Scene, rng: Random) -> tuple[Turn, ...] | None:
    """How many, then which. Asked of all shapes: the answer lists them in reading order."""
    question = rng.choice(questions.COUNT).format(things="shapes")
    first = Turn(question=question, answer=f"{questions.NUMBERS[len(scene.shapes)]}.")
    parts = [questions.a(shape.name) for shape in scene.shapes]
    return first, Turn(question=rng.choice(WHICH), answer=questions.sentence(questions.listed(parts)))


def another(scene: Scene, rng: Random) -> tuple[Turn, ...] | None:
    """A complete question after an unrelated first turn: history must not disturb it."""
    first, second = (rng.choice(_SHORT)(scene, rng) for _ in range(2))
    return (first, second) if first and second else None


_SHORT = (
    questions.colour,
    questions.shape,
    questions.count,
    questions.exists,
    questions.where,
    questions.size,
)

CONVERSATIONS: dict[str, Converse] = {
    "follow-up: it": about_it,
    "follow-up: which ones": which_ones,
    "follow-up: another": another,
}
