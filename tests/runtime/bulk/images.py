"""A folder of generated images, some of them broken."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def write_images(folder: Path, number: int, *, broken: float = 0.03, seed: int = 0) -> list[str]:
    """`number` images, no two of them equal; returns the names of those that are broken."""
    rng = np.random.default_rng(seed)
    bad = set(rng.choice(number, round(number * broken), replace=False).tolist())
    names = []
    for i in range(number):
        path = folder / f"{i % 7}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (64, 64), tuple(rng.integers(0, 256, 3).tolist()))
        corner = rng.integers(0, 32, 2)
        ImageDraw.Draw(image).rectangle(
            (*corner.tolist(), *(corner + 24).tolist()), fill=tuple(rng.integers(0, 256, 3).tolist())
        )
        image.save(path)
        if i in bad:
            data = path.read_bytes()
            path.write_bytes((data[: len(data) // 2], b"", b"no image", data[8:])[i % 4])
            names.append(f"{i % 7}/{i:05}.png")
    return sorted(names)
