"""A question about images, answered by onnxruntime-genai from a pumice bundle, without pumice.

    pip install onnxruntime-genai jinja2 numpy pillow
    python answer.py BUNDLE "What is this?" image.png …

genai has no type for LLaVA: the bundle calls itself a gemma3, whose graphs have the same inputs and outputs. What genai
would write into a prompt for a Gemma is passed over; its tokenizer is used, and where they are right the pixels of its
image processor.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime_genai as og
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image, ImageOps

Size = tuple[int, int]
"""(height, width) of an image's pixels."""


class Client:
    """An opened bundle."""

    def __init__(self, bundle: Path) -> None:
        self.manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.template = (bundle / "chat_template.jinja").read_text(encoding="utf-8")
        self.model = og.Model(str(bundle))
        self.tokenizer = og.Tokenizer(self.model)
        processor = (bundle / "genai_processor.json").is_file()
        self.processor = self.model.create_multimodal_processor() if processor else None

    def prompt(self, question: str, images: int) -> str:
        """The chat template's text, with one placeholder for each image."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", self.template)
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
        return environment.from_string(source).render(
            messages=[{"role": "user", "content": content}],
            add_generation_prompt=True,
            raise_exception=_refuse,
            strftime_now=lambda form: datetime.now().strftime(form),
            **{name: text for name, text in self.manifest["tokens"].items() if name.endswith("_token")},
        )

    def ids(self, prompt: str, sizes: Sequence[Size]) -> list[int]:
        """With as many image tokens for each image as it has features."""
        bos = self.manifest["tokens"]["bos_token"]
        # some templates write <s> themselves; else it would be missing
        begun = bos is not None and prompt.startswith(bos)
        self.tokenizer.update_options(add_special_tokens="false" if begun else "true")
        first, *others = prompt.split(self.manifest["image_tokens"]["token"])
        expanded = first + "".join(self._marks(size) + text for size, text in zip(sizes, others, strict=True))
        return [int(token) for token in self.tokenizer.encode(expanded)]

    def _marks(self, size: Size) -> str:
        """What stands for an image: a token for each patch, row by row, where images are of any size."""
        marks = self.manifest["image_tokens"]
        if marks["per_image"] is not None:
            return str(marks["token"] * marks["per_image"])
        lines, width = (side // marks["patch_size"] for side in size)
        line = marks["token"] * width
        return str((line + marks["break_token"]) * (lines - 1) + line + marks["end_token"])

    def pixels(self, files: Sequence[Path]) -> np.ndarray:
        """float32 [images, 3, height, width].

        genai's image processor is right where images become one size whatever their aspect; elsewhere Pillow is.
        """
        if self.processor is not None and self.manifest["image"]["resize_to"] is not None:
            return self.processor_pixels(files)
        return np.stack([pillow_pixels(file, self.manifest["image"]) for file in files])

    def processor_pixels(self, files: Sequence[Path]) -> np.ndarray:
        """By genai's own image processor."""
        assert self.processor is not None, "this bundle's images are prepared by the caller"
        images = og.Images.open(*map(str, files))
        return self.processor("<start_of_image>" * len(files), images=images)["pixel_values"].as_numpy()

    def stream(self, ids: Sequence[int], pixels: np.ndarray | None, most: int) -> Iterator[int]:
        """Greedy tokens, one by one. `pixels` are float32 [images, 3, height, width]."""
        inputs = og.NamedTensors()
        inputs["input_ids"] = np.array([ids], np.int32)  # int64 is silently read wrongly
        if pixels is not None:
            features = list(ids).count(self.manifest["image_tokens"]["token_id"])
            inputs["pixel_values"] = pixels
            inputs["num_image_tokens"] = np.array([features], np.int64)  # without it answers are garbage
        params = og.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, max_length=len(ids) + most)
        generator = og.Generator(self.model, params)
        generator.set_inputs(inputs)
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def pillow_pixels(file: Path, steps: dict[str, Any]) -> np.ndarray:
    """An image as float32 [3, height, width], by the `image` of a manifest (docs/bundle-format.md)."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    width, height = image.size
    if steps["resize_to"] is not None:
        height, width = steps["resize_to"]
    elif edge := steps["resize_shortest_edge"]:
        short = min(height, width)
        height, width = (edge if side == short else int(edge * side / short) for side in (height, width))
    elif edge := steps["resize_longest_edge"]:
        ratio, patch = max(1.0, height / edge, width / edge), steps["multiple_of"]
        height, width = (-(-int(side / ratio) // patch) * patch for side in (height, width))
    image = image.resize((width, height), steps["resample"])
    if steps["crop_to"] is not None:
        tall, wide = steps["crop_to"]
        left, top = (width - wide) // 2, (height - tall) // 2
        image = image.crop((left, top, left + wide, top + tall))
    values = np.asarray(image).transpose(2, 0, 1)
    if steps["rescale_factor"] is not None:
        values = (values * steps["rescale_factor"]).astype(np.float32)
    if steps["mean"] is not None:
        mean, std = (np.array(steps[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
        values = (values - mean) / std
    return np.ascontiguousarray(values, np.float32)


def _refuse(message: str) -> NoReturn:
    """What templates call on messages that they do not take."""
    raise ValueError(message)


def main(bundle: str, question: str, *images: str) -> None:
    """Print the answer while it comes."""
    client = Client(Path(bundle))
    pixels = client.pixels([Path(image) for image in images]) if images else None
    sizes = [] if pixels is None else [pixels.shape[2:]] * len(images)
    ids = client.ids(client.prompt(question, len(images)), sizes)
    decoder = client.tokenizer.create_stream()
    for token in client.stream(ids, pixels, 256):
        print(decoder.decode(token), end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit('usage: python answer.py BUNDLE "QUESTION" [IMAGE …]')
    main(*sys.argv[1:])
