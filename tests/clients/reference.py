"""What pumice makes of ten questions, written for clients to be compared with.

Enters: a bundle. Leaves: `cases.json` (question, images, ids, greedy tokens) and a file of float32 pixels a case, image
by image; `shape` is that of all where they are alike.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import pumice

HELDOUT = Path(__file__).parents[2] / "pebble" / "heldout"
NEW_TOKENS = 40
CASES = (
    (("stop-sign",), "Describe the picture in detail."),
    (("stop-sign",), "Where is the stop sign?"),
    (("scene-00",), "What do you see?"),
    (("scene-00",), "Which color does the cross have?"),
    (("scene-13",), "Describe the picture in detail."),
    (("scene-31",), "How many shapes are there?"),
    (("wide",), "What do you see?"),
    (("tall",), "Describe the picture in detail."),
    (("pair-00-a", "pair-00-b"), "Which picture has more shapes?"),
    ((), "What do you see?"),
)


def image_file(name: str, folder: Path) -> Path:
    """An image of pebble's held-out set, or one that is not square."""
    sizes = {"wide": (321, 215), "tall": (217, 403)}
    if name not in sizes:
        return HELDOUT / f"{name}.png"
    path = folder / f"{name}.png"
    Image.open(HELDOUT / "scene-00.png").convert("RGB").resize(sizes[name]).save(path)
    return path


def write_cases(bundle: Path, folder: Path) -> list[dict[str, Any]]:
    """Ask pumice everything, on the CPU with one thread."""
    folder.mkdir(parents=True)
    model = pumice.load(bundle, device="cpu", threads=1)
    cases = []
    for number, (names, question) in enumerate(CASES):
        images = [image_file(name, folder) for name in names]
        prepared = model.prepare(question, list(images))
        case: dict[str, Any] = {"question": question, "images": [str(image) for image in images]}
        case |= {"pixels": None, "shape": None, "most": NEW_TOKENS}
        if images:
            arrays = [np.asarray(pixels, np.float32) for pixels in prepared.pixel_arrays]
            np.concatenate([pixels.ravel() for pixels in arrays]).tofile(folder / f"{number}.pixels")
            case |= {"pixels": f"{number}.pixels", "shape": [len(arrays), *arrays[0].shape]}
        answer = model.generate(question, list(images), max_new_tokens=NEW_TOKENS, do_sample=False)
        case |= {"ids": prepared.input_ids[0].tolist(), "tokens": list(answer.token_ids)}
        cases.append(case)
    (folder / "cases.json").write_text(json.dumps(cases))
    return cases
