"""Prompts and pictures that a bundle is compared on where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pumice.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One prompt: either chat `messages`, or a raw `prompt` where a checkpoint has no chat template."""

    name: str
    images: tuple[Image.Image, ...]
    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str = ""


def default_probes(*, has_template: bool, image_token: str = "<image>") -> list[Probe]:
    """One picture, another shape of picture, two pictures, none, and a second turn."""
    wide, tall, small = picture(0, (320, 200)), picture(1, (120, 260)), picture(2, (31, 17))
    asked = [
        ("one picture", (wide,), ("What is shown in this picture?",)),
        ("tall picture", (tall,), ("Describe this picture in more detail.",)),
        ("tiny picture", (small,), ("Is there a red circle? Answer with yes or no.",)),
        ("two pictures", (wide, tall), ("What differs between the two pictures?",)),
        ("no picture", (), ("How many colours does a rainbow have?",)),
        ("second turn", (wide,), ("What colour is it?", "Red.", "And where is it?")),
    ]
    if has_template:
        return [Probe(name=n, images=i, messages=conversation(turns, len(i))) for n, i, turns in asked]
    return [Probe(name=n, images=i, prompt=image_token * len(i) + " ".join(turns)) for n, i, turns in asked]


def asked(question: str, paths: Sequence[Path]) -> Probe:
    """A user's own question about pictures from files.

    Raises:
        ImageError: a file that Pillow cannot read.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read {path} as a picture: {error}") from None
    return Probe(name="asked", images=tuple(images), messages=conversation([question], len(images)))


def conversation(turns: Sequence[str], images: int) -> tuple[dict[str, Any], ...]:
    """Messages of user and assistant by turns; the pictures belong to the first."""
    return tuple(
        {
            "role": ("user", "assistant")[index % 2],
            "content": [{"type": "image"}] * (images if index == 0 else 0) + [{"type": "text", "text": text}],
        }
        for index, text in enumerate(turns)
    )


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """A smooth random RGB picture of `size` (width, height) pixels: a few random colours, enlarged."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
