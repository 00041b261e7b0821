"""Prompts and images that a bundle is compared on: the user's own, or ours where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from pumice.errors import ImageError
from pumice.export.calibration.drawn import drawn_image


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A conversation: `turns` of user and assistant, the user's first and last; images and videos are the first's."""

    name: str
    turns: tuple[str, ...]
    images: tuple[Image.Image, ...] = ()
    videos: tuple[tuple[Image.Image, ...], ...] = ()

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """In the form that chat templates take, with the images in their places."""
        return tuple(
            {
                "role": ("user", "assistant")[index % 2],
                "content": [
                    *({"type": "image", "image": image} for image in (() if index else self.images)),
                    *({"type": "video", "video": list(video)} for video in (() if index else self.videos)),
                    {"type": "text", "text": text},
                ],
            }
            for index, text in enumerate(self.turns)
        )

    def raw(self, image_token: str, video_token: str = "") -> str:
        """In plain words, for a checkpoint without chat template."""
        return image_token * len(self.images) + video_token * len(self.videos) + " ".join(self.turns)


def default_probes(*, videos: bool = False) -> list[Probe]:
    """One image, other shapes of image, two images, none, and a second turn; with `videos` two more."""
    wide, tall, small = drawn_image(0, (320, 200)), drawn_image(1, (120, 260)), drawn_image(2, (31, 17))
    asked = [
        ("one image", (wide,), ("What is shown in this picture?",)),
        ("tall image", (tall,), ("Describe this picture in more detail.",)),
        ("tiny image", (small,), ("Is there a red circle? Answer with yes or no.",)),
        ("two images", (wide, tall), ("What differs between the two pictures?",)),
        ("no image", (), ("How many colours does a rainbow have?",)),
        ("second turn", (wide,), ("What colour is it?", "Red.", "And where is it?")),
    ]
    probes = [Probe(name=name, images=images, turns=turns) for name, images, turns in asked]
    if videos:
        clip = tuple(drawn_image(3 + number, (90, 70)) for number in range(3))
        probes += [
            Probe(name="a video", turns=("What happens in this video?",), videos=(clip,)),
            Probe(name="image and video", turns=("Is it in both?",), images=(tall,), videos=(clip[::-1],)),
        ]
    return probes


def own_probes(questions: Sequence[tuple[str, Sequence[Path]]]) -> list[Probe]:
    """A user's own questions, each about images from files.

    Raises:
        ImageError: a file that Pillow cannot read.
    """
    name = "asked" if len(questions) == 1 else "asked {}"
    return [
        Probe(name=name.format(number), turns=(question,), images=tuple(_opened(path) for path in paths))
        for number, (question, paths) in enumerate(questions, 1)
    ]


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"cannot read {path} as an image: {error}") from None
