"""Draws the held-out set: `python -m pebble.heldout` writes `pebble/heldout/*.png` and `questions.jsonl`.

Its scenes have layouts that training never draws (`Scene.held_out`). The demo picture is written beside them.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from pebble.followups import CONVERSATIONS
from pebble.pairs import PAIR_ASKS, Pair, sample_pair
from pebble.questions import ASKS
from pebble.records import Record, Turn, save_records
from pebble.scenes import Scene, Shape, render, sample_scene

FOLDER = Path(__file__).parent / "heldout"
QUESTIONS = FOLDER / "questions.jsonl"
SEED = 2026
SCENES, PAIRS = 44, 20
TRIES = 30
"""Draws of a question before a scene is taken not to allow its kind."""
SIDE = 160
"""Pixels; the demo picture has more."""
DEMO_SIDE = 448


def demo_scene() -> Scene:
    """A stop sign among other shapes."""

    def shape(kind: str, colour: str, size: str, row: int, column: int) -> Shape:
        x, y = (column + 0.5) / 3, (row + 0.5) / 3
        return Shape(kind=kind, colour=colour, size=size, row=row, column=column, x=x, y=y)

    shapes = (
        shape("star", "yellow", "small", 0, 2),
        shape("octagon", "red", "large", 1, 1),
        shape("square", "blue", "large", 2, 0),
        shape("triangle", "green", "small", 2, 2),
    )
    return Scene(shapes=shapes, background="pale blue", noise=0.0, noise_seed=0)


def scene_records(number: int, scene: Scene, rng: Random) -> list[Record]:
    """A question of each kind that the scene allows, and a conversation of each kind."""
    name = f"scene-{number:02}"
    drawn: list[tuple[str, tuple[Turn, ...]]] = []
    for kind, ask in ASKS.items():
        turn = next((turn for _ in range(TRIES) if (turn := ask(scene, rng))), None)
        drawn += [(kind, (turn,))] if turn else []
    for kind, converse in CONVERSATIONS.items():
        turns = next((turns for _ in range(TRIES) if (turns := converse(scene, rng))), None)
        drawn += [(kind, turns)] if turns else []
    return [_record(f"{name}/{i:02}", kind, (f"{name}.png",), turns) for i, (kind, turns) in enumerate(drawn)]


def pair_records(number: int, pair: Pair, rng: Random) -> list[Record]:
    """Questions about two pictures, none twice."""
    name = f"pair-{number:02}"
    images = (f"{name}-a.png", f"{name}-b.png")
    asked = [(kind, ask(pair, rng)) for kind, ask in PAIR_ASKS.items() for _ in range(2)]
    drawn = {turn.question: (kind, turn) for kind, turn in asked if turn}
    return [_record(f"{name}/{i:02}", kind, images, (turn,)) for i, (kind, turn) in enumerate(drawn.values())]


def write() -> None:
    """Draw everything anew; the same seed gives the same files."""
    FOLDER.mkdir(exist_ok=True)
    records: list[Record] = []
    for number in range(SCENES):
        rng = Random(f"{SEED} held-out scene {number}")
        scene = sample_scene(rng, held_out=True)
        render(scene, SIDE).save(FOLDER / f"scene-{number:02}.png", optimize=True)
        records += scene_records(number, scene, rng)
    for number in range(PAIRS):
        rng = Random(f"{SEED} held-out pair {number}")
        pair = sample_pair(rng, held_out=True)
        for scene, letter in ((pair.first, "a"), (pair.second, "b")):
            render(scene, SIDE).save(FOLDER / f"pair-{number:02}-{letter}.png", optimize=True)
        records += pair_records(number, pair, rng)
    save_records(QUESTIONS, records)
    render(demo_scene(), DEMO_SIDE).save(FOLDER / "stop-sign.png", optimize=True)
    print(f"{len(records)} questions about {SCENES} scenes and {PAIRS} pairs in {FOLDER}")


def _record(name: str, kind: str, images: tuple[str, ...], turns: tuple[Turn, ...]) -> Record:
    return Record(id=name, kind=kind, images=images, turns=turns)


if __name__ == "__main__":
    write()
