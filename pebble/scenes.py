"""Scenes of coloured shapes: a seeded random generator in, a frozen `Scene` or a picture of it out.

A scene lives on the unit square, divided into a 3x3 grid of cells with at most one shape each. That is what keeps
questions unambiguous: shapes in different rows or columns are well apart, and no two share both colour and kind.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "octagon", "star", "cross")
COLOURS = {
    "red": (205, 35, 40),
    "orange": (245, 135, 25),
    "yellow": (245, 210, 35),
    "green": (40, 150, 65),
    "blue": (40, 85, 205),
    "purple": (140, 50, 165),
    "black": (30, 30, 34),
}
SIZES = {"small": 0.095, "large": 0.150}  # radius, as a fraction of the picture's side
BACKGROUNDS = {
    "white": (250, 250, 248),
    "grey": (176, 178, 182),
    "beige": (232, 216, 186),
    "pale blue": (188, 212, 234),
    "pale green": (192, 224, 192),
}
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the center", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
HELD_OUT_SHARE = 16  # one layout in this many is kept from training
SUPERSAMPLING = 3
NOISE_GRID = 64  # noise is drawn at this resolution and enlarged, so that it survives resizing
CELL_MARGIN = 0.012  # least distance between a shape and the edge of its cell

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape: what it is, which grid cell it lies in, and its exact centre on the unit square."""

    kind: str
    colour: str
    size: str
    row: int
    column: int
    x: float
    y: float
    tint: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def place(self) -> str:
        return PLACES[self.row][self.column]

    @property
    def radius(self) -> float:
        return SIZES[self.size]

    @property
    def layout(self) -> str:
        return f"{self.size} {self.name} {self.row}{self.column}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Shapes in reading order (row by row, left to right) on a background; `noise` is a deviation in grey levels."""

    shapes: tuple[Shape, ...]
    background: str
    noise: float
    noise_seed: int

    @property
    def key(self) -> str:
        """What is in the picture and where, without jitter and background: equal keys, equal questions."""
        return "; ".join(shape.layout for shape in self.shapes)

    @property
    def held_out(self) -> bool:
        """Whether training never sees this layout. Decided by the layout alone, so that the two sets cannot meet."""
        return zlib.crc32(self.key.encode()) % HELD_OUT_SHARE == 0

    def find(self, *, kind: str | None = None, colour: str | None = None) -> list[Shape]:
        return [
            shape for shape in self.shapes if kind in (None, shape.kind) and colour in (None, shape.colour)
        ]


def sample_scene(rng: Random, *, held_out: bool = False, most: int = 5) -> Scene:
    """Draw a scene of one to `most` shapes from the training layouts, or from the held-out ones."""
    while True:
        scene = _sample_any(rng, rng.randint(1, most))
        if scene.held_out == held_out:
            return scene


def _sample_any(rng: Random, count: int) -> Scene:
    shapes: list[Shape] = []
    for cell in rng.sample(range(9), count):
        shapes.append(sample_shape(rng, cell, {shape.name for shape in shapes}))
    return Scene(
        shapes=in_reading_order(shapes),
        background=rng.choice(list(BACKGROUNDS)),
        noise=rng.choice((0.0, rng.uniform(4.0, 20.0))),
        noise_seed=rng.getrandbits(32),
    )


def sample_shape(rng: Random, cell: int, taken: set[str]) -> Shape:
    """A shape for grid cell 0..8 whose colour and kind together are not in `taken`."""
    row, column = divmod(cell, 3)
    size = rng.choice(list(SIZES))
    play = 1 / 6 - SIZES[size] - CELL_MARGIN
    kind, colour = _free_combination(rng, taken)
    return Shape(
        kind=kind,
        colour=colour,
        size=size,
        row=row,
        column=column,
        x=round((column + 0.5) / 3 + rng.uniform(-play, play), 4),
        y=round((row + 0.5) / 3 + rng.uniform(-play, play), 4),
        tint=(rng.randint(-12, 12), rng.randint(-12, 12), rng.randint(-12, 12)),
    )


def _free_combination(rng: Random, taken: set[str]) -> tuple[str, str]:
    while True:
        # Red octagons are made more common: stop signs have questions of their own.
        kind, colour = (
            ("octagon", "red") if rng.random() < 0.08 else (rng.choice(KINDS), rng.choice(list(COLOURS)))
        )
        if f"{colour} {kind}" not in taken:
            return kind, colour


def in_reading_order(shapes: list[Shape]) -> tuple[Shape, ...]:
    return tuple(sorted(shapes, key=lambda shape: (shape.row, shape.column)))


def render(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB picture of `size` pixels a side."""
    canvas = Image.new("RGB", (size * SUPERSAMPLING,) * 2, BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(canvas)
    for shape in scene.shapes:
        _draw_shape(draw, shape, size * SUPERSAMPLING)
    picture = canvas.reduce(SUPERSAMPLING)
    return _with_noise(picture, scene) if scene.noise else picture


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, side: int) -> None:
    red, green, blue = (
        min(255, max(0, base + tint)) for base, tint in zip(COLOURS[shape.colour], shape.tint, strict=True)
    )
    fill = (red, green, blue)

    def polygon(scale: float, colour: tuple[int, int, int]) -> None:
        points = [
            ((shape.x + x * shape.radius * scale) * side, (shape.y + y * shape.radius * scale) * side)
            for x, y in outline(shape.kind)
        ]
        draw.polygon(points, fill=colour)

    polygon(1.0, fill)
    if shape.kind == "octagon":  # the white rim of a stop sign, which also tells small octagons from circles
        polygon(0.86, (255, 255, 255))
        polygon(0.72, fill)


def outline(kind: str) -> list[Point]:
    """Corners of a shape of radius 1 around the origin; y points down."""
    return list(_OUTLINES[kind])


def _ring(count: int, turn: float, radii: tuple[float, ...] = (1.0,)) -> Iterator[Point]:
    for i in range(count):
        angle, radius = math.tau * i / count + turn, radii[i % len(radii)]
        yield radius * math.sin(angle), -radius * math.cos(angle)


_ARM = 0.34  # half the width of a cross's arms
_QUARTER = ((_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM))
_OUTLINES: dict[str, tuple[Point, ...]] = {
    "circle": tuple(_ring(72, 0.0)),
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)),
    "octagon": tuple(_ring(8, math.pi / 8)),
    "star": tuple(_ring(10, 0.0, (1.0, 0.42))),
    "cross": (
        *_QUARTER,
        *((-y, x) for x, y in _QUARTER),
        *((-x, -y) for x, y in _QUARTER),
        *((y, -x) for x, y in _QUARTER),
    ),
}


def _with_noise(picture: Image.Image, scene: Scene) -> Image.Image:
    rng = np.random.default_rng(scene.noise_seed)
    grid = rng.normal(0.0, scene.noise, (NOISE_GRID, NOISE_GRID)).astype(np.float32)
    grain = Image.fromarray(grid).resize(picture.size, Image.Resampling.BICUBIC)
    noisy = np.asarray(picture, np.float32) + np.asarray(grain)[..., None]
    return Image.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))
